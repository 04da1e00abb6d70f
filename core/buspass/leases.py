"""Leases: until when a child goes on that a kill may not reach, renewed from the task above it.

Owns who has one and how far it reaches: never further than that of the task above. Refuses to know whose time it is to
renew one (`timer`), and how a peer is asked (`closing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from buspass.calls.house import House
from buspass.closing import LEASE
from buspass.errors import Problem
from buspass.ledger import Delegation, delegations
from buspass.ledger.holds import HEAD
from buspass.ports.state import Equals, Item, OutcomeUnknown, Unavailable, Update
from buspass.tasks import View
from buspass.tasks.lifecycle import LIVING


def first_lease(above: Item, asked: int, *, apart: bool) -> int | None:
    """Say until when (ms) a child goes on without word from above; None where every kill reaches it.

    Not every one reaches a child in another store or domain, nor who is below such a child, wherever they lie: theirs
    ends with its. It counts from `asked`, before the parent was seen alive: a host that is frozen at this birth adds
    nothing to it.
    """
    own = [asked + LEASE] if apart else []
    inherited = [int(str(above["expires_at"]))] if "lease" in above else []
    return min(own + inherited, default=None)


async def renew_below(house: House, view: View, until: int) -> None:
    """Renew to `until` (ms) the leases below a task that was not killed; none to longer than that task's own.

    Those of children in other stores, and of all who are below such a child, wherever they lie in this domain.
    """
    leased = "lease" in view.head
    if view.head["status"] == "killed":
        return
    for child in delegations(view.head):
        if not child.peer and (child.host or leased):
            with suppress(Problem, Unavailable, OutcomeUnknown):  # out of reach it stops by itself
                await _renew_one(house, child, until)


async def _renew_one(house: House, child: Delegation, until: int) -> None:
    there = await house.beside(child.host or house.place)
    below = await there.tasks.look(child.task)
    link = below.head.get("parent")
    if isinstance(link, Mapping) and link["attempt"] == child.attempt:
        await renew(there, below, until)


async def renew(house: House, view: View, until: int) -> None:
    """Renew a child's lease, and all below it."""
    old, until = int(str(view.head["expires_at"])), min(view.task.deadline, until)
    if "lease" not in view.head:
        return
    if until > old and (view.head["status"] in LIVING or view.head["children"]):
        renewal = Update(HEAD, (Equals(("expires_at",), old),), {("version",): 1}, {("expires_at",): until})
        await house.state.apply(view.task.id, [renewal])
    await renew_below(house, view, until)
