"""Day rollups: what each seal covers, folded in once, outliving the journal it came from.

Owns the partitions `report:DAY:SHARD` and the index `tail`, which says whose journal is not folded in whole yet.
Refuses to know journals: who seals hands the records over.

Everything here is put once and never changed, so nothing can be counted twice, whoever repeats what after a crash:

    s:TASK.SEAL.PART   the rows of one seal on this day, at most ROWS an item; PART 0 is put last and makes it count
    c:NUMBER           a compaction: the summed rows of the items it names, which are then deleted. One of them that
                       a slow host puts once more is named there still, and not counted
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import batched
from typing import Final

from msgspec import Struct, field

from buspass.ports.state import Absent, Delete, Item, OutcomeUnknown, Present, Put, State, Unavailable, Update
from buspass.reports.rows import Dimensions, Row, Table, by_day, from_values, merge, to_values

SHARDS: Final = 4
"""Partitions of a day: tasks that end at once seldom meet."""
ROWS: Final = 150
"""Rows of an item: with the longest labels they fit the smallest item of any store, 400 KB."""
COMPACT: Final = 200
"""Items of a partition from which on they are summed."""
PAGE: Final = 200
TAIL: Final = "tail"


class Day(Struct):
    """A day as its partitions tell it: summed rows, and the seals (`TASK.SEAL`) that are in them."""

    table: Table = field(default_factory=dict)
    seals: set[str] = field(default_factory=set)


def shard(task: str) -> int:
    """Give a task's shard of every day."""
    return hashlib.sha256(task.encode()).digest()[0] % SHARDS


def tail(task: str, day: str) -> tuple[str, str]:
    """Give the entry of a task that began on `day`: it stands until the last seal is folded in."""
    return f"{day}.{shard(task)}", task


class Rollups:
    """The rollups of one trust domain, in one store. Raises the state port's errors."""

    def __init__(self, state: State) -> None:
        self._state = state

    # ── fold ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fold(self, task: str, seal: int, records: Mapping[str, Item], keys: Iterable[str]) -> None:
        """Fold in what a seal covers. Repeating it changes nothing."""
        facts = await self._state.read(task, "task")
        if facts is None:
            return
        for day, table in by_day(facts, records, keys).items():
            parts = [dict(part) for part in batched(table.items(), ROWS)]
            for number, part in reversed(list(enumerate(parts))):
                item: Item = {"rows": to_values(part), "parts": len(parts)}
                await self._put(_partition(day, shard(task)), f"s:{task}.{seal:08d}.{number:03d}", item)

    async def finish(self, task: str, seals: int) -> None:
        """Take an ended task, all of whose seals are folded in, out of the index."""
        done = Update("head", (Absent(("folded",)),), set={("folded",): seals}, index={TAIL: None})
        with suppress(OutcomeUnknown):  # then it stands there once more, and is read once more
            await self._state.apply(task, [done])

    async def _put(self, partition: str, key: str, item: Item) -> None:
        try:
            await self._state.apply(partition, [Put(key, item)])
        except OutcomeUnknown:
            if await self._state.read(partition, key) is None:
                raise

    # ── read ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def tails(self, day: str) -> list[str] | None:
        """Give the tasks that began on `day` and are not folded in whole; None where they are more than can be told."""
        found: list[str] = []
        for number in range(SHARDS):
            page = await self._state.find(TAIL, f"{day}.{number}", "~", 1000)
            if len(page) == 1000:
                return None
            found += [partition for partition, _ in page]
        return found

    async def day(self, day: str) -> Day:
        """Sum a day, and compact it where it has grown."""
        whole = Day()
        for part in await asyncio.gather(*(self._part(day, number) for number in range(SHARDS))):
            merge(whole.table, part.table)
            whole.seals |= part.seals
        return whole

    async def _part(self, day: str, number: int) -> Day:
        partition = _partition(day, number)
        items = await self._pages(partition, "s:")
        sums = await self._pages(partition, "c:")  # in this order, nothing that is compacted meanwhile is in neither
        named = {str(key) for each in sums.values() for key in _names(each)}
        fresh = {key: item for key, item in items.items() if key not in named}
        counted = {key: item for key, item in fresh.items() if f"{key.rpartition('.')[0]}.000" in fresh}
        part = Day(seals={key.removeprefix("s:").rpartition(".")[0] for key in named | counted.keys()})
        for each in (*sums.values(), *counted.values()):
            merge(part.table, from_values(each["rows"]))
        with suppress(Unavailable, OutcomeUnknown):  # a report does not wait for it
            await self._drop(partition, [key for key in items if key in named])
            if len(counted) > COMPACT:
                await self._compact(partition, len(sums), counted)
        return part

    async def _pages(self, partition: str, prefix: str) -> dict[str, Item]:
        found: dict[str, Item] = {}
        after = ""
        while page := await self._state.list(partition, prefix, after, PAGE):
            found.update(page)
            after = page[-1][0]
        return found

    async def _compact(self, partition: str, number: int, items: Mapping[str, Item]) -> None:
        """Sum the oldest items into one, as many as fit; nothing where another host does the same now."""
        table: dict[Dimensions, Row] = {}
        keys: list[str] = []
        for key in sorted(items):
            if key.endswith(".000"):
                seal = key.removesuffix("000")
                names = [name for name in items if name.startswith(seal)]
                added: Table = {}
                for name in names:
                    merge(added, from_values(items[name]["rows"]))
                if len(table.keys() | added.keys()) > ROWS and keys:
                    break
                merge(table, added)
                keys += names
        if len(table) <= ROWS and len(keys) > 1:
            await self._put(partition, f"c:{number:08d}", {"rows": to_values(table), "names": [*keys]})

    async def _drop(self, partition: str, keys: Iterable[str]) -> None:
        for key in keys:
            await self._state.apply(partition, [Delete(key, (Present(("rows",)),))])


def _partition(day: str, number: int) -> str:
    return f"report:{day}:{number}"


def _names(item: Item) -> list[str]:
    names = item.get("names")
    return [str(name) for name in names] if isinstance(names, list) else []
