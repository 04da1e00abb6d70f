"""A pool's money, allocated to tasks and released when they end.

Owns the items of the partition `pool:NAME`: the head (version, accounts, the last 64 allocations) and one record for
each allocation. Refuses to know what a task is, and when it has ended: it is told what was spent.

    allocated  one update of the head under its version: `available −n, allocated +n`, the entry among the last ones
    released   the same the other way round: `allocated −n, available + n − spent`

The head decides; a record follows it and only then may its entry be dropped from the head. Whoever looks reads the
head first and the record after it, so an allocation that the head has forgotten is always found in its record. A
version never comes back, so an update that arrives late is refused, and nothing is taken or given twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, cast
from weakref import WeakValueDictionary

from buspass.errors import Problem
from buspass.ledger.accounts import amounts, table, text, whole
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Applied,
    Condition,
    Delete,
    Equals,
    Item,
    Operation,
    OutcomeUnknown,
    Path,
    Present,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    Value,
)

HEAD: Final = "head"
KEPT: Final = 64
"""Allocations that a pool's head remembers; the next one takes the oldest one's place."""
INDEX: Final = "due"
SEARCH_EVERY: Final = 1.0
"""Seconds between two searches of a host through a pool that is short."""
TRIES: Final = 100
PAUSE: Final = 0.005
"""Seconds between two tries; up to twice that, by chance, so that two hosts don't keep step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Money that a pool gave to one task. Amounts in micro-dollars; `at` and `due` (look whether it has ended) in ms.

    `turn` counts its changes: 0 is an intent that the head may not have taken yet.
    """

    id: str
    amount: int
    at: int
    due: int
    state: Literal["open", "released"] = "open"
    spent: int = 0
    turn: int = 1


@dataclass(frozen=True, slots=True)
class Lack:
    """The pool holds less than is asked for; `allocated` is with tasks that may give some of it back."""

    needed: int
    available: int
    allocated: int


class Pools:
    """The pools of one trust domain, in one store. Safe beside any number of processes.

    Every method raises Problem state_unavailable; a repetition of any of them does nothing more.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._searched: dict[str, float] = {}

    # ── allocate and release ────────────────────────────────────────────────────────────────────────────────────

    async def allocate(self, pool: str, holds: int, allocation: str, amount: int, due: int) -> Allocation | Lack:
        """Take `amount` out of the pool, which holds `holds` in all, under an id.

        Gives the allocation as it stands: one of that id from before, whatever its amount, is not made again.
        """
        intended = Allocation(id=allocation, amount=amount, at=self._clock.now(), due=due)
        async with self._turn(pool):
            for _ in range(TRIES):
                head = await self._configured(pool, holds)
                if (found := await self._found(pool, head, allocation)) is not None:
                    await self._record(pool, found)
                    return found
                available = amounts(head, "available")["cost"]
                if amount > available:
                    return Lack(amount, available, amounts(head, "allocated")["cost"])
                await self._record(pool, replace(intended, turn=0))  # a hint for the sweep, written before
                if await self._commit(pool, head, intended, available=-amount, allocated=amount):
                    await self._record(pool, intended)
                    return intended
                await self._pause()
        raise _too_fast(pool)

    async def release(self, pool: str, allocation: str, spent: int) -> None:
        """Give back what an ended task has not spent. With another `spent` than before the difference is corrected."""
        async with self._turn(pool):
            for _ in range(TRIES):
                head = await self._read(pool, HEAD)
                found = await self._found(pool, head, allocation) if head else None
                if head is None or found is None:
                    return  # nothing was ever taken under this id
                if found.state == "released" and found.spent == spent:
                    await self._record(pool, found)
                    return
                new = replace(found, state="released", spent=spent, turn=found.turn + 1)
                taken = found.amount if found.state == "open" else found.spent
                gone = -found.amount if found.state == "open" else 0
                if await self._commit(pool, head, new, available=taken - spent, allocated=gone):
                    await self._record(pool, new)
                    return
                await self._pause()
        raise _too_fast(pool)

    # ── look ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, pool: str, allocation: str) -> Allocation | None:
        """Give an allocation as it stands; None where none was made."""
        head = await self._read(pool, HEAD)
        return await self._found(pool, head, allocation) if head else None

    async def open_until(self, pool: str, until: int, limit: int) -> list[Allocation]:
        """Give open allocations that are due by `until` (ms), the earliest first. A hint: some may be missing yet."""
        try:
            rows = await self._state.find(INDEX, _partition(pool), f"{until:016d}", limit)
        except Unavailable as error:
            raise _unavailable(error) from error
        found = []
        for _, key in rows:
            allocation = await self.find(pool, key.removeprefix("alloc:"))
            if allocation is None:
                await self._forget(pool, key)
            elif allocation.state == "open":
                record = await self._read(pool, key)
                found.append(replace(allocation, due=whole(record["due"])) if record else allocation)
            else:
                await self._record(pool, allocation)
        return found

    def may_search(self, pool: str) -> bool:
        """Say whether it is time to look through all open allocations again: whoever meets an empty pool asks."""
        now = self._clock.monotonic()
        if now - self._searched.get(pool, -SEARCH_EVERY) < SEARCH_EVERY:
            return False
        self._searched[pool] = now
        return True

    async def postpone(self, pool: str, allocation: str, due: int) -> None:
        """Look again at a later time (ms): its task lives."""
        record = await self._read(pool, f"alloc:{allocation}")
        if record is None or record["state"] != "open" or record["due"] == due:
            return
        was = Equals(("due",), whole(record["due"]))
        update = Update(
            f"alloc:{allocation}",
            (was, Equals(("state",), "open")),
            set={("due",): due},
            index={INDEX: (_partition(pool), f"{due:016d}")},
        )
        await self._apply(pool, [update])

    # ── the head ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _configured(self, pool: str, holds: int) -> Item:
        """Read the head, born with what the configuration says; a changed amount is added or taken away."""
        for _ in range(TRIES):
            head = await self._read(pool, HEAD)
            if head is None:
                await self._apply(pool, [Put(HEAD, _new_head(holds))])
            elif (more := holds - amounts(head, "limits")["cost"]) == 0:
                return head
            else:
                add: dict[Path, int] = {("limits", "cost"): more, ("available", "cost"): more, ("version",): 1}
                await self._apply(pool, [Update(HEAD, (Equals(("version",), whole(head["version"])),), add)])
        raise _too_fast(pool)

    async def _found(self, pool: str, head: Item, allocation: str) -> Allocation | None:
        """Give the allocation as head and record, read in this order, say; an intent alone is none."""
        entry = table(head, "last").get(allocation)
        if isinstance(entry, Mapping):
            return _allocation(allocation, entry)
        record = await self._read(pool, f"alloc:{allocation}")
        return _allocation(allocation, record) if record and whole(record["turn"]) else None

    async def _commit(self, pool: str, head: Item, entry: Allocation, *, available: int, allocated: int) -> bool:
        """Change the head under its version. False: refused, or nobody knows; look again."""
        require: list[Condition] = [Equals(("version",), whole(head["version"]))]
        remove: tuple[Path, ...] = ()
        last = table(head, "last")
        if entry.id not in last and len(last) >= KEPT:
            oldest = min((_allocation(name, cast("Item", item)) for name, item in last.items()), key=lambda a: a.at)
            await self._record(pool, oldest)  # before the head forgets it
            remove = (("last", oldest.id),)
            require.append(Present(remove[0]))
        add: dict[Path, int] = {("version",): 1}
        if available:
            add[("available", "cost")] = available
        if allocated:
            add[("allocated", "cost")] = allocated
        change: dict[Path, Value] = {("last", entry.id): _entry(entry)}
        return isinstance(await self._apply(pool, [Update(HEAD, tuple(require), add, change, remove)]), Applied)

    # ── the records ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _record(self, pool: str, allocation: Allocation) -> None:
        """Bring an allocation's record up to what the head said of it."""
        key, value = f"alloc:{allocation.id}", _entry(allocation)
        index = {INDEX: (_partition(pool), f"{allocation.due:016d}")} if allocation.state == "open" else {}
        put = Put(key, value, index=index)
        for _ in range(TRIES):
            result = await self._apply(pool, [put])
            if isinstance(result, Applied):
                return
            stands = result.item if result else await self._read(pool, key)
            if stands is not None and whole(stands["turn"]) >= allocation.turn:
                return
            require = () if stands is None else (Equals(("turn",), whole(stands["turn"])),)
            put = Put(key, value, require, index=index)
        raise _too_fast(pool)

    async def _forget(self, pool: str, key: str) -> None:
        """Drop an intent that came to nothing; who still commits it writes its record anew."""
        record = await self._read(pool, key)
        if record is not None and whole(record["turn"]) == 0 and whole(record["due"]) <= self._clock.now():
            await self._apply(pool, [Delete(key, (Equals(("turn",), 0),))])

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, pool: str) -> asyncio.Lock:
        """One change of a pool at a time in this process: others of it would only be refused."""
        return self._turns.setdefault(pool, asyncio.Lock())

    async def _pause(self) -> None:
        await self._clock.sleep(PAUSE * (1 + self._clock.random(1)[0] / 256))

    async def _read(self, pool: str, key: str) -> Item | None:
        try:
            return await self._state.read(_partition(pool), key)
        except Unavailable as error:
            raise _unavailable(error) from error

    async def _apply(self, pool: str, operations: list[Operation]) -> Applied | Refused | None:
        """Apply; None where nobody knows, which every caller meets by looking again."""
        try:
            return await self._state.apply(_partition(pool), operations)
        except OutcomeUnknown:
            return None
        except Unavailable as error:
            raise _unavailable(error) from error


def _partition(pool: str) -> str:
    return f"pool:{pool}"


def _new_head(holds: int) -> dict[str, Value]:
    return {
        "version": 0,
        "limits": {"cost": holds},
        "available": {"cost": holds},
        "allocated": {"cost": 0},
        "last": {},
    }


def _entry(allocation: Allocation) -> dict[str, Value]:
    return {
        "amount": allocation.amount,
        "at": allocation.at,
        "due": allocation.due,
        "state": allocation.state,
        "spent": allocation.spent,
        "turn": allocation.turn,
    }


def _allocation(name: str, item: Item) -> Allocation:
    return Allocation(
        id=name,
        amount=whole(item["amount"]),
        at=whole(item["at"]),
        due=whole(item["due"]),
        state="released" if text(item["state"]) == "released" else "open",
        spent=whole(item["spent"]),
        turn=whole(item["turn"]),
    )


def _too_fast(pool: str) -> Problem:
    return Problem("conflict", f"pool {pool!r} changes too fast right now; retry", retry_after=0.5)


def _unavailable(error: Exception) -> Problem:
    return Problem("state_unavailable", f"the pool could not be reached ({error}); retry", retry_after=1)
