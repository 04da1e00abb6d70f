"""The end of a task's money: the lazy sweep, the end of its time, and what flows back to its pool or its parent.

Owns what is done to a task whenever somebody comes by, and to the children that have money of it. Refuses to know who
that is. What is given back to a task that has ended itself flows on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.identity.peer_claims import Order, Statement
from buspass.journal.seals import read_all
from buspass.ledger import Closing, Delegation, balance, delegations, new_head
from buspass.ledger.accounts import amounts
from buspass.ledger.holds import entries
from buspass.ledger.ledger import SKEW
from buspass.ledger.statement import closed, stated
from buspass.model import ACCOUNTS
from buspass.peering import asked, link_to, told
from buspass.ports.state import Item, OutcomeUnknown, Put, Unavailable, Value
from buspass.tasks import View
from buspass.tasks.lifecycle import LIVING, SEALING, Verb

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
    if isinstance(link := head.get("parent"), Mapping) and "peer" not in link:
        await _hand_back(house, task, head, link)


async def give_back_now(house: House, task: str, head: Item) -> None:
    """The same where an answer must not wait for it, and telling a peer; what is not done now, a timer does."""
    with suppress(Problem):
        await give_back(house, task, head)
    await told(house, task, head)


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
    await _credited(above, parent, task, entry, closing)


async def _credited(
    house: House, parent: str, child: str, entry: Delegation | None, closing: Closing, peer: str = ""
) -> None:
    """Book how a child ended at its parent, and let what comes back flow on where the parent has ended too."""
    book, host = house.delegations, house.host.name
    if entry is None or not await book.settle(parent, entry, closing, host):
        corrected = await book.correct(parent, child, closing, partial(_sealed, house, parent), host, peer)
        if not corrected and entry is None:
            return
    await _flow_on(house, parent)


async def _flow_on(house: House, task: str) -> None:
    head = (await house.tasks.look(task)).head
    if head["status"] not in LIVING:
        await house.sealer.seal(task)
        await give_back(house, task, head)


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
        if entry.peer:
            continue  # who looks at a task does not wait for those: a timer asks them
        if overdue or head["status"] == "killed":
            with suppress(Problem):  # out of reach it stays allocated: the next look sees
                await settle_child(house, task, entry, kill=head["status"] == "killed")
                found = True
    return found


async def end_children(house: House, task: str, head: Item) -> Item:
    """Kill the children of a task that was killed; give its head as it is then. Raises Problem state_unavailable.

    One in another store or at a peer that can't be reached stops by itself when its lease is over.
    """
    found = delegations(head)
    for entry in found:
        if entry.peer:
            continue
        try:
            await settle_child(house, task, entry, kill=True)
        except Problem:
            if not entry.host:
                raise
    await ask_peers(house, task, head)
    return (await house.tasks.look(task)).head if found else head


# ── peers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask_peers(house: House, task: str, head: Item, until: int = 0, *, unborn: str = "") -> bool:
    """Have peers renew their children of this task until then (ms), or kill them where it was killed, and hear them.

    Say whether it has any. One out of reach is asked again by a timer: what it has stays allocated. `unborn`: this one
    alone, and it is not to be born any more.
    """
    killed, now = head["status"] == "killed", house.clock.now()

    async def ask(entry: Delegation) -> None:
        late = entry.at + ABANDONED <= now
        link = link_to(house, task, entry)
        order = Order(link=link, until=0 if killed else until, kill=killed, bury=killed or late or bool(unborn))
        with suppress(Problem, Unavailable, OutcomeUnknown):
            await heard(house, entry.peer, await asked(house, task, entry, order))

    found = [entry for entry in delegations(head) if entry.peer and unborn in {"", entry.task}]
    await asyncio.gather(*map(ask, found))
    return bool(found)


async def heard(house: House, peer: str, said: Statement) -> None:
    """Take a peer's word for how its child of a task of ours stands: once, and no older one after it.

    It gives back at most what the child got: a peer may lie about that and nothing else. Raises Problem.
    """
    if said.state not in {"ended", "void"}:
        return
    link = said.link
    above = await house.beside(link.host)
    try:
        head = (await above.tasks.look(link.parent)).head
    except Problem as problem:
        if problem.code != "not_found":
            raise
        return  # it was erased: nobody is owed anything
    meant = (link.child, link.allocation, peer)
    entry = next((each for each in delegations(head) if (each.task, each.attempt, each.peer) == meant), None)
    if said.state == "ended":
        closing = Closing(status=said.status, used=said.used, caps={}, as_of=said.as_of)
        await _credited(above, link.parent, link.child, entry, closing, peer)
    elif entry is not None:
        await above.delegations.give_back(link.parent, entry)
        await _flow_on(above, link.parent)


async def draining(house: House, head: Item) -> tuple[int, int]:
    """Say how many calls of a killed task and its children are in flight, and when that is over at the latest (ms)."""
    calls = entries(head)
    count, latest = len(calls), max((entry.deadline for entry in calls), default=0)
    for child in delegations(head):
        lease = min(child.deadline, house.clock.now() + LEASE)
        if child.peer:  # it has not said yet that nothing is in flight
            latest = max(latest, lease)
            continue
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
    if kill:
        view = await kill_child(there, view, parent)
    await settle_overdue(there, view)


async def kill_child(house: House, view: View, parent: str) -> View:
    """Kill a child whose parent was killed, and all that is below it; give it as it is then. Raises Problem."""
    task = view.task.id
    if view.head["status"] in LIVING:
        record = lifecycle_record(house, "kill", status="killed", reason="its parent was killed", by=f"task {parent}")
        with suppress_ended():
            await house.tasks.change(task, "kill", record)
        await house.sealer.seal(task)
        view = await house.tasks.look(task)
    if view.head["children"]:  # also where it had ended by itself: a kill is not answered before
        await end_children(house, task, view.head)
        view = await house.tasks.look(task)
    return view


class suppress_ended(suppress):  # noqa: N801 - reads like `suppress`
    """Let a task be that has ended meanwhile; a store that is away is told."""

    def __init__(self) -> None:
        super().__init__(Problem)

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, Problem) and error.code != "state_unavailable"


async def _bury(house: House, above: str, parent: str, entry: Delegation) -> bool:
    """Put an ended head where a child was to be born; say whether nothing but that stands there."""
    link = {"task": parent, "host": above, "attempt": entry.attempt}
    return await buried(house, entry.task, tombstone(entry.amounts, entry.at, {"parent": link}))


def tombstone(limits: Mapping[str, int], at: int, born: Mapping[str, Value]) -> dict[str, Value]:
    """Give the head of a task that can't be born any more, with what it lived on (`pool`, `parent`); `at` in ms."""
    return {**new_head(limits=limits, expires_at=at, max_calls={}), **born, "status": "expired", "tombstone": True}


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
