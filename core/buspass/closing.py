"""The end of a task's money: the lazy sweep, the end of its time, and what flows back to its pool or its parent.

Owns what is done to a task whenever somebody comes by, and to the children that have money of it. Refuses to know who
that is. What is given back to a task that has ended itself flows on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal.seals import read_all
from buspass.ledger import Closing, Delegation, balance, delegations, new_head
from buspass.ledger.accounts import amounts
from buspass.ledger.holds import entries
from buspass.ledger.ledger import SKEW
from buspass.ledger.statement import closed, stated
from buspass.model import ACCOUNTS
from buspass.ports.state import Item, OutcomeUnknown, Put, Unavailable, Value
from buspass.tasks import View
from buspass.tasks.lifecycle import SEALING, Verb

LIVING: Final = frozenset({"open", "suspended"})
LEASE: Final = 300_000
"""Milliseconds that a child in another store goes on without word from its parent's host."""
ABANDONED: Final = 600_000
"""Milliseconds after which a task that has money and was not born is taken for lost."""


def lifecycle_record(house: House, operation: str, *, status: str, reason: str, by: str = "") -> dict[str, Value]:
    """Give the record of a change of status."""
    return {
        "kind": "lifecycle",
        "state": status,
        "operation": operation,
        "reason": reason[:500],
        "by": by,
        "host": house.host.name,
        "at": house.clock.now(),
    }


async def settle_overdue(house: House, view: View) -> View:
    """End holds that nobody will settle, a task whose time is over, and children that must be over by now.

    Gives back what an ended one has left, and the task as it is then. Raises Problem state_unavailable.
    """
    task = view.task.id
    swept = await house.ledger.sweep(task, view.head)
    expired = await expire(house, view)
    below = await _settle_below(house, task, view.head)
    if swept and not expired and view.head["status"] not in LIVING:
        await house.sealer.seal(task)  # what ended after its task did
    if swept or expired or below:
        view = await house.tasks.look(task)
    await give_back(house, task, view.head)
    return view


async def expire(house: House, view: View) -> bool:
    """End a task whose time is over; say whether it was. A lease that has run out ends nothing: it may be renewed."""
    task, now = view.task.id, house.clock.now()
    over = int(str(view.head["expires_at"])) <= now and ("lease" not in view.head or view.task.deadline <= now)
    if view.head["status"] not in LIVING or not over:
        return False
    record = lifecycle_record(house, "expire", status="expired", reason="its time is over")
    try:
        await house.tasks.change(task, "expire", record)
    except Problem as problem:
        if problem.code == "state_unavailable":
            raise
    await house.sealer.seal(task)
    return True


async def end(house: House, task: str, verb: Verb, record: Mapping[str, Value], fence: int | None = None) -> Item:
    """Change a task's status with all that follows: what is below a killed one is killed, an ended one gives back.

    Gives the head. `fence`: only for the holder of that fence. Raises Problem.
    """
    head = await house.tasks.change(task, verb, record, fence)
    if verb == "kill":
        head = await end_children(house, task, head)
    if verb in SEALING:
        await house.sealer.seal(task)
    await give_back_now(house, task, head)
    if verb == "kill" and not record.get("stop"):  # of a stop it is told once, not for each task
        told = {name: record.get(name) for name in ("reason", "by", "host")}
        await house.alerts.tell("killed", task, {"task": task, **told})
    return head


# ── what is left goes back ──────────────────────────────────────────────────────────────────────────────────────────


async def give_back(house: House, task: str, head: Item) -> None:
    """Release what an ended task has left, once no call of it is in flight and no child has money of it."""
    if head["status"] in LIVING or head["open"] or head["children"]:
        return
    if isinstance(pool := head.get("pool"), str):
        await house.pools.release(pool, task, balance(head).spent["cost"], int(str(head["entries"])))
    if isinstance(link := head.get("parent"), Mapping):
        await _hand_back(house, task, head, link)


async def give_back_now(house: House, task: str, head: Item) -> None:
    """The same where an answer must not wait for it: what is not given back now, the sweep gives back."""
    with suppress(Problem):
        await give_back(house, task, head)


async def _hand_back(house: House, task: str, head: Item, link: Mapping[str, Value]) -> None:
    """Give a child's parent what the child has left, once; correct it where a call was settled late. It flows on."""
    parent, hosts = str(link["task"]), house.settings.hosts
    as_of = int(str(head["entries"]))  # whatever a task spends is counted there: of two heads it tells the newer
    closing = Closing(status=str(head["status"]), used=_used(head), caps=_left(head), as_of=as_of)
    home = hosts.get(str(link["host"]))
    if home is None or home.state != hosts[house.place].state:  # there nobody takes our word for it
        await stated(house.state, house.signer, house.clock, house.keyring.check, task, link, closing)
        if (proven := await closed(house.state, house.keyring.check, task, link)) is None:
            return
        closing = proven
    above = await house.beside(str(link["host"]))
    found = delegations((await above.tasks.look(parent)).head)
    entry = next((each for each in found if (each.task, each.attempt) == (task, link["attempt"])), None)
    if entry is None or not await above.delegations.settle(parent, entry, closing, house.host.name):
        corrected = await above.delegations.correct(
            parent, task, closing, partial(_sealed, above, parent), house.host.name
        )
        if not corrected and entry is None:
            return
    after = (await above.tasks.look(parent)).head
    if after["status"] not in LIVING:
        await above.sealer.seal(parent)
        await give_back(above, parent, after)


async def _sealed(house: House, task: str) -> frozenset[str]:
    try:
        return (await read_all(house.state, task)).covered
    except Unavailable as error:
        detail = f"the parent's journal could not be read ({error}); retry"
        raise Problem("state_unavailable", detail, retry_after=1) from error


def _used(head: Item) -> dict[str, int]:
    return {name: amount for name, amount in balance(head).spent.items() if name in ACCOUNTS and amount}


def _left(head: Item) -> dict[str, int]:
    return {tool: calls for tool, calls in amounts(head, "left").items() if calls > 0}


# ── children ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _settle_below(house: House, task: str, head: Item) -> bool:
    """Look after children that must be over, were never born, or outlived a parent that was killed."""
    now, found = house.clock.now(), False
    for entry in delegations(head):
        overdue = now > min(entry.deadline + 2 * SKEW, entry.at + ABANDONED)
        if overdue or head["status"] == "killed":
            with suppress(Problem):  # out of reach it stays allocated: the next look sees
                await settle_child(house, task, entry, kill=head["status"] == "killed")
                found = True
    return found


async def end_children(house: House, task: str, head: Item) -> Item:
    """Kill the children of a task that was killed; give its head as it is then. Raises Problem state_unavailable.

    One in another store that can't be reached stops by itself when its lease is over.
    """
    found = delegations(head)
    for entry in found:
        try:
            await settle_child(house, task, entry, kill=True)
        except Problem:
            if not entry.host:
                raise
    return (await house.tasks.look(task)).head if found else head


async def draining(house: House, head: Item) -> tuple[int, int]:
    """Say how many calls of a killed task and its children are in flight, and when that is over at the latest (ms)."""
    calls = entries(head)
    count, latest = len(calls), max((entry.deadline for entry in calls), default=0)
    for child in delegations(head):
        lease = min(child.deadline, house.clock.now() + LEASE)
        try:
            there = await house.beside(child.host or house.place)
            below = await there.state.read(child.task, "head")
            more, until = await draining(there, below) if below else (0, 0)
        except (Problem, Unavailable):
            more, until = 0, lease
        count, latest = count + more, max(latest, until)
    return count, latest


async def settle_child(house: House, parent: str, entry: Delegation, *, kill: bool = False) -> None:
    """Do to one child what is due: kill it, end it, bury it where it was not born. Raises Problem.

    A child that was not born is buried at once where its parent was killed: nobody may give it birth any more.
    """
    there = await house.beside(entry.host or house.place)
    try:
        view = await there.tasks.look(entry.task)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        late = entry.at + ABANDONED <= house.clock.now()
        if (kill or late) and await _bury(there, house.place, parent, entry):
            await house.delegations.give_back(parent, entry)
        return
    link = view.head.get("parent")
    if not isinstance(link, Mapping) or link["attempt"] != entry.attempt:
        await house.delegations.give_back(parent, entry)  # it lives on another entry
        return
    if kill and view.head["status"] in LIVING:
        record = lifecycle_record(there, "kill", status="killed", reason="its parent was killed", by=f"task {parent}")
        with suppress_ended():
            await there.tasks.change(entry.task, "kill", record)
        await there.sealer.seal(entry.task)
        view = await there.tasks.look(entry.task)
    if kill and view.head["children"]:  # also where it had ended by itself: a kill is not answered before
        await end_children(there, entry.task, view.head)
        view = await there.tasks.look(entry.task)
    await settle_overdue(there, view)


class suppress_ended(suppress):  # noqa: N801 - reads like `suppress`
    """Let a task be that has ended meanwhile; a store that is away is told."""

    def __init__(self) -> None:
        super().__init__(Problem)

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, Problem) and error.code != "state_unavailable"


async def _bury(house: House, above: str, parent: str, entry: Delegation) -> bool:
    """Put an ended head where a child was to be born; say whether nothing but that stands there."""
    stone = {
        **new_head(limits=entry.amounts, expires_at=entry.at, max_calls={}),
        "status": "expired",
        "parent": {"task": parent, "host": above, "attempt": entry.attempt},
        "tombstone": True,
    }
    return await buried(house, entry.task, stone)


async def buried(house: House, task: str, stone: Mapping[str, Value]) -> bool:
    """Put a tombstone; say whether it stands. Raises Problem state_unavailable."""
    try:
        await house.state.apply(task, [Put("head", stone)])
        head = await house.state.read(task, "head")
    except OutcomeUnknown:
        return False  # the next sweep sees
    except Unavailable as error:
        raise Problem("state_unavailable", f"the task's state could not be reached ({error})", retry_after=1) from error
    return head is not None and head.get("tombstone") is True
