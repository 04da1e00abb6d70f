"""A peer's child in this domain: begun by the peer's grant, led by its orders, told of in our statements.

Owns who is admitted: only a peer that the receiving workflow names among its `agents`, to the letter, and only to what
that workflow allows anybody. Refuses to know HTTP, and what the parent's domain does with a statement (`closing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from buspass.allocation import drawn_for, unused
from buspass.beginning import Started, ask, check_agent, check_first, finished, labels, put, tokened, workflow_named
from buspass.calls.enforcement import enforcement
from buspass.calls.house import House
from buspass.closing import LEASE, buried, heard, kill_child, settle_overdue, tombstone
from buspass.config.settings import Peer, Workflow
from buspass.errors import Problem
from buspass.identity import peer_claims
from buspass.identity.peer_claims import Grant, Link, Order, Statement
from buspass.identity.peers import GRANT, ORDER, is_child_of
from buspass.leases import renew
from buspass.ledger.holds import HEAD
from buspass.model import MICRO, Principal, Subject
from buspass.peering import proven, standing, stated
from buspass.ports.state import Item, Value
from buspass.tasks import Task, View
from buspass.tasks.store import item_at
from buspass.terms import Terms, named_part, narrowed, terms_of


async def admit(house: House, assertion: str) -> Started:
    """Begin the child that a peer's grant asks for; the same grant again gives the same child. Raises Problem."""
    peer, claims = await house.peers.prove(assertion, GRANT)
    grant = peer_claims.grant(claims)
    _check_part(peer, grant.link)
    workflow = workflow_named(house, grant.workflow)
    principal = Principal(identity=peer.name, issuer=peer.issuer, agent=grant.act)
    check_agent(house, workflow, principal)
    await house.stops.ask(workflow.name, (principal.name,))
    now = house.clock.now()
    if grant.until <= now:
        raise Problem("task_expired", "the time of this child's parent is over")
    terms = _terms(workflow, grant, now)
    draft = Task(
        id=grant.link.child,
        workflow=workflow.name,
        revision=house.settings.revision,
        host=house.host.name,
        principal=principal,
        subject=_subject(workflow, grant),
        metadata=labels(grant.metadata),
        grant=terms.grant,
        wall=terms.wall,
        depth=min(workflow.depth, grant.depth),
        level=grant.level,
        created_at=now,
        deadline=now + round(terms.wall * 1000),
        payloads=workflow.payloads,
    )
    enforced = enforcement(workflow)
    terms = narrowed(terms, await ask(house, "start", draft, "open", enforced))
    task = finished(house, draft, terms, _asked(grant))
    opening = {"reason": f"{principal.name}, child of {grant.link.parent}", **enforced.facts()}
    view = await _begun(house, peer, workflow, task, terms, grant, opening)
    check_first(view)
    if not _lives_on(peer, grant.link, view.head):
        detail = "the child lives on another allocation; this one comes back to its parent"
        raise Problem("conflict", detail, retry_after=5)
    return await tokened(house, view, principal)


async def obey(house: House, token: str) -> str:
    """Do what a peer orders of its child, and give our signed word of how that stands then. Raises Problem."""
    peer, claims = await house.peers.prove(token, ORDER)
    order = peer_claims.order(claims)
    _check_part(peer, order.link)
    return await stated(house, peer, await _obeyed(house, peer, order))


async def hear(house: House, token: str) -> None:
    """Take a statement that a peer sent by itself. Raises Problem."""
    peer, said = await proven(house, token)
    await heard(house, peer, said)


async def _obeyed(house: House, peer: Peer, order: Order) -> Statement:
    link, task = order.link, order.link.child
    head = await item_at(house.state, task, HEAD)
    if head is None and (order.bury or order.kill):
        if not house.peers.buries(peer.name):
            raise Problem("overloaded", "too many children that were never born are to be buried", retry_after=60)
        stone = tombstone({}, house.clock.now(), {"parent": _parent(peer, link)})
        await buried(house, task, stone)
        head = await item_at(house.state, task, HEAD)
    if head is None:
        return Statement(link=link, state="unborn", status="", used={}, as_of=0)
    if head.get("tombstone") or not _lives_on(peer, link, head):
        return Statement(link=link, state="void", status="", used={}, as_of=0)
    view = await house.tasks.look(task)
    if order.kill:
        view = await kill_child(house, view, link.parent)
    elif order.until:  # by our own clock no lease is longer than a lease
        await renew(house, view, min(order.until, house.clock.now() + LEASE))
        view = await house.tasks.look(task)
    return standing(link, (await settle_overdue(house, view)).head)


async def _begun(
    house: House,
    peer: Peer,
    workflow: Workflow,
    task: Task,
    terms: Terms,
    grant: Grant,
    opening: Mapping[str, Value],
) -> View:
    """Put the child, its money drawn from the workflow's pool as anybody's; what stands from before is given."""
    lease = min(task.deadline, grant.lease, house.clock.now() + LEASE)
    born: dict[str, Value] = {"parent": _parent(peer, grant.link), "lease": True, "expires_at": lease}
    limits = dict(terms.limits)
    drawn = None
    if workflow.pool is not None and await item_at(house.state, task.id, HEAD) is None:
        drawn = await drawn_for(house, workflow, task, limits)
    if drawn is not None:
        born["pool"], limits["cost"] = drawn.account, min(limits["cost"], drawn.amount)
    view = await put(house, workflow, task, limits, born, opening)
    if drawn is not None:
        await unused(house, drawn, view.task.id, view.head)
    return view


# ── what a peer's child may be ──────────────────────────────────────────────────────────────────────────────────────


def _check_part(peer: Peer, link: Link) -> None:
    """Keep a peer to its own part of the ids: no token of its names a task of anybody else. Raises Problem denied."""
    if not is_child_of(peer.issuer, link.child):
        raise Problem("denied", "this is no id of that peer's children", reasons=["peer"])


def _terms(workflow: Workflow, grant: Grant, now: int) -> Terms:
    """Give the workflow's terms, narrowed as for anybody, within the parent's time. Raises Problem."""
    budget: dict[str, Any] = {name: amount for name, amount in grant.amounts.items() if name != "cost"}
    if "cost" in grant.amounts:
        budget["cost"] = grant.amounts["cost"] / MICRO
    if grant.wall is not None:
        budget["wall"] = grant.wall
    terms = terms_of(workflow, budget)
    return Terms(
        grant=replace(
            terms.grant,
            models=named_part("models", grant.models, workflow.models),
            tools=named_part("tools", grant.tools, tuple(workflow.route)),
        ),
        limits=terms.limits,
        wall=min(terms.wall, (grant.until - now) / 1000),
    )


def _subject(workflow: Workflow, grant: Grant) -> Subject | None:
    """Give the subject that the peer asserts, where the workflow takes somebody's word. Raises Problem denied."""
    if (rule := workflow.subject) is None:
        return None
    if grant.subject is None or grant.subject[0] not in rule.types:
        detail = f"workflow {workflow.name!r} acts for {', '.join(rule.types)}, and the parent for none of these"
        raise Problem("denied", detail, reasons=["subject_type"])
    if rule.proof == "token":
        detail = f"workflow {workflow.name!r} takes nobody's word for a subject, and a peer's is just that"
        raise Problem("denied", detail, reasons=["subject_unproven"])
    return Subject(type=grant.subject[0], id=grant.subject[1], proof="asserted")


def _asked(grant: Grant) -> dict[str, Any]:
    """Give what must be the same when a grant is repeated. Not the allocation: the child lives on its first."""
    said = {name: value for name, value in grant.claims().items() if name not in {"allocation", "lease", "host"}}
    return {**said, "parent": grant.link.parent}


def _parent(peer: Peer, link: Link) -> dict[str, Value]:
    return {"task": link.parent, "host": link.host, "attempt": link.allocation, "peer": peer.name}


def _lives_on(peer: Peer, link: Link, head: Item) -> bool:
    found = head.get("parent")
    meant = (link.parent, link.allocation, peer.name)
    return isinstance(found, Mapping) and tuple(found.get(part) for part in ("task", "attempt", "peer")) == meant
