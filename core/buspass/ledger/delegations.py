"""A child's budget: taken out of its parent's head, and what is left given back once, when the child has ended.

Owns the map `children` of a task's head and the records `rec:CHILD`, `credit:CHILD.N` in its journal. Refuses to know
where a child lies and when it has ended: it is told what was spent.

    delegated  one update of the parent's head: `available −n`, an entry in a free place of `children`
    returned   the record of what the child used, then one update conditional on that very entry: the entry is gone,
               `available + n − used`. So a child is to its parent what a call is, but that it may last
    corrected  a child's call that was settled late: a credit record, posted once under its marker

A child at a peer is settled by what the peer says, up to what it got: more is the peer's own loss, and what was not
allocated to it is not counted. A correction can only give more back: what came back before may be spent by now.

An entry has an `attempt` of its own; the child's head names the one that it lives on. Whatever else was taken for that
child (its beginning was repeated, or a write came late) stands for nothing and goes back whole, without a record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.ledger.accounts import amounts, coming, table, text, whole
from buspass.ledger.holds import HEAD, credit_key, crediting, record_key
from buspass.ledger.insistent import TRIES, Insistent, unavailable
from buspass.ledger.ledger import Stale, Stamp
from buspass.model import ACCOUNTS, MICRO, Amounts, due_shard
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Absent,
    Applied,
    AtLeast,
    Condition,
    Equals,
    Item,
    OutcomeUnknown,
    Path,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    Value,
)

PLACES: Final = 16
"""Children that a task may have at once: the head is small, and billed whole."""
CAPS: Final = 2
"""Tools with `max_calls` that one child may get: an update carries ten changes."""
CORRECTIONS: Final = 64
"""Corrections that are taken of one child at a peer: each is a record, and nobody else bounds how many it sends. Of our
own children as many that change nothing, for a child grows newer by refusals too.
"""
RENEWED: Final = 120_000
"""Milliseconds between two renewals of the lease of a child in another store."""


class Delegation(Struct, frozen=True, kw_only=True):
    """What a child got. `caps`: calls of tools with `max_calls`, by segment; `host`: at whose store it lies, "" here.

    `peer`: in which other trust domain, "" in this one. `at` and `deadline` (it must be over then) in ms; `place` and
    `attempt` say which entry it is.
    """

    task: str
    workflow: str
    amounts: Amounts
    caps: Mapping[str, int]
    host: str
    at: int
    deadline: int
    peer: str = ""
    place: str = ""
    attempt: str = ""

    @property
    def apart(self) -> bool:
        """Whether a kill may not get through, so that it lives on a lease."""
        return bool(self.host or self.peer)


class Closing(Struct, frozen=True, kw_only=True):
    """How a child ended: what it used, and which calls of capped tools it has left.

    `as_of` grows with whatever that is read from: the child's `entries`. Of two closings the newer one is true.
    """

    status: str
    used: Amounts
    caps: Mapping[str, int]
    as_of: int


class Delegations:
    """The children of tasks in one store. Safe for any number of concurrent callers and processes."""

    def __init__(self, state: State, clock: Clock, stamp: Stamp) -> None:
        self._state, self._store = state, Insistent(state, clock.sleep)
        self._clock = clock
        self._stamp = stamp

    async def delegate(self, parent: str, fence: int, wish: Delegation) -> Delegation | Stale:
        """Take a child's budget out of its parent. Stale: the head says why not, and the guard reads it.

        The same child is paid once: one that has an entry from before keeps it. Raises Problem budget_exhausted,
        budget_held, too_many_in_flight, call_limit, state_unavailable.
        """
        for _ in range(4 * TRIES):
            head = await self._store.head(parent)
            if mine := next((each for each in delegations(head) if each.task == wish.task), None):
                return mine  # ours, or a beginning's that broke off: the child is not paid twice
            now = self._clock.now()
            if head["status"] != "open" or head["fence"] != fence or whole(head["expires_at"]) <= now:
                return Stale(head)
            _affordable(head, wish)
            free = [str(place) for place in range(PLACES) if str(place) not in table(head, "children")]
            if not free:
                detail = f"{PLACES} children of this task live; begin another when one has ended"
                raise Problem("too_many_in_flight", detail, retry_after=5)
            entry = replace(wish, place=free[0], attempt=self._clock.random(8).hex(), at=now)
            try:
                if isinstance(await self._state.apply(parent, [taking(parent, entry, fence, now)]), Applied):
                    return entry
            except OutcomeUnknown:
                continue  # if it arrives later it stands for nothing, since the child lives on another one
            except Unavailable as error:
                raise unavailable(str(error)) from error
        raise Problem("conflict", "the task changes too fast right now; retry", retry_after=0.5)

    async def give_back(self, parent: str, entry: Delegation) -> None:
        """Give back whole what stands for nothing: no child lives on it."""
        await self._store.commit(parent, [returning(entry, {}, entry.caps)])

    async def settle(self, parent: str, entry: Delegation, closing: Closing, host: str) -> bool:
        """Write what the child used, and give back the rest; say whether the record that stands knows this closing.

        Where it does not, another was told an older one first: `correct` it.
        """
        key, used = record_key(entry.task), _counted(entry, closing.used)
        record: dict[str, Value] = {
            "kind": "child",
            "name": entry.workflow,
            "host": host,
            "at": entry.at,
            "ended": self._clock.now(),
            "state": "settled",
            "status": closing.status,
            "attempt": entry.attempt,
            "as_of": closing.as_of,
            "use": {name: amount for name, amount in used.items() if amount},
            "caps": dict(closing.caps),
        }
        if entry.peer:
            record |= {"peer": entry.peer, "amounts": dict(entry.amounts)}
        end = returning(entry, used, closing.caps, counted=True)
        result = await self._store.commit(parent, [Put(key, self._stamp(parent, key, record)), end])
        found = result.item if isinstance(result, Refused) and result.index == 0 else None
        if found is None:
            return True
        if found["attempt"] == entry.attempt:  # a crash between record and head, or another host at work
            end = returning(entry, amounts(found, "use"), amounts(found, "caps"), counted=True)
            await self._store.commit(parent, [end])
        else:  # the child was settled under another entry
            await self.give_back(parent, entry)
        return _as_of(found) >= closing.as_of

    async def correct(
        self,
        parent: str,
        child: str,
        closing: Closing,
        sealed: Callable[[], Awaitable[frozenset[str]]],
        host: str,
        peer: str = "",
    ) -> bool:
        """Post the difference to what was settled before; say whether something was posted.

        A closing that is not newer than what stands there changes nothing: its bearer was frozen since. So a newer one
        is posted also where it says the same, after two late settles that cancel: one between them is older. `sealed`:
        records under a seal of the parent's; what stands there was posted long ago. `peer`: whose word it is, "" this
        domain's. Raises Problem conflict.
        """
        record = await self._store.read(parent, record_key(child))
        if record is None or record.get("peer", "") != peer:
            return False
        posted = False
        for _ in range(TRIES):
            posts = await self._store.list(parent, f"{credit_key(child)}.", "", 1000)
            posted |= await self._post(parent, posts, sealed)
            if closing.as_of <= max(map(_as_of, (record, *(credit for _, credit in posts)))):
                return posted
            if peer and len(posts) >= CORRECTIONS:
                return posted
            before = _summed(record, posts)
            used = _within(before, closing.used) if peer else closing.used  # the rest was given back, and may be spent
            more = {name: used.get(name, 0) - before[name] for name in ACCOUNTS}
            if not any(more.values()) and (peer or len(posts) >= CORRECTIONS):
                return posted  # of a peer the least counts that it ever said, in whatever order that comes
            call, now = f"{child}.{len(posts)}", self._clock.now()
            key = credit_key(call)
            back = {name: -amount for name, amount in more.items()}
            correction = _correction(record, closing, more, host, now)
            put = Put(key, self._stamp(parent, key, correction))
            result = await self._store.commit(parent, [put, crediting(parent, call, back, now)])
            if isinstance(result, Applied):
                return True
            # that number was taken, by ours whose answer was lost or by another's: the next look sees
        raise Problem("conflict", "the child is corrected by others right now; retry", retry_after=0.5)

    async def _post(
        self, parent: str, posts: Sequence[tuple[str, Item]], sealed: Callable[[], Awaitable[frozenset[str]]]
    ) -> bool:
        """Post corrections whose writers died between the record and the head; say whether one was."""
        if not posts:
            return False
        head, old, posted = await self._store.head(parent), await sealed(), False
        for key, credit in posts:
            call = key.removeprefix(credit_key(""))
            if key not in old and call not in table(head, "late"):
                back = {name: -amount for name, amount in amounts(credit, "use").items()}
                await self._store.commit(parent, [crediting(parent, call, back, self._clock.now())])
                posted = True
        return posted


# ── operations, pure ────────────────────────────────────────────────────────────────────────────────────────────────


def taking(parent: str, entry: Delegation, fence: int, now: int) -> Update:
    """Take a child's budget out of its parent's accounts, and enter it. A lease in another store is to be renewed."""
    taken = {name: amount for name, amount in entry.amounts.items() if amount}
    require: list[Condition] = [
        Equals(("status",), "open"),
        Equals(("fence",), fence),
        AtLeast(("expires_at",), now + 1),
        Absent(("children", entry.place)),
        *(AtLeast(("available", name), amount) for name, amount in taken.items()),
        *(AtLeast(("left", tool), calls) for tool, calls in entry.caps.items()),
    ]
    add: dict[Path, int] = {("available", name): -amount for name, amount in taken.items()}
    add |= {("left", tool): -calls for tool, calls in entry.caps.items()}
    add[("version",)] = 1
    value: dict[str, Value] = {
        "task": entry.task,
        "attempt": entry.attempt,
        "workflow": entry.workflow,
        "amounts": dict(entry.amounts),
        "caps": dict(entry.caps),
        "host": entry.host,
        "at": entry.at,
        "deadline": entry.deadline,
        **({"peer": entry.peer} if entry.peer else {}),
    }
    index = {"due": (due_shard(parent), f"{now + RENEWED:016d}")} if entry.apart else {}
    return Update(HEAD, tuple(require), add, {("children", entry.place): value}, index=index)


def returning(entry: Delegation, used: Amounts, caps: Mapping[str, int], *, counted: bool = False) -> Update:
    """Give back what was not used and drop the entry. `counted`: a record says so, and is counted with it."""
    mine = Equals(("children", entry.place, "attempt"), entry.attempt)
    back = {name: entry.amounts.get(name, 0) - used.get(name, 0) for name in ACCOUNTS}
    add: dict[Path, int] = {("available", name): amount for name, amount in back.items() if amount}
    unspent = {tool: min(calls, entry.caps[tool]) for tool, calls in caps.items() if tool in entry.caps}
    add |= {("left", tool): calls for tool, calls in unspent.items() if calls}
    add |= {("version",): 1, ("entries",): 1} if counted else {("version",): 1}
    return Update(HEAD, (mine,), add, remove=(("children", entry.place),))


def delegations(head: Item) -> list[Delegation]:
    """Give the children that have money of this task."""
    found = head.get("children")
    return [
        Delegation(
            task=text(item["task"]),
            workflow=text(item["workflow"]),
            amounts=amounts(item, "amounts"),
            caps=amounts(item, "caps"),
            host=text(item["host"]),
            at=whole(item["at"]),
            deadline=whole(item["deadline"]),
            peer=text(item.get("peer", "")),
            place=place,
            attempt=text(item["attempt"]),
        )
        for place, item in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(item, Mapping)
    ]


def _affordable(head: Item, wish: Delegation) -> None:
    """Raise the Problem of an account that is too small."""
    available, may_come = amounts(head, "available"), coming(head)
    for name, amount in wish.amounts.items():
        if amount <= available[name]:
            continue
        shown: dict[str, Any] = {
            part: _plain(name, number) for part, number in (("needed", amount), ("left", available[name]))
        }
        said = f"the child needs {name} {shown['needed']:g} and the task has {shown['left']:g} left"
        if amount <= available[name] + may_come[name]:
            detail = f"{said}; calls in flight and other children hold more: retry, or ask for a smaller budget"
            raise Problem("budget_held", detail, retry_after=1, limit=name, **shown)
        raise Problem("budget_exhausted", f"{said}; ask for less: budget: {{{name}: …}}", limit=name, **shown)
    for tool, calls in wish.caps.items():
        if whole(table(head, "left").get(tool, 0)) < calls:
            raise Problem("call_limit", f"tool {tool!r} has fewer calls left than the child would get", tool=tool)


def _summed(record: Item, posts: Sequence[tuple[str, Item]]) -> dict[str, int]:
    """Give what stands: what a child used by its record and all corrections."""
    total = dict.fromkeys(ACCOUNTS, 0)
    for item in (record, *(credit for _, credit in posts)):
        for name, amount in amounts(item, "use").items():
            total[name] += amount
    return total


def _correction(record: Item, closing: Closing, more: Amounts, host: str, now: int) -> dict[str, Value]:
    """Give the credit record by which a child's use is what its newer closing says."""
    return {
        "kind": "child",
        "name": record["name"],
        "host": host,
        "at": record["at"],
        "ended": now,
        "state": "credit",
        "attempt": record["attempt"],
        "as_of": closing.as_of,
        "use": {name: amount for name, amount in more.items() if amount},
    }


def _counted(entry: Delegation, used: Amounts) -> Amounts:
    """Give what a closing counts for."""
    return _within(entry.amounts, used) if entry.peer else used


def _within(most: Amounts, used: Amounts) -> dict[str, int]:
    """Give what a peer says was used, of what it got: it may lie about its own part and nothing else."""
    return {name: max(0, min(used.get(name, 0), amount)) for name, amount in most.items()}


def _as_of(record: Item) -> int:
    """Say how new the closing is that a child's record, or a correction to it, stands on."""
    return whole(record.get("as_of", 0))


def _plain(account: str, amount: int) -> int | float:
    return amount / MICRO if account == "cost" else amount
