"""A child at a peer: a part of a task's budget, handed to another trust domain by a grant that we sign.

Owns what such a child is given, and in which order it comes to be: its budget leaves the parent, then the peer is
asked.
Refuses to judge what it may do there, which is the peer's, and how it ends (`closing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import replace

from buspass.beginning import ask, labels
from buspass.callers import Caller
from buspass.calls.enforcement import enforcement
from buspass.calls.house import House
from buspass.closing import ask_peers
from buspass.config.settings import Peer
from buspass.delegation import acting, check_limited, handing, taken
from buspass.errors import CODES, Problem
from buspass.identity.jws import Untrusted, read
from buspass.identity.peer_claims import NAMES, Grant
from buspass.identity.peers import GRANT, child_id
from buspass.leases import first_lease
from buspass.ledger import Delegation, delegations
from buspass.ledger.accounts import amounts
from buspass.ledger.holds import record_key
from buspass.model import Principal
from buspass.peering import link_to, posted, unreached
from buspass.stopping import names
from buspass.tasks import Grant as Granted
from buspass.tasks import Task, View, segment
from buspass.tasks.store import item_at
from buspass.terms import Terms, budgeted, mapping, narrowed, only

FIELDS: Final = ("workflow", "models", "tools", "metadata", "budget", "peer")
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN: Final = "/oauth2/token"  # noqa: S105 - a path


class Handed(Struct, frozen=True, kw_only=True):
    """A child at a peer, as the peer shows it, with the peer's token for its agent; `expires_in` in seconds."""

    document: Mapping[str, Any]
    token: str
    expires_in: int
    base_url: str


class _Wish(Struct, frozen=True, kw_only=True):
    """What was asked for, judged as far as this domain can: the peer's own workflow narrows it further."""

    peer: Peer
    workflow: str
    models: tuple[str, ...] | None
    tools: tuple[str, ...] | None
    metadata: Mapping[str, Any]
    terms: Terms
    wall: float | None


async def hand_over(house: House, who: Caller, parent: str, body: Mapping[str, Any], key: str | None) -> Handed:
    """Start a child at the peer that `body` names, for the bearer of its parent's token. Raises Problem."""
    asked = house.clock.now()
    view, claims = await handing(house, who, parent)
    only(body, FIELDS)
    wish = _wish(house, view, body)
    principal = acting(house, view.task, claims)
    task = _id(house, view, wish.peer.name, key or house.clock.random(15).hex())
    if key is not None:
        _check_key(house, view, wish.peer.name, key)
    wish = await _permitted(house, view, wish, principal, task)
    entry = await _paid(house, view, claims.fence, wish, task)
    grant = Grant(
        link=link_to(house, view.task.id, entry),
        workflow=wish.workflow,
        act=principal.name,
        subject=(view.task.subject.type, view.task.subject.id) if view.task.subject else None,
        models=wish.models,
        tools=wish.tools,
        metadata=wish.metadata,
        amounts=entry.amounts,
        wall=wish.wall,
        depth=view.task.depth - 1,
        level=view.task.level + 1,
        until=view.task.deadline,
        lease=min(view.task.deadline, first_lease(view.head, asked, apart=True) or 0),
    )
    try:
        return await _granted(house, wish.peer, grant)
    except Problem as refusal:
        if not CODES[refusal.code].retryable:  # it comes back at once, where the peer signs that none was born
            head = (await house.tasks.look(view.task.id)).head
            await ask_peers(house, view.task.id, head, unborn=task)
        raise


def _id(house: House, view: View, peer: str, key: str) -> str:
    """Give the child's id: of one key another at each peer, or one child's allocation could pay for both."""
    return child_id(house.settings.issuer, f"{view.task.id}@{peer}", key)


def _check_key(house: House, view: View, peer: str, key: str) -> None:
    """Raise Problem idempotency_mismatch where this key began a child at another peer that has not ended."""
    elsewhere = {_id(house, view, name, key) for name in house.settings.peers if name != peer}
    if any(entry.task in elsewhere for entry in delegations(view.head)):
        raise _mismatch()


def _mismatch() -> Problem:
    return Problem("idempotency_mismatch", "this Idempotency-Key started another child; use a new one")


def _wish(house: House, view: View, body: Mapping[str, Any]) -> _Wish:
    name = body["peer"]
    if not isinstance(name, str) or name not in house.settings.peers:
        row = {"path": "peer", "message": "unknown", "allowed": sorted(house.settings.peers)}
        raise Problem("invalid_request", "peer names another trust domain that buspass.yaml has", errors=[row])
    workflow = body.get("workflow", view.task.workflow)
    if not isinstance(workflow, str) or not workflow.isprintable() or not 0 < len(workflow) <= 64:
        row = {"path": "workflow", "message": "is no name"}
        raise Problem("invalid_request", "workflow names a kind of task at the peer", errors=[row])
    budget = mapping(body.get("budget"), "budget")
    models, tools = _names(body, "models"), _names(body, "tools")
    left = Granted(models=models or (), tools=tools or ())
    terms = budgeted(Terms(grant=left, limits={}, wall=view.task.wall), budget)
    check_limited(view, terms)
    return _Wish(
        peer=house.peers.named(name),
        workflow=workflow,
        models=models,
        tools=tools,
        metadata=labels(body.get("metadata")),
        terms=terms,
        wall=terms.wall if "wall" in budget else None,
    )


def _names(body: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    """Give the peer's names that were asked for: what they mean is the peer's to say."""
    names = body.get(field)
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > NAMES or not all(isinstance(name, str) for name in names):
        row = {"path": field, "message": "is no list of names"}
        raise Problem("invalid_request", f"{field} is a list of the peer's names, at most {NAMES}", errors=[row])
    return tuple(names)


async def _permitted(house: House, view: View, wish: _Wish, principal: Principal, task: str) -> _Wish:
    """Ask this domain's stops and policy, which know the child's kind as PEER/WORKFLOW. Raises Problem."""
    kind = f"{wish.peer.name}/{wish.workflow}"
    await house.stops.ask(kind, (principal.name, *names(view.task)))
    now = house.clock.now()
    draft = Task(
        id=task,
        workflow=kind,
        revision=house.settings.revision,
        host=house.host.name,
        principal=principal,
        subject=view.task.subject,
        metadata=wish.metadata,
        grant=wish.terms.grant,
        wall=wish.terms.wall,
        depth=view.task.depth - 1,
        level=view.task.level + 1,
        created_at=now,
        deadline=view.task.deadline,
        payloads=view.task.payloads,
    )
    decision = await ask(house, "start", draft, "open", enforcement(house.workflow(view.task.workflow)))
    if decision.grant is None:
        return wish
    for field, given in (("models", wish.models), ("tools", wish.tools)):
        if given is None and field in decision.grant:
            detail = f"policy narrows {field}, and this child names none: name those that it needs"
            raise Problem("denied", detail, reasons=["policy"])
    terms = narrowed(wish.terms, decision)
    return replace(
        wish,
        terms=terms,
        models=None if wish.models is None else terms.grant.models,
        tools=None if wish.tools is None else terms.grant.tools,
        wall=terms.wall,
    )


async def _paid(house: House, view: View, fence: int, wish: _Wish, task: str) -> Delegation:
    """Take the child's budget out of its parent; what is repeated finds what was taken, also after its child's end."""
    parent = view.task.id
    if (record := await item_at(house.state, parent, record_key(task))) is not None:
        if (record["peer"], record["amounts"]) != (wish.peer.name, wish.terms.limits):
            raise _mismatch()
        return Delegation(
            task=task,
            workflow="",
            amounts=amounts(record, "amounts"),
            caps={},
            host="",
            at=0,
            deadline=0,
            peer=wish.peer.name,
            attempt=str(record["attempt"]),
        )
    wanted = Delegation(
        task=task,
        workflow=segment(f"{wish.peer.name}:{wish.workflow}"),
        amounts=wish.terms.limits,
        caps={},
        host="",
        at=house.clock.now(),
        deadline=view.task.deadline,
        peer=wish.peer.name,
    )
    entry = await taken(house, parent, fence, wanted)
    if (entry.peer, entry.amounts) != (wish.peer.name, wish.terms.limits):
        raise _mismatch()
    return entry


async def _granted(house: House, peer: Peer, grant: Grant) -> Handed:
    """Send the grant, and give the child. What the peer answers is looked at: it goes to our caller."""
    act = {"sub": grant.act}
    assertion = await house.peers.sign(peer, GRANT, grant.link.parent, grant.claims(), sub=grant.sub, act=act)
    form = urlencode({"grant_type": JWT_BEARER, "assertion": assertion}).encode()
    said = await posted(house, peer, TOKEN, form, "application/x-www-form-urlencoded")
    task, token, expires = said.get("task"), said.get("access_token"), said.get("expires_in")
    if not isinstance(task, Mapping) or task.get("id") != grant.link.child:
        raise unreached(peer, "it answered without the child")
    if type(expires) is not int or not isinstance(token, str) or not _is_for(token, peer, grant.link.child):
        raise unreached(peer, "it answered without a token for the child")
    return Handed(document=task, token=token, expires_in=expires, base_url=peer.url.rstrip("/") + "/v1")


def _is_for(token: str, peer: Peer, task: str) -> bool:
    try:
        claims = read(token).claims
    except Untrusted:
        return False
    return claims.get("iss") == peer.issuer and claims.get("txn") == task
