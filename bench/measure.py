"""Sides taking turns under the same load, and what each of them took for it.

Owns one measurement and its least, middle and most over the rounds. Refuses to know what a side is.
"""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from held import Held
from hotpath import cpu, stations
from load import Result
from sides import Side

PAGE = os.sysconf("SC_PAGESIZE")
TURN, TIRED, WARMTH = 0.5, 4, 20.0
"""Seconds of a turn of warming up; turns in a row that bring nothing more; seconds at the most."""


class Unanswered(Exception):  # noqa: N818 - what it says is what came instead
    """A side that answers other than 200 is not measured; the text says what it answered."""


def spread(values: Sequence[float]) -> list[float]:
    """Least, middle and most, to four digits."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def resident(pid: int) -> float:
    """MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def once(load: Held, side: Side, requests: list[bytes], calls: int) -> tuple[dict[str, float], Result]:
    before, mine = cpu(side.pid), spent()
    result = load.run(side.port, requests, calls)
    mine, after = spent() - mine, cpu(side.pid)
    side.calls += calls
    took = sum(ran - before.get(name, 0) for name, ran in after.items())
    ordered = sorted(result.whole)
    return {
        "rps": calls / result.seconds,
        "cpu_us": took / calls / 1000,
        "p50_ms": statistics.median(ordered) / 1e6,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1e6,
        "ttft_p50_ms": statistics.median(result.first) / 1e6,
        "load_busy": mine / result.seconds,
    }, result


def turns(
    load: Held,
    sides: Sequence[Side],
    *,
    connections: int,
    seconds: float,
    rounds: int,
    warmth: float = WARMTH,
    between: Callable[[], None] | None = None,
    varied: int = 0,
    **what: Any,
) -> list[dict[str, Any]]:
    """Measure each side, once it is warm, `rounds` times for about so many seconds, in turns; a row each.

    `between` runs before each round. With `varied` the connections take turns through so many prompts of as many sizes.
    """
    ready: list[tuple[Side, list[bytes], int]] = []
    rows: dict[str, dict[str, Any]] = {}
    for side in sides:
        requests = side.requests(connections, **what)
        rows[side.name] = {"side": side.name, "connections": connections, **what}
        try:
            ready.append((side, requests, _calls(load, side, requests, seconds, warmth)))
        except (OSError, Unanswered) as error:
            load.drop()
            rows[side.name]["failed"] = f"{type(error).__name__}: {error}"[:200]
    found: dict[str, list[dict[str, float]]] = {side.name: [] for side, _, _ in ready}
    cycles = {side.name: itertools.cycle([side.request(n, size=600 + n) for n in range(varied)]) for side in sides}
    for _ in range(rounds):
        if between is not None:
            between()
        for side, requests, calls in [each for each in ready if "failed" not in rows[each[0].name]]:
            load.cycle = cycles[side.name] if varied else None
            try:
                measured, result = once(load, side, requests, calls)
            except OSError as error:
                load.drop()
                rows[side.name]["failed"] = f"{type(error).__name__}: {error}"[:200]
                continue
            finally:
                load.cycle = None
            found[side.name].append(measured)
            _count(rows[side.name], result, calls)
    for name, runs in found.items():
        if "failed" in rows[name]:
            continue
        rows[name] |= {key: spread([run[key] for run in runs]) for key in runs[0]}
    return list(rows.values())


def _count(row: dict[str, Any], result: Result, calls: int) -> None:
    row["calls"] = row.get("calls", 0) + calls
    for status, count in result.statuses.items():
        row.setdefault("statuses", {}).setdefault(status.decode(), 0)
        row["statuses"][status.decode()] += count
    if at := stations(result):
        row["stations_ms"] = {name: round(value, 4) for name, value in at.items()}


def _calls(load: Held, side: Side, requests: list[bytes], seconds: float, warmth: float) -> int:
    """Warm up, and say how many calls take about `seconds`. Raises OSError, TimeoutError and Unanswered.

    It is warm when TIRED turns in a row were no quicker than the quickest before: a compiler that works while it
    serves, as Node's, goes on getting quicker for thousands of calls. After `warmth` seconds it is as warm as it gets.
    """
    began, best, tired, calls = time.monotonic(), 0.0, 0, len(requests)
    while not best or (tired < TIRED and time.monotonic() - began < warmth):
        result = load.run(side.port, requests, calls)
        side.calls += calls
        if set(result.statuses) != {b"200"}:
            raise Unanswered(", ".join(f"{count} × {status.decode()}" for status, count in result.statuses.items()))
        rate = calls / result.seconds
        best, tired = max(best, rate), 0 if rate > best else tired + 1
        calls = max(len(requests), int(rate * TURN))
    return max(len(requests), int(best * seconds))
