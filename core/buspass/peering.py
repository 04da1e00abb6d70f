"""Messages to peers: an order to who has a child of ours, a statement to whose child ours is.

Owns how one is sent, what of the answer is believed, and what is remembered of a statement that arrived. Refuses to
know what money moves then (`closing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from buspass.calls.house import House
from buspass.config.settings import Peer
from buspass.errors import CODES, Problem
from buspass.identity.peer_claims import Link, Order, Statement, statement
from buspass.identity.peers import ORDER, STATEMENT
from buspass.jsontext import written
from buspass.ledger import Delegation, balance
from buspass.model import ACCOUNTS
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response
from buspass.ports.state import Item, OutcomeUnknown, Put, Unavailable, Value
from buspass.tools.schema import parse_json

ORDERS: Final = "/v1/peers/orders"
STATEMENTS: Final = "/v1/peers/statements"
TIMEOUT: Final = 5.0
"""Seconds that a peer has for an answer: a kill waits for it."""
LARGEST: Final = 65_536
HEARD: Final = "heard:"
"""Begins the key of what remembers that a statement arrived; its `as_of` follows."""


async def asked(house: House, parent: str, entry: Delegation, order: Order) -> Statement:
    """Tell a peer what its child is to do, and give its own signed word of how that stands.

    Raises Problem peer_unavailable, denied, unauthenticated, identity_unavailable, invalid_request.
    """
    peer = house.peers.named(entry.peer)
    token = await house.peers.sign(peer, ORDER, parent, order.claims())
    said = await posted(house, peer, ORDERS, written({"order": token}), "application/json")
    sender, found = await proven(house, said.get("statement"))
    if sender != peer.name or found.link != order.link:
        raise unreached(peer, "it answered for something else")
    return found


async def proven(house: House, token: object) -> tuple[str, Statement]:
    """Give a statement, and the peer that signed it. Raises Problem unauthenticated, invalid_request."""
    peer, claims = await house.peers.prove(token if isinstance(token, str) else "", STATEMENT)
    return peer.name, statement(claims)


def link_to(house: House, parent: str, entry: Delegation) -> Link:
    """Name a child at a peer, as both sides do."""
    return Link(parent=parent, host=house.place, child=entry.task, allocation=entry.attempt)


# ── a statement of ours ─────────────────────────────────────────────────────────────────────────────────────────────


def link_of(task: str, head: Item) -> Link | None:
    """Give what a task of a peer's lives on; None for one of this domain's own."""
    link = head.get("parent")
    if not isinstance(link, Mapping) or "peer" not in link:
        return None
    said = {name: str(link[name]) for name in ("task", "host", "attempt")}
    return Link(parent=said["task"], host=said["host"], child=task, allocation=said["attempt"])


def peer_of(head: Item) -> str:
    """Give the peer whose child a task is, "" where it is none."""
    link = head.get("parent")
    return str(link.get("peer", "")) if isinstance(link, Mapping) else ""


def standing(link: Link, head: Item) -> Statement:
    """Say how a child stands by its head. It has ended for good once nothing of it can spend any more."""
    over = head["status"] not in {"open", "suspended"} and not head["open"] and not head["children"]
    state = "void" if head.get("tombstone") else "ended" if over else "living"
    spent = balance(head).spent
    used = {name: max(0, spent[name]) for name in ACCOUNTS if spent[name]} if over else {}
    return Statement(
        link=link,
        state=state,  # type: ignore[arg-type]
        status=str(head["status"]),
        used=used,
        as_of=int(str(head["entries"])),
    )


async def stated(house: House, peer: Peer, said: Statement) -> str:
    """Sign a statement. Raises Problem identity_unavailable."""
    return await house.peers.sign(peer, STATEMENT, said.link.parent, said.claims())


async def told(house: House, task: str, head: Item) -> bool:
    """Tell the parent's domain how a child of its ended, until it has heard of it; say whether nothing is left to tell.

    Each figure is told until it arrived once: what remembers that is written after the answer.
    """
    link = link_of(task, head)
    if link is None or (said := standing(link, head)).state != "ended":
        return True
    key = f"{HEARD}{said.as_of}"
    with suppress(Problem, Unavailable, OutcomeUnknown):
        if await house.state.read(task, key) is not None:
            return True
        peer = house.peers.named(peer_of(head))
        body = written({"statement": await stated(house, peer, said)})
        await posted(house, peer, STATEMENTS, body, "application/json")
        at: dict[str, Value] = {"at": house.clock.now()}
        await house.state.apply(task, [Put(key, at)])
        return True
    return False


# ── the wire ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def posted(house: House, peer: Peer, path: str, body: bytes, kind: str) -> Mapping[str, Any]:
    """Send, and give the answer's object. Raises Problem peer_unavailable, or what the peer refuses with."""
    if house.peers.rests(peer.name):
        raise unreached(peer, "it did not answer a moment ago")
    headers = {"content-type": kind, "accept": "application/json"}
    url = peer.url.rstrip("/") + path
    try:
        answer = await house.outbound.send(
            Request(method="POST", url=url, headers=headers, body=body, timeout=TIMEOUT, limit=LARGEST)
        )
    except (NotSent, Ambiguous) as error:
        house.peers.away(peer.name)
        raise unreached(peer, str(error)) from error
    try:
        said = parse_json(answer.body, limit=LARGEST)
    except Problem:
        said = None
    if not isinstance(said, Mapping):
        raise unreached(peer, f"it answered {answer.status} and no JSON object")
    if answer.status not in {200, 201}:
        raise _refused(peer, answer, said)
    return said


def _refused(peer: Peer, answer: Response, said: Mapping[str, Any]) -> Problem:
    """Give a peer's own refusal in its words, under a code of ours; whatever a retry may mend is `peer_unavailable`."""
    code, detail = said.get("code"), said.get("detail")
    known = CODES.get(code) if isinstance(code, str) else None
    words = "".join(c for c in detail[:400] if c.isprintable()) if isinstance(detail, str) else "no reason given"
    if known is None or known.status != answer.status or answer.status >= 500 or known.retryable:
        return unreached(peer, f"it answered {answer.status}: {words}")
    if code == "unauthenticated":  # it is we who are not known there, not our caller here
        code = "denied"
    return Problem(str(code), f"peer {peer.name}: {words}", peer=peer.name, **_more(code))


def _more(code: object) -> dict[str, Any]:
    return {"reasons": ["peer"]} if code == "denied" else {}


def unreached(peer: Peer, why: str) -> Problem:
    """Give the problem for a peer that can't be had now."""
    return Problem("peer_unavailable", f"peer {peer.name!r} can't be asked now: {why}", retry_after=5, peer=peer.name)
