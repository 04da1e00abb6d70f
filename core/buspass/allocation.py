"""A task's money comes out of its pool: allocated before the task begins, released when it has ended.

Owns the order of the two stores' partitions, and the sweep that finishes what a crash left: a task that was never
born gets a tombstone first, so that nobody can give it birth after its money went back. Refuses to know who starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from buspass.calls.house import House
from buspass.closing import ABANDONED, buried, settle_overdue, tombstone
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.ledger.holds import entries
from buspass.ledger.ledger import SKEW
from buspass.ledger.pools import LOOK, Allocation, Lack
from buspass.ledger.windows import Account, shards
from buspass.model import MICRO
from buspass.ports.state import Item
from buspass.tasks import Task
from buspass.tasks.lifecycle import LIVING

SWEPT: Final = 20
"""Due allocations that whoever starts a task looks at."""
SEARCHED: Final = 100
"""Open allocations that are looked at before a pool is called short."""
EVER: Final = 10**16 - 1


class Drawn(Struct, frozen=True, kw_only=True):
    """What a task got: `amount` in micro-dollars, and the account that it comes from and goes back to.

    `over`: it was given back already, so the task can't begin with it.
    """

    account: str
    amount: int
    over: bool


async def draw(house: House, pool: str, task: str, cost: int, deadline: int) -> Drawn:
    """Allocate `cost` (micro-dollars) to a task that lives until `deadline` (ms), from the pool's window of now.

    In one account the same task draws once. Raises Problem denied (no such pool any more), budget_held (tasks hold what
    may come back), budget_exhausted, state_unavailable.
    """
    if pool not in house.settings.pools:
        raise Problem("denied", f"pool {pool!r} is not configured at this host any more", reasons=["pool"])
    now = house.clock.now()
    due = min(deadline, now + ABANDONED)
    accounts = shards(house.settings.pools, pool, now, task)
    await sweep(house, accounts[0].id, now, SWEPT)
    found = await _first(house, accounts, task, cost, due)
    if isinstance(found, Lack) and house.pools.may_search(pool):  # some may have ended before their time
        for account in {each.id: each for one in accounts for each in one.chain()}:
            await sweep(house, account, EVER, SEARCHED)
        found = await _first(house, accounts, task, cost, due)
    if isinstance(found, Lack):
        raise _short(pool, found, accounts[0])
    return found


async def drawn_for(house: House, workflow: Workflow, task: Task, limits: Mapping[str, int]) -> Drawn | None:
    """Take a task's cost out of its workflow's pool, None where that has none. Raises Problem, as `draw`."""
    if workflow.pool is None:
        return None
    if (cost := limits.get("cost")) is None:
        raise Problem("denied", f"workflow {workflow.name!r} has a pool and no limit of cost", reasons=["pool"])
    return await draw(house, workflow.pool, task.id, cost, task.deadline)


async def _first(house: House, accounts: list[Account], task: str, cost: int, due: int) -> Drawn | Lack:
    """Take it from the task's own shard, or where that can't have it from one that still does."""
    lack = None
    for account in accounts:
        found = await house.pools.allocate(account, task, cost, due)
        if isinstance(found, Allocation):
            return Drawn(account=account.id, amount=found.amount, over=found.state == "released")
        lack = lack or found
    assert lack is not None, "a pool has an account"
    return lack


async def unused(house: House, drawn: Drawn, task: str, head: Item) -> None:
    """Give back at once what a task's beginning drew that stands on another account's money by now."""
    if head.get("pool") != drawn.account:
        await house.pools.release(drawn.account, task, 0)


async def tend(house: House, account: str, limit: int) -> None:
    """Look after an account whose time it is: what is due in it, and what flows on from it. Sets its timer anew."""
    if (timer := await house.pools.timer(account)) is None:
        return
    turn, armed = timer
    await sweep(house, account, house.clock.now(), limit)
    await house.pools.look_again(account, turn, done=await house.pools.flow(account, armed))


async def sweep(house: House, account: str, until: int, limit: int) -> None:
    """Release what ended tasks have left, of allocations that are due by `until` (ms)."""
    for allocation in await house.pools.open_until(account, until, limit):
        if allocation.account:
            await _look_below(house, account, allocation)
        else:
            await _look_after(house, account, allocation)


async def _look_below(house: House, account: str, allocation: Allocation) -> None:
    """Close the account that has this money, if its window is over and its tasks have ended."""
    now = house.clock.now()
    await sweep(house, allocation.account, now, SWEPT)
    if not await house.pools.flow(allocation.account) and allocation.due <= now:
        await house.pools.postpone(account, allocation.id, now + LOOK)


async def _look_after(house: House, account: str, allocation: Allocation) -> None:
    now = house.clock.now()
    try:
        view = await house.tasks.look(allocation.id)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        if allocation.at + ABANDONED <= now and await _bury(house, account, allocation):
            await house.pools.release(account, allocation.id, 0)
        return
    if view.head.get("pool") != account:  # it began with another account's money: this was never its own
        await house.pools.release(account, allocation.id, 0)
        return
    view = await settle_overdue(house, view)
    if allocation.due > now:
        return
    latest = max((entry.deadline for entry in entries(view.head)), default=0)
    if view.head["status"] in LIVING:
        latest = max(latest, int(str(view.head["expires_at"])))
    if latest:
        await house.pools.postpone(account, allocation.id, latest + 2 * SKEW + 1000)


async def _bury(house: House, account: str, allocation: Allocation) -> bool:
    """Put an ended head where a task was to be born; say whether nothing but that stands there."""
    stone = tombstone({"cost": allocation.amount}, allocation.at, {"pool": account})
    return await buried(house, allocation.id, stone)


def _short(pool: str, lack: Lack, account: Account) -> Problem:
    lacking = next((each for each in account.chain() if each.id == lack.account), account)
    needed, left = lack.needed / MICRO, max(lack.available, 0) / MICRO
    said = f"pool {lacking.pool!r} has ${left:.6f} left and this task needs ${needed:.6f}"
    members: dict[str, Any] = {"limit": "pool", "pool": lacking.pool, "needed": needed, "left": left}
    if lacking.pool != pool:
        said = f"pool {pool!r} draws from pool {lacking.pool!r}, which has ${left:.6f} left; ${needed:.6f} is needed"
    if lacking.ends:
        members["renews_at"] = f"{datetime.fromtimestamp(lacking.ends / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    if lack.available + lack.allocated >= lack.needed:
        detail = f"{said}; tasks in progress hold the rest: retry when one has ended, or ask for a smaller budget"
        return Problem("budget_held", detail, retry_after=5, **members)
    when = f"wait until {members['renews_at']}, " if lacking.ends else ""
    detail = f"{said}; {when}an operator may raise pools.{lacking.pool}.cost, or give the task a smaller budget"
    return Problem("budget_exhausted", detail, **members)
