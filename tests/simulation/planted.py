"""Bugs to plant: each is one that the protocols are there to prevent, and that the simulation has to find.

Owns what is wrong in each. Refuses to know how it is noticed: no law is written for a bug.
"""

from __future__ import annotations

import hashlib
import sys

from msgspec import structs

import buspass.admitting
import buspass.allocation
import buspass.closing
import buspass.delegation
import buspass.identity.peers
import buspass.ledger.ledger
import buspass.ledger.pools
from buspass.errors import Problem
from buspass.identity import peer_claims
from buspass.ledger import Ledger, Outcome
from buspass.ledger.accounts import amounts
from buspass.ledger.delegations import Delegations, returning
from buspass.ledger.delegations import taking as delegated
from buspass.ledger.holds import closing, crediting, settling, taking
from buspass.ledger.pools import Pools
from buspass.ports.state import AtLeast, Equals, Present, Put, Update, plain

# ── in the ledger of one task ──


def closed_by_key(entry, *rest):
    return by_key(entry.call, closing(entry, *rest))


def settled_by_key(held, *rest):
    return by_key(held.claim.call, settling(held, *rest))


def by_key(call, end):
    update = plain(end)
    return Update(update.key, (Present(("open", call)),), update.add, update.set, update.remove)


def counted_release(entry):
    return closing(entry, Outcome(use={}, sent=False), 0)


def unconditional(claim, attempt, now):
    update = plain(taking(claim, attempt, now))
    require = [one for one in update.require if not (isinstance(one, AtLeast) and one.path[0] == "available")]
    return Update(update.key, require, update.add, update.set)


async def trusting(self, held):
    return held


async def edited(self, task, entry, end, full, found):
    """Edit the swept record and the head, as one who thinks that nobody else does."""
    if found is None or found["attempt"] != entry.attempt:
        return None
    if found["state"] == "settled":
        return await self._store.commit(task, [end])
    charged, use = amounts(found, "use"), amounts(full, "use")
    back = {name: charged.get(name, 0) - use.get(name, 0) for name in charged.keys() | use.keys()}
    key = f"rec:{entry.call}"
    edit = Put(key, self._stamp(task, key, full), (Equals(("state",), "expired"),))
    version = (await self._store.head(task))["version"]
    add = {("available", name): amount for name, amount in back.items() if amount} | {("version",): 1}
    return await self._store.commit(task, [edit, Update("head", (Equals(("version",), version),), add)])


async def fenced(self, held, outcome, record):
    """Settle only while the task is still mine."""
    head = await self._store.head(held.claim.task)
    if head["fence"] != held.claim.fence:
        raise Problem("fenced", "another worker has resumed this task")
    return await LEDGER_SETTLE(self, held, outcome, record)


async def dropped(self, task, entry, end, full, found):
    """Leave it at what the sweep charged."""
    if found is None or found["attempt"] != entry.attempt or found["state"] != "settled":
        return None
    return await self._store.commit(task, [end])


def forgiven(entry, outcome, now, turn=0):
    """Give a swept call's money back: it may never have been sent."""
    if outcome.last == "unknown" and outcome.sent:
        outcome = Outcome(use={}, last="unknown")
    return closing(entry, outcome, now, turn)


LEDGER_SETTLE = Ledger.settle
LEDGER = {
    "a hold is closed by its key alone": [
        (buspass.ledger.ledger, "closing", closed_by_key),
        (buspass.ledger.ledger, "settling", settled_by_key),
    ],
    "a keyed call does not look again": [(Ledger, "_recheck", trusting)],
    "a late settle edits the record": [(Ledger, "_settle_again", edited)],
    "a hold does not ask what is available": [(buspass.ledger.ledger, "taking", unconditional)],
    "a released hold counts a record": [(buspass.ledger.ledger, "releasing", counted_release)],
    "a settle asks for the fence": [(Ledger, "settle", fenced)],
    "a late settle is dropped": [(Ledger, "_settle_again", dropped)],
    "a sweep gives back what was sent": [(buspass.ledger.ledger, "closing", forgiven)],
}

# ── in a domain ──


def taken_from_the_dead(claim, attempt, now):
    update = plain(buspass.ledger.holds.taking(claim, attempt, now))
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


async def released_as_told(self, account, allocation, spent, as_of):
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
    await self._store.commit(parent, [returning(entry, closing.used, closing.caps)])
    return True


def by_place(entry, used, caps, *, counted=False):
    """Close whatever child stands in that place of its parent."""
    update = RETURNING(entry, used, caps, counted=counted)
    return Update(update.key, (Present(("children", entry.place)),), update.add, remove=update.remove)


async def unburied(house, task, stone):
    """Take a look instead of putting a tombstone."""
    return await house.state.read(task, "head") is None


def on_credit(parent, entry, fence, now):
    """Trust the look that was taken at the parent's accounts before."""
    update = TAKING(parent, entry, fence, now)
    require = tuple(one for one in update.require if not (isinstance(one, AtLeast) and one.path[0] == "available"))
    return Update(update.key, require, update.add, update.set, index=update.index)


async def uncorrected(self, parent, child, closing, sealed, host, peer=""):
    """Leave it at what the child gave back first."""
    return False


def once_for_all(house, parent, host):
    """Name a child by its key alone, wherever it is to lie."""
    return parent


def unasked(house, parent, key, host):
    """Let a key begin what it likes."""


def undue(task, call, back, now):
    """Correct the head, and let who did it see to the rest."""
    update = crediting(task, call, back, now)
    return Update(update.key, update.require, update.add, update.set)


async def outlived(house, task, head):
    """Answer a kill before those below are over."""
    return head


# ── between domains ──


async def credited_again(house, peer, said):
    """Give back what a child at a peer has left each time that its peer says so."""
    above = await house.beside(said.link.host)
    before = await above.state.read(said.link.parent, f"rec:{said.link.child}")
    await HEARD(house, peer, said)
    if before is None or said.state != "ended" or before.get("peer") != peer:
        return
    head = await above.state.read(said.link.parent, "head")
    left = before["amounts"]["cost"] - said.used.get("cost", 0)
    version = Equals(("version",), head["version"])
    await above.state.apply(
        said.link.parent, [Update("head", (version,), {("version",): 1, ("available", "cost"): left})]
    )


def unread(token, key, algorithms):
    """Take a peer's token as it is, whoever signed it."""


def taken_again(claims):
    """Let each grant begin a child of its own."""
    said = GRANTED(claims)
    child = said.link.child[:18] + hashlib.sha256(claims["jti"].encode()).hexdigest()[:24].translate(LETTERS)
    return structs.replace(said, link=structs.replace(said.link, child=child))


def sworn(**said):
    """State that a child which was not born will never be, and put nothing in its place."""
    return STATED(**{**said, "state": "void"} if said["state"] == "unborn" else said)


async def given_up(house, parent, entry, order):
    """Take a peer that can't be reached for one that has nothing."""
    try:
        return await ASKED(house, parent, entry, order)
    except Problem:
        return STATED(link=order.link, state="void", status="", used={}, as_of=0)


HEARD, ASKED, GRANTED, STATED = buspass.closing.heard, buspass.closing.asked, peer_claims.grant, peer_claims.Statement
LETTERS = str.maketrans("01289", "ghijk")
RETURNING, TAKING = returning, delegated
CHILDREN = sys.modules[Delegations.__module__]
"""The package names a function like this module."""
DOMAIN = {
    "a hold does not ask for the status": [(buspass.ledger.ledger, "taking", taken_from_the_dead)],
    "a task gives back while calls are in flight": [(buspass.closing, "give_back", given_back_early)],
    "a child gives nothing back": [(buspass.closing, "give_back", left_to_the_child)],
    "a pool hands out more than it has": [(buspass.ledger.pools, "_usable", all_there_is)],
    "a pool is repaid each time it is told": [(Pools, "_release", released_as_told)],
    "a child is settled without a record": [(Delegations, "settle", settled_without_record)],
    "a child is closed by its place": [(CHILDREN, "returning", by_place)],
    "a child's tombstone is left out": [(buspass.closing, "buried", unburied)],
    "a task's tombstone is left out": [(buspass.allocation, "buried", unburied)],
    "a child's budget is taken on credit": [(CHILDREN, "taking", on_credit)],
    "a late call of a child is never corrected": [(Delegations, "correct", uncorrected)],
    "a child is the same in every store": [
        (buspass.delegation, "_owner", once_for_all),
        (buspass.delegation, "_check_key", unasked),
    ],
    "a kill is answered while children go on": [(buspass.closing, "end_children", outlived)],
    "a correction is left to who makes it": [
        (buspass.ledger.ledger, "crediting", undue),
        (CHILDREN, "crediting", undue),
    ],
    "a peer is credited each time it says so": [
        (buspass.closing, "heard", credited_again),
        (buspass.admitting, "heard", credited_again),
    ],
    "whoever signed it, a peer's word is taken": [(buspass.identity.peers, "check_signature", unread)],
    "a grant begins a child each time": [(peer_claims, "grant", taken_again)],
    "a peer swears off an unborn child without a tombstone": [(buspass.admitting, "Statement", sworn)],
    "a peer out of reach is taken to have nothing": [(buspass.closing, "asked", given_up)],
}
