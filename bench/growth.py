"""What a call costs as things grow: journal, tasks stored, tools granted, calls in flight.

    python bench/growth.py journal|tasks|tools|open N

Prints, for one call of the application in this process (no server, no HTTP client, SQLite), the instructions of Python,
which no busy machine disturbs, and microseconds of CPU, the least of many batches. Under
`valgrind --tool=callgrind --instr-atstart=no` `--callgrind CALLS` has it count the processor's instructions of so many
calls. Owns the measurement. Refuses to judge it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hotpath import CONFIG, chat
from inprocess import LIMITS, AtOnce, call

from buspass.http.compose import Application, composed
from buspass.journal.seals import SEAL_EVERY
from buspass.ports.outbound import Request, Response

DIMENSIONS = {"journal": (10, 10_000), "tasks": (10, 10_000), "tools": (10, 5_000), "open": (1, 64)}
HELD = "wait for it"
COUNTED = 10
COUNTED_TO = 1_000
"""The largest that callgrind counts: under it a larger store takes many minutes to fill."""


class Waiting(AtOnce):
    """Answers at once, but for the calls that ask to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go, self.come = asyncio.Event(), asyncio.Semaphore(0)

    async def send(self, request: Request) -> Response:
        if HELD.encode() in (request.body or b""):
            self.come.release()
            await self.let_go.wait()
        return await super().send(request)


def configuration(tools: int) -> str:
    text = CONFIG.format(upstream="http://127.0.0.1:9", durability="process", more="")
    if tools == 1:
        return text
    names = [f"t{number}" for number in range(1, tools)]  # a file holds 1 MiB and 50,000 values, so some 7,000 tools
    tool = "{http: {method: POST, url: 'http://127.0.0.1:9/t'}, input: {type: object}}"
    more = "".join(f"  {name}: {tool}\n" for name in names)
    text = text.replace("workflows:\n", more + "workflows:\n")
    return text.replace("tools: [look]", f"tools: [look, {', '.join(names)}]")


async def grown(application: Application, workload: str, dimension: str, size: int, outbound: Waiting) -> Any:
    """Have the size, and give a call to measure with the tasks that wait."""

    async def task() -> str:
        return str(json.loads((await call(application, "/v1/tasks", workload, {"workflow": "bench"}))[1])["token"])

    token, waiting = await task(), []

    async def one(document: Any = None) -> None:
        status, said = await call(application, "/v1/chat/completions", token, document or chat(600))
        assert status == 200, said

    if dimension == "tasks":
        for _ in range(0, size, 25):
            await asyncio.gather(*(task() for _ in range(min(25, size))))
    if dimension == "journal":
        for _ in range(0, size, 25):
            await asyncio.gather(*(one() for _ in range(min(25, size))))
    if dimension == "open":
        document = chat(600) | {"messages": [{"role": "user", "content": HELD}]}
        waiting = [asyncio.create_task(one(document)) for _ in range(size - 1)]
        for _ in waiting:
            await outbound.come.acquire()
    return one, waiting


def counted(spend: Any) -> Any:
    """How many of Python's instructions an awaitable takes, and the call to begin with."""
    monitoring, tool, seen = sys.monitoring, sys.monitoring.PROFILER_ID, [0]

    def saw(_code: Any, _at: int) -> None:
        seen[0] += 1

    async def run() -> float:
        monitoring.use_tool_id(tool, "instructions")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, saw)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        for _ in range(COUNTED):
            await spend()
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
        return seen[0] / COUNTED

    return run()


def told(*arguments: str) -> None:
    """Tell callgrind something, hardly ever asleep meanwhile: it hears only a process that runs."""
    process = subprocess.Popen(["callgrind_control", *arguments, str(os.getpid())], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.02)


async def run(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    (folder / "buspass.yaml").write_text(configuration(options.size if options.dimension == "tools" else 1))
    environ = {"BUSPASS_CONFIG": str(folder / "buspass.yaml"), "BUSPASS_DATA": str(folder / "data"), "UP_KEY": "k" * 24}
    outbound = Waiting()
    application = await composed(environ, LIMITS, outbound=outbound)
    workload = await application.mint_workload("bench")
    one, waiting = await grown(application, workload, options.dimension, options.size, outbound)
    for _ in range(20):
        await one()
    found: dict[str, float] = {}
    if options.callgrind:
        told("-i", "on")
        for _ in range(options.callgrind):
            await one()
        told("-i", "off")
    else:
        least = float("inf")
        for _ in range(options.batches):
            began = time.process_time_ns()
            for _ in range(20):
                await one()
            least = min(least, (time.process_time_ns() - began) / 20_000)
        found = {"cpu_us": round(least, 1), "python_instructions": await counted(one)}
    outbound.let_go.set()
    await asyncio.gather(*waiting)
    await application.close()
    return found


def growth(sizes: int, *, quick: bool) -> list[dict[str, Any]]:
    """A row for each dimension and size, each in a process of its own. `sizes`: the most of everything but calls."""
    rows = []
    for dimension, (least, most) in DIMENSIONS.items():
        ends = [least, min(most, sizes)] if quick or dimension == "open" else [least, 1000, min(most, sizes)]
        for size in sorted(set(ends)):
            command = [sys.executable, __file__, dimension, str(size)]
            row: dict[str, Any] = {"dimension": dimension, "size": size}
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
            row |= json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.strip()[-200:]}
            if size <= COUNTED_TO and not quick:
                row["instructions"] = instructions(dimension, size)
            rows.append(row)
    return rows


def instructions(dimension: str, size: int) -> float | None:
    """The processor's instructions of a call, by callgrind: of many calls less those of few. None where it fails.

    As the journal grows, of as many calls as there are to a seal, so that each count has one: of fewer it would fall
    into one count and not into the other.
    """
    few = 5
    many = few + (SEAL_EVERY if dimension == "journal" else 20)
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null", sys.executable]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, __file__, dimension, str(size), "--callgrind", str(calls)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for calls in (few, many)
        ]
        said = [process.communicate()[1] for process in running]
    found = [int(each[1]) for text in said if (each := re.search(r"Collected : (\d+)", text))]
    if len(found) < len(said):
        return None
    return round((found[1] - found[0]) / (many - few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dimension", choices=DIMENSIONS)
    parser.add_argument("size", type=int)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--callgrind", type=int, default=0, metavar="CALLS")
    with tempfile.TemporaryDirectory(prefix="buspass-bench-") as name:
        print(json.dumps(asyncio.run(run(parser.parse_args(), Path(name)))))


if __name__ == "__main__":
    main()
