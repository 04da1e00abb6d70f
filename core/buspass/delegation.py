"""Children: a part of a task's budget and grant, handed to another agent, here or at another host of the domain.

Owns what a child may be, and in which order it comes to be: its budget leaves the parent, then it is put where it lies,
which this host does itself, also in another host's store. Refuses to know how it ends (`closing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.beginning import (
    Started,
    ask,
    check_agent,
    check_first,
    finished,
    labels,
    new_id,
    put,
    tokened,
    workflow_named,
)
from buspass.callers import Caller, TaskCaller, visible
from buspass.calls.enforcement import Enforcing, enforcement
from buspass.calls.house import House
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.leases import first_lease
from buspass.ledger import Delegation, Stale, delegations
from buspass.ledger.accounts import amounts
from buspass.ledger.delegations import CAPS
from buspass.model import Principal, Subject
from buspass.ports.state import Item, Value
from buspass.stopping import names
from buspass.tasks import Grant, Task, View, segment
from buspass.terms import Terms, mapping, narrowed, only, terms_of

FIELDS: Final = ("workflow", "models", "tools", "metadata", "budget", "host")


class _Wish(Struct, frozen=True, kw_only=True):
    """What was asked for, judged: the child's workflow and terms, where it lies, and calls of capped tools it gets."""

    workflow: Workflow
    terms: Terms
    host: str
    caps: Mapping[str, int]


async def begin_child(house: House, who: Caller, parent: str, body: Mapping[str, Any], key: str | None) -> Started:
    """Start a child for the bearer of its parent's token. Raises Problem."""
    asked = house.clock.now()
    view, claims = await handing(house, who, parent)
    only(body, FIELDS)
    workflow = workflow_named(house, body.get("workflow", view.task.workflow))
    principal = acting(house, view.task, claims)
    check_agent(house, workflow, principal)
    await house.stops.ask(workflow.name, (principal.name, *names(view.task)))
    wish = _Wish(workflow=workflow, terms=_terms(workflow, view, body), host=_host(house, body), caps={})
    if key is not None:
        _check_key(house, view, key, wish.host)
    draft = _draft(house, view, wish, principal, labels(body.get("metadata")), key)
    enforced = enforcement(workflow)
    terms = narrowed(wish.terms, await ask(house, "start", draft, "open", enforced))
    terms = replace(terms, wall=min(terms.wall, (view.task.deadline - draft.created_at) / 1000))
    wish = replace(wish, terms=terms, caps=_caps(workflow, terms.grant, view.head))
    said = {**body, "parent": parent, "workflow": workflow.name}
    return await _born(house, view, claims.fence, wish, finished(house, draft, terms, said), enforced, asked)


async def handing(house: House, who: Caller, parent: str) -> tuple[View, TaskClaims]:
    """Give a task that its own agent may hand a part on of. Raises Problem."""
    if not isinstance(who, TaskCaller) or who.key:
        raise Problem("denied", "only a task's own agent hands parts of it on, with the task token", reasons=["caller"])
    view = await visible(house, who, parent)
    check_standing(view.head, who.claims.fence, house.clock.now())
    if view.task.depth < 1:
        detail = "this task may have no children: budget.depth of its workflow is used up"
        raise Problem("budget_exhausted", detail, limit="depth", needed=1, left=0)
    return view, who.claims


async def _born(
    house: House, parent: View, fence: int, wish: _Wish, task: Task, enforced: Enforcing, asked: int
) -> Started:
    """Take the budget out of the parent, then put the child. What is repeated finds what was done.

    `asked`: a time (ms) before the look that showed the parent alive.
    """
    there = await house.beside(wish.host)
    if (found := await _standing(there, task)) is not None:
        return await tokened(there, found, task.principal, wish.host)
    apart = there.state is not house.state
    wanted = Delegation(
        task=task.id,
        workflow=segment(wish.workflow.name),
        amounts=wish.terms.limits,
        caps=wish.caps,
        host=wish.host if apart else "",
        at=task.created_at,
        deadline=task.deadline,
    )
    entry = await taken(house, parent.task.id, fence, wanted)
    born: dict[str, Value] = {"parent": {"task": parent.task.id, "host": house.place, "attempt": entry.attempt}}
    if (lease := first_lease(parent.head, asked, apart=apart)) is not None:
        born |= {"lease": True, "expires_at": min(task.deadline, lease)}
    route = {segment(name): step.max_calls for name, step in wish.workflow.route.items() if name in task.grant.named}
    born["left"] = {**{tool: calls for tool, calls in route.items() if calls is not None}, **entry.caps}
    opening = {"reason": f"{task.principal.name}, child of {parent.task.id}", **enforced.facts()}
    view = await put(there, wish.workflow, task, entry.amounts, born, opening)
    link = view.head.get("parent")
    if not isinstance(link, Mapping) or link["attempt"] != entry.attempt:
        await house.delegations.give_back(parent.task.id, entry)
    check_first(view)
    return await tokened(there, view, task.principal, wish.host)


async def taken(house: House, parent: str, fence: int, wanted: Delegation) -> Delegation:
    """Take a child's budget out of its parent. Raises Problem."""
    entry = await house.delegations.delegate(parent, fence, wanted)
    if isinstance(entry, Stale):
        check_standing(entry.head, fence, house.clock.now())
        raise Problem("conflict", "the task changes too fast right now; retry", retry_after=0.5)
    return entry


async def _standing(there: House, task: Task) -> View | None:
    """Give the child that an Idempotency-Key began before. Raises Problem idempotency_mismatch, fenced."""
    try:
        view = await there.tasks.look(task.id)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        return None
    if view.task.fingerprint != task.fingerprint:
        raise _mismatch()
    check_first(view)
    return view


# ── what a child may be ─────────────────────────────────────────────────────────────────────────────────────────────


def acting(house: House, task: Task, claims: TaskClaims) -> Principal:
    """Give who holds the token: whoever started the task, or resumed it."""
    if claims.act == task.principal.name:
        return task.principal
    identity, _, agent = claims.act.partition(":")
    known = house.settings.identity.get(identity)
    return Principal(identity=identity, issuer=known.issuer if known else house.settings.issuer, agent=agent)


def _terms(workflow: Workflow, parent: View, body: Mapping[str, Any]) -> Terms:
    """Give the child's terms: its workflow's, within the parent's grant, narrowed by the body."""
    terms = terms_of(workflow, mapping(body.get("budget"), "budget"))
    given = parent.task.grant
    grant = Grant(
        models=_named(body, "models", tuple(name for name in workflow.models if name in given.models)),
        tools=_tools(workflow, parent, body),
    )
    check_limited(parent, terms)
    return replace(terms, grant=grant)


def check_limited(parent: View, terms: Terms) -> None:
    """Refuse a child without a limit that its parent has. Raises Problem invalid_request."""
    missing = [name for name in amounts(parent.head, "limits") if name not in terms.limits]
    if missing:
        rows = [{"path": f"budget.{name}", "message": "its parent has a limit, so it needs one"} for name in missing]
        raise Problem("invalid_request", f"budget must name {', '.join(missing)}: its parent limits it", errors=rows)


def _tools(workflow: Workflow, parent: View, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the tools; those whose calls the parent counts only where they are named, since it gives its calls away."""
    granted = tuple(name for name in workflow.route if name in parent.task.grant.named)
    if "tools" in body:
        return _named(body, "tools", granted)
    counted = amounts(parent.head, "left")
    return tuple(name for name in granted if segment(name) not in counted)


def _named(body: Mapping[str, Any], field: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = body.get(field, list(allowed))
    if not isinstance(names, list) or not all(isinstance(name, str) and name in allowed for name in names):
        row = {"path": field, "message": "is no list of what the parent has", "allowed": list(allowed)}
        raise Problem("invalid_request", f"{field} is a list of names that the parent has as well", errors=[row])
    return tuple(name for name in allowed if name in names)


def _caps(workflow: Workflow, grant: Grant, head: Item) -> dict[str, int]:
    """Give the calls of capped tools that leave the parent: as many as it has left and the child's workflow allows."""
    left = amounts(head, "left")
    capped = [name for name in grant.tools if segment(name) in left]
    if len(capped) > CAPS:
        detail = f"a child gets at most {CAPS} tools with max_calls: {', '.join(capped)} are more"
        raise Problem("unsupported", detail, errors=[{"path": "tools", "message": "too many with max_calls"}])
    caps = {}
    for name in capped:
        most, has = workflow.route[name].max_calls, left[segment(name)]
        if most is None:
            detail = f"workflow {workflow.name!r} has no max_calls for {name!r}, which its parent has"
            raise Problem("unsupported", detail, errors=[{"path": "tools", "message": f"{name} would be unlimited"}])
        if has < 1:
            raise Problem("call_limit", f"the task's calls of {name!r} are used up; leave it out of tools", tool=name)
        caps[segment(name)] = min(most, has)
    return caps


def _host(house: House, body: Mapping[str, Any]) -> str:
    known = house.settings.hosts
    name = body.get("host", house.host.name)
    if not isinstance(name, str) or name not in known:
        row = {"path": "host", "message": "unknown", "allowed": sorted(known)}
        raise Problem("invalid_request", "host names a host of this trust domain", errors=[row])
    return name


def _owner(house: House, parent: str, host: str) -> str:
    """Say whose key an Idempotency-Key is: the parent's, at one store.

    Were a child's id the same in two stores, it could be born in both and live twice on one entry of its parent.
    """
    hosts = house.settings.hosts
    there = hosts[host].state
    return parent if there == hosts[house.place].state else f"{parent}@{there}"


def _check_key(house: House, parent: View, key: str, host: str) -> None:
    """Raise Problem idempotency_mismatch where this key began a child in another store that has not ended."""
    mine = _owner(house, parent.task.id, host)
    others = {_owner(house, parent.task.id, name) for name in house.settings.hosts} - {mine}
    elsewhere = {new_id(house, owner, key) for owner in others}
    if any(entry.task in elsewhere for entry in delegations(parent.head)):
        raise _mismatch()


def _mismatch() -> Problem:
    return Problem("idempotency_mismatch", "this Idempotency-Key started another child; use a new one")


def _draft(
    house: House, parent: View, wish: _Wish, principal: Principal, metadata: Mapping[str, Any], key: str | None
) -> Task:
    workflow, above = wish.workflow, parent.task
    now = house.clock.now()
    return Task(
        id=new_id(house, _owner(house, above.id, wish.host), key),
        workflow=workflow.name,
        revision=house.settings.revision,
        host=wish.host,
        principal=principal,
        subject=_subject(house, workflow, above),
        metadata=metadata,
        grant=wish.terms.grant,
        wall=wish.terms.wall,
        depth=min(workflow.depth, above.depth - 1),
        level=above.level + 1,
        created_at=now,
        deadline=min(above.deadline, now + round(wish.terms.wall * 1000)),
        payloads=workflow.payloads,
    )


def _subject(house: House, workflow: Workflow, above: Task) -> Subject | None:
    """Give the parent's subject, if this workflow may act for it as it was proven. Raises Problem denied."""
    if (rule := workflow.subject) is None:
        return None
    if above.subject is None or above.subject.type not in rule.types:
        detail = f"workflow {workflow.name!r} acts for {', '.join(rule.types)}, and the parent for none of these"
        raise Problem("denied", detail, reasons=["subject_type"])
    proven = house.workflow(above.workflow).subject
    if rule.proof == "token" and (proven is None or proven.proof != "token"):
        detail = f"workflow {workflow.name!r} takes nobody's word for a subject, and its parent's did"
        raise Problem("denied", detail, reasons=["subject_unproven"])
    return Subject(type=above.subject.type, id=above.subject.id, proof="parent")
