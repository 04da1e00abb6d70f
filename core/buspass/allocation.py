"""A task's money comes out of its pool: allocated before the task begins, released when it has ended.

Owns the order of the two stores' partitions, and the sweep that finishes what a crash left: a task that was never
born gets a tombstone first, so that nobody can give it birth after its money went back. Refuses to know who starts it.
"""

from __future__ import annotations

from typing import Any, Final

from buspass.calls.house import House
from buspass.closing import LIVING, settle_overdue
from buspass.errors import Problem
from buspass.ledger import new_head
from buspass.ledger.holds import entries
from buspass.ledger.ledger import SKEW
from buspass.ledger.pools import Allocation, Lack
from buspass.model import MICRO
from buspass.ports.state import OutcomeUnknown, Put, Unavailable

ABANDONED: Final = 600_000
"""Milliseconds after which a task that has money and was not born is taken for lost."""
SWEPT: Final = 20
"""Due allocations that whoever starts a task looks at."""
SEARCHED: Final = 100
"""Open allocations that are looked at before a pool is called short."""
EVER: Final = 10**16 - 1


async def draw(house: House, pool: str, task: str, cost: int, deadline: int) -> Allocation:
    """Allocate `cost` (micro-dollars) to a task that lives until `deadline` (ms). The same task draws once.

    Raises Problem denied (no such pool any more), budget_held (tasks hold what may come back), budget_exhausted,
    state_unavailable.
    """
    if (configured := house.settings.pools.get(pool)) is None:
        raise Problem("denied", f"pool {pool!r} is not configured at this host any more", reasons=["pool"])
    now = house.clock.now()
    due = min(deadline, now + ABANDONED)
    await sweep(house, pool, now, SWEPT)
    found = await house.pools.allocate(pool, configured.cost, task, cost, due)
    if isinstance(found, Lack) and house.pools.may_search(pool):  # some may have ended before their time
        await sweep(house, pool, EVER, SEARCHED)
        found = await house.pools.allocate(pool, configured.cost, task, cost, due)
    if isinstance(found, Lack):
        raise _short(pool, found)
    return found


async def sweep(house: House, pool: str, until: int, limit: int) -> None:
    """Release what ended tasks have left, of allocations that are due by `until` (ms)."""
    for allocation in await house.pools.open_until(pool, until, limit):
        await _look_after(house, pool, allocation)


async def _look_after(house: House, pool: str, allocation: Allocation) -> None:
    now = house.clock.now()
    try:
        view = await house.tasks.look(allocation.id)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        if allocation.at + ABANDONED <= now and await _bury(house, pool, allocation):
            await house.pools.release(pool, allocation.id, 0)
        return
    view = await settle_overdue(house, view)
    if allocation.due > now:
        return
    latest = max((entry.deadline for entry in entries(view.head)), default=0)
    if view.head["status"] in LIVING:
        latest = max(latest, int(str(view.head["expires_at"])))
    if latest:
        await house.pools.postpone(pool, allocation.id, latest + 2 * SKEW + 1000)


async def _bury(house: House, pool: str, allocation: Allocation) -> bool:
    """Put an ended head where a task was to be born; say whether nothing but that stands there."""
    stone = {
        **new_head(limits={"cost": allocation.amount}, expires_at=allocation.at, max_calls={}),
        "status": "expired",
        "pool": pool,
        "tombstone": True,
    }
    try:
        await house.state.apply(allocation.id, [Put("head", stone)])
        head = await house.state.read(allocation.id, "head")
    except OutcomeUnknown:
        return False  # the next sweep sees
    except Unavailable as error:
        raise Problem("state_unavailable", f"the task's state could not be reached ({error})", retry_after=1) from error
    return head is not None and head.get("tombstone") is True


def _short(pool: str, lack: Lack) -> Problem:
    needed, left = lack.needed / MICRO, max(lack.available, 0) / MICRO
    said = f"pool {pool!r} has ${left:.6f} left and this task needs ${needed:.6f}"
    members: dict[str, Any] = {"limit": "pool", "pool": pool, "needed": needed, "left": left}
    if lack.available + lack.allocated >= lack.needed:
        detail = f"{said}; tasks in progress hold the rest: retry when one has ended, or ask for a smaller budget"
        return Problem("budget_held", detail, retry_after=5, **members)
    detail = f"{said}; an operator may raise pools.{pool}.cost, or give the task a smaller budget"
    return Problem("budget_exhausted", detail, **members)
