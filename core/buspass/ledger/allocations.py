"""Allocations, as a pool's head and their own records keep them; and the items of a pool's partition.

Owns the partition `pool:ACCOUNT`: `head`, `alloc:ID`, and `timer`, which says when somebody must look. Refuses to know
what money may move when (`pools`).

The head decides; a record follows it and only then may its entry be dropped from the head. Whoever looks reads the
head first and the record after it, so an allocation that the head has forgotten is always found in its record. A
version never comes back, so an update that arrives late is refused, and nothing is taken or given twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, cast

from msgspec import Struct
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.ledger.accounts import table, text, whole
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
TRIES: Final = 100
PAUSE: Final = 0.005
"""Seconds between two tries; up to twice that, by chance, so that two hosts don't keep step."""
_POOL: Final = "pool:"


class Allocation(Struct, frozen=True, kw_only=True):
    """Money that a pool gave to a task, or to another account. Micro-dollars; `at` and `due` (look at it then) in ms.

    `turn` counts its changes: 0 is an intent that the head may not have taken yet. `as_of`: how old the word is that
    `spent` stands on.
    """

    id: str
    amount: int
    at: int
    due: int
    state: Literal["open", "released"] = "open"
    spent: int = 0
    turn: int = 1
    as_of: int = 0

    @property
    def account(self) -> str:
        """The account that has it, "" where it is a task's."""
        return self.id.removeprefix(_POOL) if self.id.startswith(_POOL) else ""


class Lack(Struct, frozen=True):
    """An account has less than is asked for; `allocated` is with tasks that may give some of it back.

    `account` is the one that lacks it: the pool itself, or one above.
    """

    needed: int
    available: int
    allocated: int
    account: str


def partition(account: str) -> str:
    """Give an account's partition, which is also the id of what its parent allocates to it."""
    return _POOL + account


class Records:
    """The allocations of every account in one store. Every method raises Problem state_unavailable."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def find(self, account: str, allocation: str) -> Allocation | None:
        """Give an allocation as it stands; None where none was made."""
        head = await self._read(account, HEAD)
        return await self._found(account, head, allocation) if head else None

    async def open_until(self, account: str, until: int, limit: int) -> list[Allocation]:
        """Give open allocations that are due by `until` (ms), the earliest first. A hint: some may be missing yet."""
        try:
            rows = await self._state.find(INDEX, partition(account), f"{until:016d}", limit)
        except Unavailable as error:
            raise unavailable(error) from error
        found = []
        for _, key in rows:
            allocation = await self.find(account, key.removeprefix("alloc:"))
            if allocation is None:
                await self._forget(account, key)
            elif allocation.state == "open":
                record = await self._read(account, key)
                found.append(replace(allocation, due=whole(record["due"])) if record else allocation)
            else:
                await self._record(account, allocation)
        return found

    async def postpone(self, account: str, allocation: str, due: int) -> None:
        """Look again at a later time (ms): who has it lives."""
        record = await self._read(account, f"alloc:{allocation}")
        if record is None or record["state"] != "open" or record["due"] == due:
            return
        was = Equals(("due",), whole(record["due"]))
        update = Update(
            f"alloc:{allocation}",
            (was, Equals(("state",), "open")),
            set={("due",): due},
            index={INDEX: (partition(account), f"{due:016d}")},
        )
        await self._apply(account, [update])

    async def _found(self, account: str, head: Item, allocation: str) -> Allocation | None:
        """Give the allocation as head and record, read in this order, say; an intent alone is none."""
        entry = table(head, "last").get(allocation)
        if isinstance(entry, Mapping):
            return read(allocation, entry)
        record = await self._read(account, f"alloc:{allocation}")
        return read(allocation, record) if record and whole(record["turn"]) else None

    async def _commit(self, account: str, head: Item, entry: Allocation, *, available: int, allocated: int) -> bool:
        """Change the head under its version. False: refused, or nobody knows; look again."""
        require: list[Condition] = [Equals(("version",), whole(head["version"]))]
        remove: tuple[Path, ...] = ()
        last = table(head, "last")
        if entry.id not in last and len(last) >= KEPT:
            oldest = min((read(name, cast("Item", item)) for name, item in last.items()), key=lambda a: a.at)
            await self._record(account, oldest)  # before the head forgets it
            remove = (("last", oldest.id),)
            require.append(Present(remove[0]))
        add: dict[Path, int] = {("version",): 1}
        if available:
            add[("available", "cost")] = available
        if allocated:
            add[("allocated", "cost")] = allocated
        change: dict[Path, Value] = {("last", entry.id): written(entry)}
        return isinstance(await self._apply(account, [Update(HEAD, tuple(require), add, change, remove)]), Applied)

    async def _record(self, account: str, allocation: Allocation) -> None:
        """Bring an allocation's record up to what the head said of it."""
        key, value = f"alloc:{allocation.id}", written(allocation)
        index = {INDEX: (partition(account), f"{allocation.due:016d}")} if allocation.state == "open" else {}
        put = Put(key, value, index=index)
        for _ in range(TRIES):
            result = await self._apply(account, [put])
            if isinstance(result, Applied):
                return
            stands = result.item if result else await self._read(account, key)
            turn, due = (whole(stands["turn"]), whole(stands["due"])) if stands else (-1, 0)
            if turn > allocation.turn or (turn == allocation.turn and (turn or due == allocation.due)):
                return
            # an intent is renewed: whoever drops the one before drops what has its due time, however late that arrives
            require = () if stands is None else (Equals(("turn",), turn), Equals(("due",), due))
            put = Put(key, value, require, index=index)
        raise too_fast(account)

    async def _forget(self, account: str, key: str) -> None:
        """Drop an intent that came to nothing, once no commit of it that is still under way can be taken.

        Without another version such a commit would count though nobody looks after it any more: its writer may be dead.
        """
        record, head = await self._read(account, key), await self._read(account, HEAD)
        if record is None or whole(record["turn"]) or whole(record["due"]) > self._clock.now():
            return
        if head is not None:
            late = Update(HEAD, (Equals(("version",), whole(head["version"])),), {("version",): 1})
            taken = key.removeprefix("alloc:") in table(head, "last")
            if taken or not isinstance(await self._apply(account, [late]), Applied):
                return  # the next look sees
        due = Equals(("due",), whole(record["due"]))  # another one is of an intent that was renewed meanwhile
        await self._apply(account, [Delete(key, (Equals(("turn",), 0), due))])

    async def _pause(self) -> None:
        await self._clock.sleep(PAUSE * (1 + self._clock.random(1)[0] / 256))

    async def _read(self, account: str, key: str) -> Item | None:
        try:
            return await self._state.read(partition(account), key)
        except Unavailable as error:
            raise unavailable(error) from error

    async def _apply(self, account: str, operations: Sequence[Operation]) -> Applied | Refused | None:
        """Apply; None where nobody knows, which every caller meets by looking again."""
        try:
            return await self._state.apply(partition(account), operations)
        except OutcomeUnknown:
            return None
        except Unavailable as error:
            raise unavailable(error) from error


def written(allocation: Allocation) -> dict[str, Value]:
    """Give an allocation as an item, or as an entry of the head."""
    return {
        "amount": allocation.amount,
        "at": allocation.at,
        "due": allocation.due,
        "state": allocation.state,
        "spent": allocation.spent,
        "turn": allocation.turn,
        **({"as_of": allocation.as_of} if allocation.as_of else {}),
    }


def read(name: str, item: Item) -> Allocation:
    """Read what `written` gave."""
    return Allocation(
        id=name,
        amount=whole(item["amount"]),
        at=whole(item["at"]),
        due=whole(item["due"]),
        state="released" if text(item["state"]) == "released" else "open",
        spent=whole(item["spent"]),
        turn=whole(item["turn"]),
        as_of=whole(item.get("as_of", 0)),
    )


def too_fast(account: str) -> Problem:
    """Give the problem for an account that others change all the time."""
    return Problem("conflict", f"pool {account!r} changes too fast right now; retry", retry_after=0.5)


def unavailable(error: Exception) -> Problem:
    """Give the problem for a store that can't be reached."""
    return Problem("state_unavailable", f"the pool could not be reached ({error}); retry", retry_after=1)
