"""The end of a task's money: the lazy sweep, the end of its time, and what flows back to its pool.

Owns what is done to a task whenever somebody comes by. Refuses to know who that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.ledger import balance
from buspass.ports.state import Item, Value
from buspass.tasks import View

LIVING = frozenset({"open", "suspended"})


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
    """End holds that nobody will settle and a task whose time is over; give back what an ended one has left.

    Gives the task as it is then. Raises Problem state_unavailable.
    """
    task = view.task.id
    swept = await house.ledger.sweep(task, view.head)
    expired = await expire(house, view)
    if swept and not expired and view.head["status"] not in LIVING:
        await house.sealer.seal(task)  # what ended after its task did
    if swept or expired:
        view = await house.tasks.look(task)
    await give_back(house, task, view.head)
    return view


async def expire(house: House, view: View) -> bool:
    """End a task whose time is over; say whether it was."""
    task = view.task.id
    if view.head["status"] not in LIVING or int(str(view.head["expires_at"])) > house.clock.now():
        return False
    record = lifecycle_record(house, "expire", status="expired", reason="its time is over")
    try:
        await house.tasks.change(task, "expire", record)
    except Problem as problem:
        if problem.code == "state_unavailable":
            raise
    await house.sealer.seal(task)
    return True


async def give_back(house: House, task: str, head: Item) -> None:
    """Release to its pool what an ended task has left, once no call of it is in flight."""
    pool = head.get("pool")
    if isinstance(pool, str) and head["status"] not in LIVING and not _in_flight(head):
        await house.pools.release(pool, task, balance(head).spent["cost"])


async def give_back_now(house: House, task: str, head: Item) -> None:
    """The same where an answer must not wait for it: what is not given back now, the sweep gives back."""
    with suppress(Problem):
        await give_back(house, task, head)


def _in_flight(head: Item) -> bool:
    found = head["open"]
    return bool(found) if isinstance(found, Mapping) else False
