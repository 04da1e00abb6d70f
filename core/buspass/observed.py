"""`GET /v1/observed/{workflow}`: what a workflow that is only observed would have refused, over all its tasks.

Owns which journals are read and how what they say is counted. Refuses to change anything, and to know what would allow
it: that is `loosening`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, field

from buspass.callers import Caller, OperatorCaller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal.seals import read_all
from buspass.journal.timeline import moment
from buspass.loosening import Seen, allowance
from buspass.ports.state import Item

TASKS: Final = 500
"""Tasks of the workflow that one answer reads, the newest."""
PAGE: Final = 500
PAGES: Final = 10
"""Pages of the lists of tasks, of all workflows, that one answer looks at."""
EXAMPLES: Final = 3
DAY: Final = 86_400
CALLS: Final = frozenset({"inference", "action"})

type Key = tuple[str, str, str, str, str]
"""Verdict ("" of a refusal), code, kind and name of the call, rule."""


class Row(Struct):
    """What was seen once or more often."""

    count: int = 0
    below: int = 0
    limit: int | None = None
    tasks: set[str] = field(default_factory=set)
    examples: list[dict[str, str]] = field(default_factory=list)


class Sum(Struct):
    """What the journals came to."""

    tasks: int = 0
    calls: int = 0
    met: int = 0
    acted: bool = False
    complete: bool = True
    would: dict[Key, Row] = field(default_factory=dict)
    refused: dict[Key, Row] = field(default_factory=dict)

    def add(self, task: str, key: str, record: Item) -> None:
        """Count a record that was made while observing."""
        observed = record.get("observed")
        if not isinstance(observed, list):
            return
        kind = str(record["kind"])
        called = kind in CALLS
        self.calls += called
        self.met += called and bool(observed)
        self.acted = self.acted or kind == "action"
        if kind == "refusal":
            code, name = str(record.get("code")), str(record.get("name") or "")
            self._count(self.refused, ("", code, kind, name, ""), task, key, {"detail": record.get("detail")})
        for entry in observed:
            if isinstance(entry, Mapping):
                name = str(record.get("name") or record.get("operation") or "")
                at: Key = (str(entry["verdict"]), str(entry["code"]), kind, name, str(entry["rule"]))
                self._count(self.would, at, task, key, entry)

    @staticmethod
    def _count(rows: dict[Key, Row], at: Key, task: str, key: str, entry: Mapping[str, Any]) -> None:
        row = rows.setdefault(at, Row())
        row.count += 1
        below, limit = int(entry.get("below") or 0), entry.get("limit")
        if limit is None:
            row.below = max(row.below, below)
        elif row.limit is None or limit + below > row.limit + row.below:
            row.below, row.limit = below, int(limit)
        if task not in row.tasks and len(row.examples) < EXAMPLES:
            call = key.partition(":")[2]
            row.examples.append({"task": task, "call": call, "detail": str(entry.get("detail") or "")})
        row.tasks.add(task)


async def observed(house: House, who: Caller, name: str, *, days: int) -> dict[str, Any]:
    """Give what would change if the workflow were enforced, and what would allow what was seen. Raises Problem."""
    if not isinstance(who, OperatorCaller):
        raise Problem("denied", "only an operator reads what a workflow would refuse", reasons=["caller"])
    if (workflow := house.settings.workflows.get(name)) is None:
        raise Problem("not_found", f"there is no workflow {name[:100]!r} here")
    since = house.clock.now() - days * DAY * 1000
    found = await _read(house, name, since)
    seen = [
        Seen(
            verdict=at[0],
            code=at[1],
            kind=at[2],
            name=at[3],
            rule=at[4],
            count=row.count,
            below=row.below,
            limit=row.limit,
        )
        for at, row in found.would.items()
    ]
    allowed = allowance(workflow, house.settings, seen, acted=found.acted)
    return {
        "workflow": name,
        "enforce": "observe" if workflow.observe else "on",
        "as_of": moment(house.clock.now()),
        "since": moment(since),
        "complete": found.complete,
        "tasks": found.tasks,
        "calls": found.calls,
        "met": found.met,
        "would": list(_rows(found.would)),
        "refused": list(_rows(found.refused)),
        "allow": {"workflows": {name: allowed.workflow}},
        "notes": allowed.notes,
    }


async def _read(house: House, workflow: str, since: int) -> Sum:
    """Read the journals of the newest tasks of a workflow that began since (ms)."""
    found = Sum()
    days = (house.clock.now() - since) // (DAY * 1000) + 2
    cursor: str | None = ""
    for _ in range(PAGES):
        hints, cursor = await house.tasks.listing(cursor or "", PAGE, days)
        for task, _ in hints:
            if found.tasks == TASKS:
                found.complete = False
                return found
            await _add(house, found, task, workflow, since)
        if cursor is None:
            return found
    found.complete = False
    return found


async def _add(house: House, found: Sum, task: str, workflow: str, since: int) -> None:
    """Count one task's journal, if it is of the workflow and began since (ms)."""
    try:
        facts = (await house.tasks.look(task)).task
    except Problem as problem:
        if problem.code != "not_found":
            raise
        return  # a hint whose task was never born
    if facts.workflow != workflow or facts.created_at < since:
        return
    records = (await read_all(house.state, task)).records
    found.tasks += any("observed" in record for record in records.values())
    for key, record in records.items():
        found.add(task, key, record)


def _rows(rows: Mapping[Key, Row]) -> Iterator[dict[str, Any]]:
    """Give the rows, the most frequent first."""
    for at, row in sorted(rows.items(), key=lambda pair: (-pair[1].count, pair[0])):
        verdict, code, kind, name, rule = at
        shown = {"verdict": verdict, "code": code, "kind": kind, "name": name, "rule": rule}
        yield {
            **{member: value for member, value in shown.items() if value},
            "count": row.count,
            "tasks": len(row.tasks),
            "examples": row.examples,
        }
