"""A hold and its end, as operations of the state port; pure, so that all of it can be simulated.

Owns which condition guards which change. Refuses to know when they are sent (`ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from buspass.ledger.accounts import amounts, table, text, whole
from buspass.model import DUE_INDEX, SLOTS, UNLIMITED, Amounts, due_shard
from buspass.ports.forms import VARIES, Form, Given
from buspass.ports.operations import Remembered
from buspass.ports.state import (
    CHANGES,
    Absent,
    AtLeast,
    Condition,
    Equals,
    Item,
    Path,
    Prepared,
    Put,
    Update,
    Value,
    plain,
)

HEAD: Final = "head"
KEPT: Final = 16
"""Results of one tool whose kept facts are remembered; the seventeenth takes the first one's place."""
RECENT: Final = 24
"""Finished calls of a task that its head remembers: twelve turns of a model and a tool."""
OBSERVED: Final = 512
"""Calls in flight of a task that is only observed: what they would have been refused for is noted, but a head must fit
an item of every store.
"""
SWEEPING: Final = "sweeping"
"""The state of a call that was dispatching and whose hold a sweep ends."""
CORRECTED: Final = 60_000
"""Milliseconds after which a timer sees to it that a correction has reached the head, the pool or the parent."""
REMINDER: Final = "due:"
"""Begins the key of what has a timer post a correction; the call's id follows."""


class Claim(Struct, frozen=True, kw_only=True):
    """What a call asks to hold. `call` is its id K, `name` the alias or tool as a segment.

    It must be over by `deadline` (ms), and `lasts` (ms) after its hold: time spent waiting for money is not its own.
    `capped`: the tool has `max_calls`, one of which is taken. `version`: a rule read the history, so the head
    must still be the one it read. `keyed`: somebody else may run the same K. `observed`: no account refuses it, so each
    may go below zero; status, fence and time still do.
    """

    task: str
    call: str
    kind: Literal["inference", "action"]
    name: str
    amounts: Amounts
    fence: int
    deadline: int
    lasts: int = UNLIMITED
    cause: str = ""
    host: str = ""
    capped: bool = False
    version: int | None = None
    keyed: bool = False
    observed: bool = False


class Held(Struct, frozen=True, kw_only=True):
    """A hold that stands: nothing is sent without one. `turn` numbers the holds of this name, from 1."""

    claim: Claim
    attempt: str
    at: int
    turn: int
    head: Item

    @property
    def deadline(self) -> int:
        """When the call must be over, in ms."""
        return ends(self.claim, self.at)


class Outcome(Struct, frozen=True, kw_only=True):
    """How a call ended, for its head. `sent` False: surely nothing was dispatched, so nothing is counted.

    `use` is what it cost, by account. `last` and `kept` are an action's (`kept`: its facts as JSON text). `trail` is
    the line by which the head remembers it; it begins with the call's number.
    """

    use: Amounts
    sent: bool = True
    last: Literal["", "succeeded", "failed", "unknown"] = ""
    kept: str = ""
    trail: str = ""


def number(head: Item) -> int:
    """Count the holds of a task until now: of a head as its hold left it, that hold's own number."""
    return sum(whole(turn) for turn in table(head, "turns").values())


def ends(claim: Claim, now: int) -> int:
    """Give the deadline (ms) of a call whose hold stands from `now` on."""
    over = now + claim.lasts
    return over if over < claim.deadline else claim.deadline  # noqa: FURB136  (a fifth of its time)


def taken(claim: Claim) -> Amounts:
    """Give what a claim takes, by account: of which it takes nothing is not among them."""
    amounts = claim.amounts
    return amounts if all(amounts.values()) else {name: amount for name, amount in amounts.items() if amount}


def taking(claim: Claim, attempt: str, now: int) -> Prepared | Update:
    """Take the claim out of every account and enter the call in flight."""
    amounts = taken(claim)
    given = (claim.fence, now + 1, attempt, claim.cause, ends(claim, now), claim.host, now, *amounts.values())
    version = claim.version
    if version is not None:
        given = (*given, version)
    shape = (claim.kind, claim.name, claim.capped, claim.observed, version is not None, (*amounts,))
    return _TAKING[shape].of(claim.call, given)


def _taking(shape: tuple[str, str, bool, bool, bool, tuple[str, ...]]) -> Form:
    """Give the form of a hold.

    Given are fence, time, of the entry the attempt, cause, deadline, host and time, what each account loses, and the
    version if need be.
    """
    kind, name, capped, observed, versioned, accounts = shape
    fence, time, attempt, cause, deadline, host, now, *amounts, version = map(Given, range(8 + len(accounts)))
    require: list[Condition] = [
        Equals(("status",), "open"),
        Equals(("fence",), fence),
        AtLeast(("expires_at",), time),
        Absent(("open", VARIES)),
        AtLeast(("slots",), 1 + SLOTS - OBSERVED if observed else 1),
    ]
    taken = dict(zip(accounts, amounts, strict=True))
    if not observed:
        require += [AtLeast(("available", account), amount) for account, amount in taken.items()]
    add: dict[Path, int] = {("available", account): -amount for account, amount in taken.items()}
    add |= {("slots",): -1, ("version",): 1, ("count", name): 1, ("turns", name): 1}
    if kind == "action":
        add[("running", name)] = 1
    if capped:
        if not observed:
            require.append(AtLeast(("left", name), 1))
        add[("left", name)] = -1
    if versioned:
        require.append(Equals(("version",), version))
    # what no call of this shape differs in is said here, once
    entry: dict[str, Any] = {"attempt": attempt, "amounts": taken, "cause": cause, "deadline": deadline}
    entry |= {"state": "dispatching", "kind": kind, "name": name, "host": host, "at": now, "capped": capped}
    if observed:
        entry["observed"] = True
    return Form(Update(HEAD, tuple(require), add, {("open", VARIES): entry}))


_TAKING: Final = Remembered(_taking, 512)


class Entry(Struct, frozen=True, kw_only=True):
    """A call in flight as the head shows it: enough to end it for somebody who never saw it begin."""

    call: str
    attempt: str
    amounts: Amounts
    kind: str
    name: str
    cause: str
    host: str
    at: int
    deadline: int
    state: str
    capped: bool
    observed: bool


def entries(head: Item) -> list[Entry]:
    """Give the calls in flight."""
    return [entry_of(call, item) for call, item in table(head, "open").items() if isinstance(item, Mapping)]


def entry_of(call: str, item: Mapping[str, Value]) -> Entry:
    """Read one entry of `open`."""
    return Entry(
        call=call,
        attempt=text(item["attempt"]),
        amounts=amounts(item, "amounts"),
        kind=text(item["kind"]),
        name=text(item["name"]),
        cause=text(item["cause"]),
        host=text(item["host"]),
        at=whole(item["at"]),
        deadline=whole(item["deadline"]),
        state=text(item["state"]),
        capped=bool(item["capped"]),
        observed="observed" in item,
    )


def closing(entry: Entry, outcome: Outcome, now: int, turn: int = 0) -> Prepared | Update:
    """Give back what was not used and end the call. Its only condition: this hold is unsettled."""
    return _closed(entry, entry.attempt, entry.amounts, outcome, now, turn)


def settling(held: Held, amounts: Amounts, outcome: Outcome, now: int) -> Prepared | Update:
    """The same, for who still has the hold: of these amounts (`taken`)."""
    return _closed(held.claim, held.attempt, amounts, outcome, now, held.turn)


def _closed(of: Entry | Claim, attempt: str, held: Amounts, outcome: Outcome, now: int, turn: int) -> Prepared | Update:
    use, name, kind = outcome.use, of.name, of.kind
    back: dict[str, int] = {}
    for account, amount in held.items():
        if left := amount - use.get(account, 0):
            back[account] = left
    for account, amount in use.items():
        if account not in held and amount:
            back[account] = -amount
    last = outcome.last if kind == "action" else ""
    trail, kept = outcome.trail, outcome.kept if kind == "action" else ""
    recent = str(int(trail.partition(" ")[0]) % RECENT) if trail else ""
    given = (attempt, *back.values())
    if not kept:
        form = _CLOSING[kind, name, of.capped, outcome.sent, last, recent, (*back,)]
        return form.of(of.call, (*given, trail) if form.parts else given)
    end = _CLOSING[kind, name, of.capped, outcome.sent, last, "", (*back,)].update(of.call, given)
    put = dict(end.set)
    put[("kept", f"{name}:{turn % KEPT}")] = {"facts": kept, "at": now, "turn": turn}
    if trail and len(end.add) + len(put) + 1 < CHANGES:
        put[("recent", recent)] = trail
    return Update(HEAD, end.require, end.add, put, end.remove)


def _closing(shape: tuple[str, str, bool, bool, str, str, tuple[str, ...]]) -> Form:
    """Give the form of an end: given are the attempt, what each account gets back, and the trail if there is room.

    Only an unsent call with `max_calls` has none.
    """
    kind, name, capped, sent, last, recent, accounts = shape
    add: dict[Path, int] = {("available", account): Given(at) for at, account in enumerate(accounts, 1)}
    put: dict[Path, Value] = {}
    add |= {("slots",): 1, ("version",): 1, ("entries",): 1}
    if kind == "action":
        add[("running", name)] = -1
        if last:
            put[("last", name)] = last
        if last == "succeeded":
            add[("done", name)] = 1
    if not sent:
        add[("count", name)] = -1
        if capped:
            add[("left", name)] = 1
    if recent and len(add) + len(put) + 1 < CHANGES:
        put[("recent", recent)] = Given(1 + len(accounts))
    mine = Equals(("open", VARIES, "attempt"), Given(0))
    return Form(Update(HEAD, (mine,), add, put, (("open", VARIES),)))


_CLOSING: Final = Remembered(_closing, 2048)


def releasing(entry: Entry) -> Update:
    """End a hold that stands for nothing: no record, so no entry either, and no count. Not one that a sweep ends."""
    end = plain(closing(entry, Outcome(use={}, sent=False), 0))
    add = {path: amount for path, amount in end.add.items() if path != ("entries",)}
    require = (*end.require, Equals(("open", entry.call, "state"), entry.state))
    return Update(HEAD, require, add, end.set, end.remove)


def sweeping(entry: Entry, item: Mapping[str, Value]) -> Update:
    """Keep a hold from being released: from here on it ends with a record. `item`: how the head shows it.

    Without this a sweeper that was frozen after its look would write a record for a hold that was given back meanwhile:
    where a store applies one operation at a time, that record would stand.
    """
    path = ("open", entry.call)
    require = (Equals((*path, "attempt"), entry.attempt), Equals((*path, "state"), entry.state))
    return Update(HEAD, require, {("version",): 1}, {path: {**item, "state": SWEEPING}})


def crediting(task: str, call: str, back: Amounts, now: int) -> Update:
    """Correct the head once, after a sweep charged what turned out cheaper (or dearer).

    The marker is the time of it (ms): a seal drops it when no repetition can be under way any more. A timer is to look
    at the task soon: it may have ended and given back by the old sum, and who corrects that may die on the way.
    """
    add: dict[Path, int] = {("available", name): amount for name, amount in back.items() if amount}
    add |= {("version",): 1, ("entries",): 1}
    due = {DUE_INDEX: (due_shard(task), f"{now + CORRECTED:016d}")}
    return Update(HEAD, (Absent(("late", call)),), add, {("late", call): now}, index=due)


def reminding(task: str, call: str, now: int) -> Put:
    """Have a timer post a correction whose writer dies between its record and the head: written before both."""
    due = {DUE_INDEX: (due_shard(task), f"{now + CORRECTED:016d}")}
    return Put(f"{REMINDER}{call}", {"at": now}, index=due)


def record_key(call: str) -> str:
    """Give the key of a call's record in its task's partition."""
    return f"rec:{call}"


def credit_key(call: str) -> str:
    """Give the key of the correction to a call that was settled after its sweep."""
    return f"credit:{call}"


def putting(key: str, record: Item) -> Put:
    """Write a record, once and for ever."""
    return Put(key, record)


def needs(claim: Claim) -> frozenset[str]:
    """Name the accounts that a claim takes from."""
    return frozenset({"slots", *(name for name, amount in claim.amounts.items() if amount)})


def expired(head: Item, now: int, skew: int) -> list[Entry]:
    """Give the holds that nobody will settle: `skew` (ms) is twice what clocks may differ."""
    flying: Mapping[str, Any] = table(head, "open")
    if not flying or now <= min([entry["deadline"] for entry in flying.values()]) + skew:
        return []  # nearly always, however many fly
    return [entry for entry in entries(head) if now > entry.deadline + skew]
