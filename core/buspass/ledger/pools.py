"""A pool's money: allocated to tasks, released when they end, topped up from the pool above, and given back to it.

Owns what moves between the accounts of pools. Refuses to know what a task is, and when it has ended: it is told what
was spent. How an allocation lies in the store: `allocations`; which account a pool has now: `windows`.

    allocated  one update of the head under its version: `available −n, allocated +n`, the entry among the last ones
    released   the same the other way round: `allocated −n, available + n − spent`
    topped up  the account above enlarges its one allocation to this account, then `available +n, drawn.ABOVE +n` here
    closed     its window is over and nothing is allocated: no more is given, and every account above gets released
               what was not spent of its allocation. What comes back later is passed on as a correction

`available = Σ drawn − allocated − spent`, always. An account without one above has drawn all that it holds from itself
(`-`). So a chunk that a crash left between two accounts is allocated above and not yet drawn here: it can't be spent,
the next top-up draws it, and the close gives it back.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from msgspec.structs import replace

from buspass.ledger.accounts import amounts, whole
from buspass.ledger.allocations import (
    HEAD,
    INDEX,
    KEPT,
    TRIES,
    Allocation,
    Lack,
    Records,
    partition,
    too_fast,
)
from buspass.ledger.windows import Account
from buspass.model import due_shard
from buspass.ports.clock import Clock
from buspass.ports.state import Applied, Equals, Item, Path, Put, Refused, State, Update, Value

__all__ = ["KEPT", "Allocation", "Lack", "Pools"]

TIMER: Final = "timer"
OWN: Final = "-"
"""Where an account without one above has its money from; no pool's name."""
GRACE: Final = 10_000
"""Milliseconds after its end in which a window is not closed: twice what clocks may differ."""
LOOK: Final = 60_000
"""Milliseconds between two looks of the timer at an account."""
LATE: Final = 900_000
"""Milliseconds after which no write of a birth that broke off arrives any more."""
SEARCH_EVERY: Final = 1.0
"""Seconds between two searches of a host through a pool that is short."""


class Pools(Records):
    """The pools of one trust domain, in one store. Safe beside any number of processes.

    Every method raises Problem state_unavailable; a repetition of any of them does nothing more.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        super().__init__(state, clock)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._searched: dict[str, float] = {}

    # ── allocate ────────────────────────────────────────────────────────────────────────────────────────────────

    async def allocate(self, account: Account, allocation: str, amount: int, due: int) -> Allocation | Lack:
        """Take `amount` (micro-dollars) out of an account under an id, topping it up from above where it is short.

        Gives the allocation as it stands: one of that id from before, whatever its amount, is not made again.
        """
        wish = Allocation(id=allocation, amount=amount, at=self._clock.now(), due=due)
        return await self._take(account, wish, 0)

    async def _take(self, account: Account, wish: Allocation, least: int) -> Allocation | Lack:
        """Bring an allocation to what is wished for, or to `least` at least; 0: one that is there is not enlarged."""
        async with self._turn(account.id):
            for _ in range(TRIES):
                head = await self._configured(account)
                found = await self._found(account.id, head, wish.id)
                if found is not None and (found.state == "released" or found.amount >= least):
                    await self._record(account.id, found)
                    return found
                has = found.amount if found else 0
                need = (least or wish.amount) - has
                if (usable := _usable(account, head)) < need:
                    if (lack := await self._top_up(account, head, need)) is not None:
                        return lack
                    continue
                more = min(wish.amount - has, usable)
                new = replace(found or wish, amount=has + more, turn=found.turn + 1 if found else 1)
                if found is None:
                    await self._record(account.id, replace(new, turn=0))  # a hint for the sweep, written before
                if await self._commit(account.id, head, new, available=-more, allocated=more):
                    await self._record(account.id, new)
                    return new
                await self._pause()
        raise too_fast(account.id)

    async def _top_up(self, account: Account, head: Item, need: int) -> Lack | None:
        """Draw from the account above so that `need` can be given; None where that may be the case now."""
        drawn, available = amounts(head, "drawn"), amounts(head, "available")["cost"]
        total = sum(drawn.values())
        left = 0 if head["closed"] else account.holds - (total - available)
        above = account.parent
        if above is None or need > left:
            return Lack(need, left, amounts(head, "allocated")["cost"], account.id)
        before, short = drawn.get(above.id, 0), need - available
        most = before + max(short, min(account.chunk, account.holds - total))
        now = self._clock.now()
        wish = Allocation(id=partition(account.id), amount=most, at=now, due=(account.ends or now) + LOOK)
        given = await self._take(above, wish, before + short)
        if isinstance(given, Lack):
            return given
        if given.state == "released":
            return Lack(need, 0, 0, account.id)  # closed by now, as its window is over
        if (more := given.amount - before) > 0:
            add: dict[Path, int] = {("version",): 1, ("available", "cost"): more, ("drawn", above.id): more}
            await self._apply(account.id, [Update(HEAD, (Equals(("version",), whole(head["version"])),), add)])
        return None

    # ── release ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def release(self, account: str, allocation: str, spent: int, as_of: int | None = None) -> None:
        """Give back what who ended has not spent. With another `spent` than before the difference is corrected.

        `as_of` grows with whatever `spent` is read from: who was frozen since, and says what stood there once, changes
        nothing. None: it can't have changed. Into an account whose window is over it flows on to the accounts above.
        """
        if await self._release(account, allocation, spent, as_of):
            await self.flow(account)

    async def _release(self, account: str, allocation: str, spent: int, as_of: int | None) -> bool:
        """Say whether it has to flow on."""
        async with self._turn(account):
            for _ in range(TRIES):
                head = await self._read(account, HEAD)
                found = await self._found(account, head, allocation) if head else None
                if head is None or found is None:
                    return False  # nothing was ever taken under this id
                over = self._over(head)
                said = found.as_of if as_of is None else as_of
                old = said < found.as_of or (said == found.as_of and spent == found.spent)
                if found.state == "released" and old:
                    await self._record(account, found)
                    return over
                if head["closed"]:
                    await self._arm(account)  # a hint for the timer, written before
                new = replace(found, state="released", spent=spent, turn=found.turn + 1, as_of=said)
                taken = found.amount if found.state == "open" else found.spent
                gone = -found.amount if found.state == "open" else 0
                if await self._commit(account, head, new, available=taken - spent, allocated=gone):
                    await self._record(account, new)
                    return over
                await self._pause()
        raise too_fast(account)

    async def flow(self, account: str, armed: int = 0) -> bool:
        """Give back to the accounts above what an account has left whose window is over; say whether all is done.

        `armed`: when its timer was last set by who bears it (ms).
        """
        for _ in range(TRIES):
            if (head := await self._read(account, HEAD)) is None:  # whoever bears it sets its timer anew: before it, so
                return self._clock.now() - armed > LATE  # that a head may come after all, and nobody would look at it
            if head["closed"]:
                for above, spent in _shares(head):
                    await self.release(above, partition(account), spent, whole(head["version"]))
                return True
            if not self._over(head) or amounts(head, "allocated")["cost"]:
                return False
            require = (Equals(("version",), whole(head["version"])), Equals(("closed",), value=False))
            change: dict[Path, Value] = {("closed",): True}
            await self._apply(account, [Update(HEAD, require, {("version",): 1}, change)])
        raise too_fast(account)

    # ── look ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def timer(self, account: str) -> tuple[int, int] | None:
        """Give the turn of an account's timer, for `look_again`, and when it was set for a birth, for `flow`."""
        item = await self._read(account, TIMER)
        return (whole(item["turn"]), whole(item.get("at", 0))) if item else None

    async def look_again(self, account: str, turn: int, *, done: bool) -> None:
        """Set the timer to a minute from now, or off where nothing is left to do; not where it was set meanwhile."""
        due = None if done else _due(account, self._clock.now() + LOOK)
        update = Update(TIMER, (Equals(("turn",), turn),), {("turn",): 1}, index={INDEX: due})
        await self._apply(account, [update])

    def may_search(self, account: str) -> bool:
        """Say whether it is time to look through all open allocations again: whoever meets an empty pool asks."""
        now = self._clock.monotonic()
        if now - self._searched.get(account, -SEARCH_EVERY) < SEARCH_EVERY:
            return False
        self._searched[account] = now
        return True

    # ── the head ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _configured(self, account: Account) -> Item:
        """Read the head, born with what the configuration says; a changed amount is added or taken away."""
        for _ in range(TRIES):
            head = await self._read(account.id, HEAD)
            if head is None:
                await self._bear(account)
                continue
            drawn = amounts(head, "drawn")
            has, above = drawn.get(OWN, 0), sum(more for name, more in drawn.items() if name != OWN)
            own = 0 if account.parent else max(0, account.holds - above)
            limit = account.holds - amounts(head, "limits")["cost"]
            if head["closed"] or (own == has and not limit):
                return head
            add: dict[Path, int] = {("version",): 1, ("limits", "cost"): limit}
            add |= {("available", "cost"): own - has, ("drawn", OWN): own - has}
            await self._apply(account.id, [Update(HEAD, (Equals(("version",), whole(head["version"])),), add)])
        raise too_fast(account.id)

    async def _bear(self, account: Account) -> None:
        """Put the head, and before it the timer, which must not be missing."""
        own = 0 if account.parent else account.holds
        head: dict[str, Value] = {
            "version": 0,
            "ends": account.ends,
            "closed": False,
            "limits": {"cost": account.holds},
            "available": {"cost": own},
            "allocated": {"cost": 0},
            "drawn": {OWN: own},
            "last": {},
        }
        now = self._clock.now()
        timer = Put(TIMER, {"turn": 0, "at": now}, index={INDEX: _due(account.id, now + LOOK)})
        met = await self._apply(account.id, [timer, Put(HEAD, head)])
        if isinstance(met, Refused) and met.index == 0:  # it stands from a birth that broke off, and may be off
            await self._arm(account.id)
            await self._apply(account.id, [Put(HEAD, head)])

    async def _arm(self, account: str) -> None:
        """Let the timer look at once."""
        for _ in range(TRIES):
            if (timer := await self.timer(account)) is None:
                return
            now = self._clock.now()
            require, index = (Equals(("turn",), timer[0]),), {INDEX: _due(account, now)}
            update = Update(TIMER, require, {("turn",): 1}, {("at",): now}, index=index)
            if isinstance(await self._apply(account, [update]), Applied):
                return
        raise too_fast(account)

    def _over(self, head: Item) -> bool:
        """Whether its window is over, for every clock there is."""
        return 0 < whole(head["ends"]) < self._clock.now() - GRACE

    def _turn(self, account: str) -> asyncio.Lock:
        """One change of an account at a time in this process: others of it would only be refused."""
        return self._turns.setdefault(account, asyncio.Lock())


def _usable(account: Account, head: Item) -> int:
    """Give what the account may give now: what it has, and no more than it may give in all."""
    available = amounts(head, "available")["cost"]
    given = sum(amounts(head, "drawn").values()) - available
    return 0 if head["closed"] else min(available, account.holds - given)


def _shares(head: Item) -> list[tuple[str, int]]:
    """Say what a closed account spent of each account's money above it: its own first, a loss on the last one."""
    drawn = amounts(head, "drawn")
    spent = sum(drawn.values()) - amounts(head, "available")["cost"]
    spent -= min(spent, drawn.get(OWN, 0))
    found: list[tuple[str, int]] = []
    names = sorted(name for name in drawn if name != OWN)
    for name in names:
        share = spent if name == names[-1] else min(spent, drawn[name])
        found.append((name, share))
        spent -= share
    return found


def _due(account: str, at: int) -> tuple[str, str]:
    return due_shard(partition(account)), f"{at:016d}"
