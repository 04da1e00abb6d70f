"""Reports over all tasks: rollups plus what is not folded into them yet. Operators only.

Owns how the two are put together, so that every record counts once: a seal counts in the rollup that has it, else as
the journal tells it; what is not sealed counts as the journal tells it. Refuses to change a journal.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import batched
from typing import Any, Final

from msgspec import Struct

from buspass.callers import Caller, OperatorCaller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal.seals import Read, keys_of, read_all
from buspass.journal.timeline import moment
from buspass.model import ACCOUNTS, MICRO
from buspass.ports.state import Item, OutcomeUnknown, Unavailable
from buspass.reports import Rollups, Row, Table, by_day, merge
from buspass.tasks.lifecycle import LIVING

DAYS: Final = 366
"""Days of one report at most."""
BEFORE: Final = 7
"""Days that a task may have begun before a report's first day, beside the longest time that a workflow gives."""
AT_ONCE: Final = 32
"""Journals that are read at a time."""
LAG: Final = 5_000
"""Milliseconds by which an index may lag: younger calls may be missing, and `as_of` says so."""
_GROUP: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Folding(Struct, frozen=True):
    """What a sealer does with a seal: it is folded in, and with its last one an ended task leaves the index."""

    rollups: Rollups

    async def sealed(self, task: str, head: Item, journal: Read) -> None:
        """Fold the last seal in; of a task that is over, all of them. Raises the state port's errors."""
        if over(head, journal):
            await self.whole(task, head, journal)
        else:
            number = len(journal.seals) - 1
            await self.rollups.fold(task, number, journal.records, keys_of(journal.seals[number]))

    async def whole(self, task: str, head: Item, journal: Read) -> None:
        """Fold every seal in: one may have been made without the journal in hand, or a crash came between."""
        for number, seal in enumerate(journal.seals):
            await self.rollups.fold(task, number, journal.records, keys_of(seal))
        if over(head, journal):
            await self.rollups.finish(task, len(journal.seals))


def over(head: Item, journal: Read) -> bool:
    """Say whether nothing more comes: the task has ended, nothing is in flight, and every record is under a seal."""
    return head["status"] not in LIVING and not head["open"] and journal.records.keys() <= journal.covered


class Asked(Struct, frozen=True, kw_only=True):
    """What a report is asked for: dimensions to group by, first and last day (UTC, both included)."""

    group_by: tuple[str, ...]
    first: date
    last: date


def asked(group_by: str, first: str, last: str, today: date) -> Asked:
    """Read a report's parameters; without days it is about today. Raises Problem invalid_request."""
    groups = tuple(dict.fromkeys(part.strip() for part in group_by.split(","))) if group_by else ()
    for group in groups:
        if not _GROUP.fullmatch(group):
            allowed = "workflow, step, kind, alias, model, provider, tool, host, or a metadata key"
            raise _wrong("group_by", f"{group[:40]!r} is no dimension", allowed)
    end = _date("to", last) or today
    begin = _date("from", first) or (end if last else today)
    if not timedelta() <= end - begin < timedelta(days=DAYS):
        raise _wrong("from", f"{begin} to {end} is no period", f"from ≤ to, at most {DAYS} days")
    return Asked(group_by=groups, first=begin, last=end)


def _date(name: str, text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong(name, f"{text[:40]!r} is no day", "a day (UTC), YYYY-MM-DD") from None


def _wrong(name: str, why: str, allowed: str) -> Problem:
    rows = [{"path": name, "message": why, "allowed": allowed}]
    return Problem("invalid_request", f"{name}: {why}; allowed: {allowed}", errors=rows)


class Reporting:
    """The reports of one trust domain, as one host gives them."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def spend(self, who: Caller, report: Asked) -> dict[str, Any]:
        """Give what was spent; sums equal the journals'. Raises Problem denied, invalid_request, state_unavailable."""
        as_of, table = await self._table(who, report)
        rows = sorted(_grouped(table, report.group_by).items(), key=lambda pair: (-pair[1].use["cost"], pair[0]))
        total = Row()
        for _, row in rows:
            total.add(row)
        data = [dict(zip(report.group_by, key, strict=True)) | _spent(row) for key, row in rows]
        return self._document(report, as_of, data) | {"total": _spent(total)}

    async def latency(self, who: Caller, report: Asked) -> dict[str, Any]:
        """Give how long calls took from hold to settle: count and percentiles in ms, at most 9 % too high."""
        as_of, table = await self._table(who, report)
        rows = sorted(_grouped(table, report.group_by).items())
        data = [dict(zip(report.group_by, key, strict=True)) | _took(row) for key, row in rows if row.ended.total()]
        return self._document(report, as_of, data)

    def _document(self, report: Asked, as_of: int, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "from": str(report.first),
            "to": str(report.last),
            "as_of": moment(as_of),
            "group_by": list(report.group_by),
            "data": list(data),
            "next_cursor": None,
        }

    # ── rollups and tails ───────────────────────────────────────────────────────────────────────────────────────

    async def _table(self, who: Caller, report: Asked) -> tuple[int, Table]:
        if not isinstance(who, OperatorCaller):
            raise Problem("denied", "reports are for operators", reasons=["caller"])
        as_of = self._house.clock.now() - LAG
        try:
            return as_of, await self._summed(report)
        except (Unavailable, OutcomeUnknown) as error:
            raise Problem("state_unavailable", f"the report could not be read ({error})", retry_after=1) from error

    async def _summed(self, report: Asked) -> Table:
        """Look who is at work before the rollups are read: whoever leaves the index between is in them by then."""
        house = self._house
        table: Table = {}
        longest = max((workflow.wall for workflow in house.settings.workflows.values()), default=0)
        began = report.first - timedelta(days=BEFORE + math.ceil(longest / 86_400))
        tasks = [task for day in _days(began, report.last) for task in await self._tails(day)]
        seals: dict[str, set[str]] = {}
        for days in batched(_days(report.first, report.last), AT_ONCE):
            for day, found in zip(days, await asyncio.gather(*(house.rollups.day(day) for day in days)), strict=True):
                merge(table, found.table)
                seals[day] = found.seals
        for part in batched(tasks, AT_ONCE):
            for days_of in await asyncio.gather(*(self._tail(task, seals) for task in part)):
                merge(table, days_of)
        return table

    async def _tails(self, day: str) -> list[str]:
        found = await self._house.rollups.tails(day)
        if found is None:
            raise Problem("overloaded", f"more tasks of {day} are at work than a report can read; ask again later")
        return found

    async def _tail(self, task: str, seals: Mapping[str, set[str]]) -> Table:
        """Tabulate what no rollup has of a task that may still be at work; fold in what should be there by now."""
        state = self._house.state
        facts, head = await asyncio.gather(state.read(task, "task"), state.read(task, "head"))
        if facts is None or head is None:
            return {}
        journal = await read_all(state, task)
        table: Table = {}
        missing = False
        for number, seal in enumerate(journal.seals):
            for day, rows in by_day(facts, journal.records, keys_of(seal)).items():
                if day in seals and f"{task}.{number:08d}" not in seals[day]:
                    merge(table, rows)
                    missing = True
        fresh = journal.records.keys() - journal.covered
        for day, rows in by_day(facts, journal.records, fresh).items():
            if day in seals:
                merge(table, rows)
        if missing or over(head, journal):
            with suppress(Unavailable, OutcomeUnknown):  # whoever reads next does it, then
                await Folding(self._house.rollups).whole(task, head, journal)
        return table


def _days(first: date, last: date) -> Iterator[str]:
    for number in range((last - first).days + 1):
        yield str(first + timedelta(days=number))


def _grouped(table: Table, groups: Iterable[str]) -> dict[tuple[str, ...], Row]:
    found: dict[tuple[str, ...], Row] = {}
    for dimensions, row in table.items():
        found.setdefault(tuple(dimensions.value(group) for group in groups), Row()).add(row)
    return {key: row for key, row in found.items() if row.calls or any(row.use.values())}


def _spent(row: Row) -> dict[str, Any]:
    use: Counter[str] = row.use
    amounts = {name: use[name] / MICRO if name == "cost" else use[name] for name in ACCOUNTS}
    return {"records": row.calls, "failed": row.failed, **amounts}


def _took(row: Row) -> dict[str, Any]:
    return {
        "count": row.ended.total(),
        **{f"p{percent}": row.quantile(percent / 100) for percent in (50, 95, 99)},
    }


def today(now: int) -> date:
    """Give the day (UTC) of a time in ms."""
    return datetime.fromtimestamp(now / 1000, UTC).date()
