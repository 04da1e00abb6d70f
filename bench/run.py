"""The bench: everything side by side in one run, written to bench/results.json as it goes, then docs/benchmarks.md.

    make bench [ARGS="--quick"] [ARGS="--only rate,latency"]

Owns the order, the machine's line and the file. A part named with --only replaces its own figures, and no others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import page
import peers
from awake import awake
from growth import growth
from held import Held
from hotpath import answer, stream
from interpreter import CHECKOUT, built, enter
from measure import WARMTH, once, resident, spread, turns
from race import BUDGET, cost, race, size
from sides import GATEWAY, LOAD, Side, bare, buspass, pinned
from starts import starts

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
OTHER = "buspass, checkout's Python"
"""The gateway on the interpreter that the bench was started on, for comparison, at 32 connections."""
MEMORY, STREAMS, VARIED = 10_000, 1_000, 1_100
"""Calls before memory is read; streams open at once; prompts of as many sizes, more than decisions are kept."""


class Bench:
    """The running sides and the results so far."""

    def __init__(self, arguments: argparse.Namespace, load: Held, folder: Path) -> None:
        self.arguments, self.load, self.folder = arguments, load, folder
        self.seconds: float = 0.3 if arguments.quick else arguments.seconds
        self.rounds: int = 2 if arguments.quick else arguments.rounds
        self.warmth = 0.0 if arguments.quick else WARMTH
        self.results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.sides: dict[str, Side] = {}

    def some(self, *names: str) -> list[Side]:
        return [self.sides[name] for name in names if name in self.sides]

    def all(self) -> list[Side]:
        return [side for name, side in self.sides.items() if name not in {"upstream alone", OTHER}]

    def quick_ones(self) -> list[Side]:
        """All but the one that would take minutes for a turn here."""
        return [side for side in self.all() if side.name != "litellm, key and budget"]

    def turns(self, sides: list[Side], connections: int, *, times: float = 1, **what: Any) -> list[dict[str, Any]]:
        return turns(
            self.load,
            sides,
            connections=connections,
            seconds=times * self.seconds,
            rounds=self.rounds,
            warmth=self.warmth,
            **what,
        )

    def rate(self) -> Any:
        return self.turns([*self.all(), *self.some(OTHER)], 32, times=3)

    def decisions(self) -> Any:
        sides = self.some("buspass", "buspass, Rego")
        return [row | {"prompts": prompts} for prompts in (1, VARIED) for row in self.turns(sides, 32, varied=prompts)]

    def latency(self) -> Any:
        commits: list[dict[str, float]] = []

        def bare_commits() -> None:
            with pinned(GATEWAY):
                command = [sys.executable, str(HERE / "commits.py"), str(self.folder), "300"]
                commits.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))

        sides = [self.sides["upstream alone"], *self.all()]
        rows = self.turns(sides, 1, between=bare_commits)
        told = {mode: spread([each[mode] for each in commits]) for mode in commits[0]}
        return {"rows": rows, "bare_commit_us": told}

    def asleep(self) -> Any:
        """Give one call and one stream at a time once more, on processors that may sleep."""
        sides = self.some("upstream alone", "bare", "buspass", "buspass, process", "portkey")
        return self.turns(sides, 1) + self.turns([side for side in sides if side.streams], 1, stream=True)

    def memory(self) -> Any:
        rows = []
        for side in self.some("buspass", "buspass, Rego"):
            requests = side.requests(32)
            while not self.arguments.quick and side.calls < MEMORY:
                once(self.load, side, requests, min(2000, max(64, MEMORY - side.calls)))
            rows.append({"side": side.name, "calls": side.calls, "resident_mb": round(resident(side.pid), 1)})
        others = [side for side in self.all() if not side.workload]
        rows += [{"side": s.name, "calls": s.calls, "resident_mb": round(resident(s.pid), 1)} for s in others]
        return rows

    def first(self) -> Any:
        sides = [self.sides["upstream alone"], *self.all()]
        return self.turns([side for side in sides if side.streams], 1, stream=True)

    def race(self) -> Any:
        tokens = size(self.sides["buspass"])
        rows = []
        for bounded in (True, False):
            for side in self.some("buspass", "buspass, Rego"):
                budgeted = side.task({"workflow": "bench", "budget": {"tokens": BUDGET * tokens}})
                if bounded:
                    rows.append(race(self.load, side, tokens, budgeted=budgeted))
            for side in self.some("litellm, key and budget"):
                assert side.folder is not None
                (side.folder / "budget").write_text(str(BUDGET * cost(tokens)))
                rows.append(race(self.load, side, tokens, budgeted=f"sk-race-{bounded}-0123456789", bounded=bounded))
        return {"tokens_a_call": tokens, "rows": rows}

    def starts(self) -> Any:
        folder = self.folder / "starts"
        folder.mkdir()
        return starts(folder, 1 if self.arguments.quick else 4)

    def many(self) -> Any:
        return self.turns(self.quick_ones(), 256)

    def sizes(self) -> Any:
        return [row for size in (20_000, 400_000) for row in self.turns(self.quick_ones(), 32, size=size)]

    def streams(self) -> Any:
        rows = []
        for side in self.some("buspass", "buspass, Rego"):
            count = 100 if self.arguments.quick else STREAMS
            before = resident(side.pid)
            requests = side.requests(count, stream=True)
            result, _ = self.load.burst(side.port, requests, quiet=10)
            rows.append({
                "side": side.name, "asked": count, "statuses": {k.decode(): n for k, n in result.statuses.items()},
                "ended": len(result.whole), "seconds": round(result.seconds, 2),
                "ttft_ms": spread([took / 1e6 for took in result.first]) if result.first else None,
                "resident_mb": [round(before, 1), round(resident(side.pid), 1)],
            })  # fmt: skip
        return rows

    def tools(self) -> Any:
        return self.turns(self.some("bare", "buspass", "buspass, Rego"), 32, tool=True)

    def growth(self) -> Any:
        return growth(100 if self.arguments.quick else 10_000, quick=self.arguments.quick)

    def run(self, names: list[str]) -> None:
        self.results.setdefault("parts", {})
        for name in names:
            began, before = time.time(), os.getloadavg()
            try:
                with contextlib.nullcontext(False) if name == "asleep" else awake() as kept:
                    part: dict[str, Any] = {"found": getattr(self, name)(), "awake": kept}
            except Exception as error:  # noqa: BLE001 - one part that fails must not lose the others
                traceback.print_exc()
                part = {"failed": f"{type(error).__name__}: {error}"[:300]}
                self.load.drop()
            part |= {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                "took_s": round(time.time() - began, 1),
                "load_average": [round(before[0], 1), round(os.getloadavg()[0], 1)],
                "quick": self.arguments.quick,
            }
            self.results["parts"][name] = part
            if RESULTS.exists():  # another run of other parts may have ended meanwhile
                self.results["parts"] = json.loads(RESULTS.read_text())["parts"] | self.results["parts"]
            RESULTS.write_text(json.dumps(self.results, indent=1) + "\n")
            print(f"{name}: {part['took_s']} s, load {part['load_average']} {part.get('failed', '')}", flush=True)


PARTS = (
    "rate", "latency", "first", "asleep", "memory", "race", "starts", "tools", "decisions", "streams", "many", "sizes",
    "growth",
)  # fmt: skip
ALONE = {"starts", "growth"}
"""These start what they measure."""


def machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(), "cpu": model, "memory_gib": round(memory, 1), "kernel": platform.release(),
        "python": platform.python_version(), "interpreter": built(),
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


@contextlib.contextmanager
def running(load: Held, folder: Path, wanted: set[str]) -> Iterator[dict[str, Side]]:
    """Everything at once: who starts slowly does so beside the others."""
    make: dict[str, Callable[[], contextlib.AbstractContextManager[Side]]] = {
        "bare": lambda: bare(load.upstream, folder),
        "buspass": lambda: buspass("buspass", load.upstream, folder),
        "buspass, Rego": lambda: buspass("buspass, Rego", load.upstream, folder, rego=True),
        "buspass, process": lambda: buspass("buspass, process", load.upstream, folder, durability="process"),
        OTHER: lambda: buspass(OTHER, load.upstream, folder, python=os.environ[CHECKOUT]),
        "portkey": lambda: peers.portkey(load.upstream, folder),
        "litellm": lambda: peers.litellm("litellm", load.upstream, folder),
        "litellm, key and budget": lambda: peers.litellm(
            "litellm, key and budget", load.upstream, folder, governed=True
        ),
    }
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(make)) as threads:
        port = int(load.upstream.rsplit(":", 1)[1])
        sides = {"upstream alone": Side(name="upstream alone", port=port, pid=os.getpid())}

        def enter(name: str) -> Side | None:
            try:
                return stack.enter_context(make[name]())
            except (AssertionError, OSError) as error:
                print(f"{name} did not start: {error}", file=sys.stderr)
                return None

        names = [name for name in make if (not wanted or name in wanted) and (name != OTHER or CHECKOUT in os.environ)]
        came = zip(names, list(threads.map(enter, names)), strict=True)
        yield sides | {name: side for name, side in came if side is not None}


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short turns, fewer rounds: to see that it runs")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of each turn; three times as many where the goals are"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), metavar="PART,…")
    parser.add_argument("--sides", type=lambda text: set(text.split(";")), default=set(), metavar="NAME;…")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of()
    enter()
    os.sched_setaffinity(0, {LOAD})
    load = Held(answer(), stream())
    versions = peers.install() | {name: version(name) for name in ("granian", "pyreqwest", "uvicorn", "regopy")}
    with tempfile.TemporaryDirectory(prefix="buspass-bench-") as name:
        bench = Bench(arguments, load, Path(name))
        bench.results |= {"machine": machine(), "versions": versions}
        with_sides = [part for part in arguments.only if part not in ALONE]
        if with_sides:
            with running(load, Path(name), arguments.sides) as bench.sides:
                bench.run([part for part in arguments.only if part != "growth"])
        bench.run([part for part in arguments.only if part == "growth" or not with_sides])
    page.write(bench.results)


if __name__ == "__main__":
    main()
