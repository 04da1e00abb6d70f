"""The table of goals: what was to be reached, and what the results say. Owns the goals and the sums over results.

Sources of each figure are parts of results.json; where one is missing the goal was not measured, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PLAIN, REGO, BARE = "buspass", "buspass, Rego", "bare"


class Missing(Exception):  # noqa: N818 - it is no error: a part that did not run
    """The results hold no such figure."""


class Found:
    """The results, asked by part and row."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.parts: dict[str, Any] = results.get("parts", {})

    def part(self, name: str) -> Any:
        if "found" not in self.parts.get(name, {}):
            raise Missing(name)
        return self.parts[name]["found"]

    def rows(self, name: str) -> list[dict[str, Any]]:
        part = self.part(name)
        return list(part["rows"] if isinstance(part, dict) else part)

    def row(self, part: str, **match: Any) -> dict[str, Any]:
        for row in self.rows(part):
            if all(row.get(key) == value for key, value in match.items()) and "failed" not in row:
                return row
        raise Missing(f"{part} {match}")

    def middle(self, part: str, key: str, **match: Any) -> float:
        return float(self.row(part, **match)[key][1])


def against(found: Found, side: str, other: str) -> float:
    return found.middle("rate", "rps", side=side) / found.middle("rate", "rps", side=other)


def cpu_over(found: Found, side: str) -> float:
    return found.middle("rate", "cpu_us", side=side) - found.middle("rate", "cpu_us", side=BARE)


def added(found: Found, side: str) -> float:
    alone = found.middle("latency", "p50_ms", side="upstream alone")
    commits = 2 * float(found.part("latency")["bare_commit_us"]["power"][1]) / 1000
    return found.middle("latency", "p50_ms", side=side) - alone - commits


def first(found: Found, side: str) -> float:
    return found.middle("first", "ttft_p50_ms", side=side) - found.middle("first", "ttft_p50_ms", side="upstream alone")


def lambda_ratio(found: Found, _side: str) -> float:
    governed = found.middle("starts", "wall_ms", host="lambda", what="governed")
    return governed / found.middle("starts", "wall_ms", host="lambda", what="echo")


def memory(found: Found, side: str) -> float:
    row = found.row("memory", side=side)
    if row["calls"] < 10_000:
        raise Missing("too few calls")
    return float(row["resident_mb"])


def grown(found: Found, _side: str) -> float:
    ratios = [ratio for ratios in growth(found).values() for ratio in ratios.values()]
    if not ratios:
        raise Missing("growth")
    return max(ratios)


def growth(found: Found) -> dict[str, dict[str, float]]:
    """For each dimension the cost at its largest over that at its smallest, by each count."""
    kept: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["dimension"] for row in found.rows("growth")):
        rows = [row for row in found.rows("growth") if row["dimension"] == name and "failed" not in row]
        if len(rows) > 1:
            kept[name] = {}
            for key in ("python_instructions", "instructions"):
                counted = sorted((row for row in rows if row.get(key)), key=_size)
                if len(counted) > 1:
                    kept[name][key] = counted[-1][key] / counted[0][key]
    return kept


def _size(row: dict[str, Any]) -> int:
    return int(row["size"])


def overspent(found: Found, side: str) -> float:
    return float(found.row("race", side=side)["overspent_usd"])


def usable(found: Found, side: str) -> float:
    return 100 * float(found.row("race", side=side)["usable"])


Goal = tuple[str, str, Callable[[Found, str], float], tuple[float, float], tuple[float, float], bool]
GOALS: tuple[Goal, ...] = (
    ("governed requests/s on one core over Portkey's plain pass-through, 32 connections", "×",
     lambda found, side: against(found, side, "portkey"), (5, 4), (2.5, 1.8), True),
    ("… over LiteLLM's plain proxy", "×",
     lambda found, side: against(found, side, "litellm"), (45, 35), (20, 15), True),
    ("… over the bare floor, granian and pyreqwest", "×",
     lambda found, side: against(found, side, BARE), (0.27, 0.27), (0.14, 0.14), True),
    ("CPU a call over the bare floor's", "µs", cpu_over, (200, 200), (450, 450), False),
    ("added p50 at 1 connection, less two bare commits of the same mode", "ms", added, (0.5, 0.5), (1, 1), False),
    ("added time to first token", "ms", first, (0.5, 0.5), (1.5, 1.5), False),
    ("Lambda: process start to first governed answer, over a bare echo", "×", lambda_ratio, (5, 5), (8, 8), False),
    ("resident memory after 10,000 calls", "MB", memory, (90, 90), (120, 120), False),
    ("growth of instructions a call, the worst of four", "×", grown, (1.05, 1.05), (1.3, 1.3), False),
    ("overspent in the race", "USD", overspent, (0, 0), (0, 0), False),
    ("budget usable in the race", "%", usable, (95, 95), (95, 95), True),
)  # fmt: skip
"""Name, unit, how it is found, goal and floor to resolve (without and with Rego modules), whether more is better."""
ONE_FIGURE = {lambda_ratio, grown}


def verdict(value: float, goal: float, floor: float, *, more: bool) -> str:
    if value < 0:
        return "lost in noise"  # what was taken off took longer than the whole: a busy disk, not a fast gateway
    if value >= goal if more else value <= goal:
        return "goal reached"
    if value >= floor if more else value <= floor:
        return "floor reached"
    return "**not reached**"


def reached(results: dict[str, Any]) -> list[tuple[str, str, float | None, float, float, bool, str]]:
    """For each goal and side: name, side, figure (None where not measured), goal, floor, more is better, verdict."""
    found, rows = Found(results), []
    for name, unit, ask, goals, floors, more in GOALS:
        for side, goal, floor in zip((PLAIN, REGO), goals, floors, strict=True):
            if side == REGO and ask in ONE_FIGURE:
                continue
            value: float | None = None
            said = "not measured"
            try:
                value = ask(found, side)
                said = verdict(value, goal, floor, more=more)
            except Missing:
                pass
            label = "either" if ask in ONE_FIGURE else ("with" if side == REGO else "without")
            rows.append((f"{name}|{unit}", label, value, goal, floor, more, said))
    return rows
