"""Bugs to plant: each is one that the protocols are there to prevent, and that the simulation has to find.

Owns what is wrong in each. Refuses to know how it is noticed: no law is written for a bug.
"""

from __future__ import annotations

import buspass.closing
import buspass.ledger.holds
import buspass.ledger.ledger
import buspass.ledger.pools
from buspass.ledger import Ledger, Outcome
from buspass.ledger.accounts import amounts
from buspass.ledger.delegations import Delegations, returning
from buspass.ledger.holds import closing, taking
from buspass.ledger.pools import Pools
from buspass.ports.state import AtLeast, Equals, Present, Put, Update

# ── in the ledger of one task ──


def closed_by_key(entry, *rest):
    update = closing(entry, *rest)
    return Update(update.key, (Present(("open", entry.call)),), update.add, update.set, update.remove)


def counted_release(entry):
    return closing(entry, Outcome(use={}, sent=False), 0)


def unconditional(claim, attempt, now):
    update = taking(claim, attempt, now)
    require = [one for one in update.require if not (isinstance(one, AtLeast) and one.path[0] == "available")]
    return Update(update.key, require, update.add, update.set)


async def trusting(self, held):
    return held


async def edited(self, task, entry, end, full, found):
    """Edit the swept record and the head, as one who thinks that nobody else does."""
    if found is None or found["attempt"] != entry.attempt:
        return None
    if found["state"] == "settled":
        return await self._commit(task, [end])
    charged, use = amounts(found, "use"), amounts(full, "use")
    back = {name: charged.get(name, 0) - use.get(name, 0) for name in charged.keys() | use.keys()}
    key = f"rec:{entry.call}"
    edit = Put(key, self._stamp(task, key, full), (Equals(("state",), "expired"),))
    version = (await self._head(task))["version"]
    add = {("available", name): amount for name, amount in back.items() if amount} | {("version",): 1}
    return await self._commit(task, [edit, Update("head", (Equals(("version",), version),), add)])


LEDGER = {
    "a hold is closed by its key alone": [(buspass.ledger.ledger, "closing", closed_by_key)],
    "a keyed call does not look again": [(Ledger, "_recheck", trusting)],
    "a late settle edits the record": [(Ledger, "_settle_again", edited)],
    "a hold does not ask what is available": [(buspass.ledger.ledger, "taking", unconditional)],
    "a released hold counts a record": [(buspass.ledger.ledger, "releasing", counted_release)],
}

# ── in a domain ──


def taken_from_the_dead(claim, attempt, now):
    update = buspass.ledger.holds.taking(claim, attempt, now)
    require = tuple(one for one in update.require if not (isinstance(one, Equals) and one.path == ("status",)))
    return Update(update.key, require, update.add, update.set)


async def given_back_early(house, task, head):
    """Release before the calls in flight and the children are over."""
    if head["status"] in buspass.closing.LIVING:
        return
    if isinstance(pool := head.get("pool"), str):
        await house.pools.release(pool, task, buspass.closing.balance(head).spent["cost"])


async def left_to_the_child(house, task, head):
    """Forget that a child's money goes back to its parent."""
    if head["status"] in buspass.closing.LIVING or head["open"] or head["children"]:
        return
    if isinstance(pool := head.get("pool"), str):
        await house.pools.release(pool, task, buspass.closing.balance(head).spent["cost"])


def all_there_is(account, head):
    """Forget what a pool may give in all: hand out what its head shows, closed or not, twice over."""
    return 2 * head["available"]["cost"]


async def released_as_told(self, account, allocation, spent):
    """Give back what was allocated each time somebody says so."""
    head = await self._read(account, "head")
    found = await self._found(account, head, allocation) if head else None
    if found is not None:
        version = Equals(("version",), head["version"])
        add = {("version",): 1, ("available", "cost"): found.amount - spent, ("allocated", "cost"): -found.amount}
        await self._apply(account, [Update("head", (version,), add)])
    return False


async def settled_without_record(self, parent, entry, closing, host):
    """Give back what a child left and write nothing down."""
    await self._commit(parent, [returning(entry, closing.used, closing.caps)])
    return await self._head(parent)


DOMAIN = {
    "a hold does not ask for the status": [(buspass.ledger.ledger, "taking", taken_from_the_dead)],
    "a task gives back while calls are in flight": [(buspass.closing, "give_back", given_back_early)],
    "a child gives nothing back": [(buspass.closing, "give_back", left_to_the_child)],
    "a pool hands out more than it has": [(buspass.ledger.pools, "_usable", all_there_is)],
    "a pool is repaid each time it is told": [(Pools, "_release", released_as_told)],
    "a child is settled without a record": [(Delegations, "settle", settled_without_record)],
}
