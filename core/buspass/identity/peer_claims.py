"""What a grant, an order and a statement say, as types: written into tokens, and read from a peer's with distrust.

Owns their members and the shape of each. Pure. Refuses to know who signed one (`peers`), and whether it is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from buspass.errors import Problem
from buspass.model import ACCOUNTS, Amounts
from buspass.ports.state import WHOLE

type State = Literal["living", "ended", "void", "unborn"]
"""How a child stands: it lives or has calls in flight; it has ended for good; none lives on that allocation, nor ever
will; it has not begun yet.
"""

STATES: Final = ("living", "ended", "void", "unborn")
STATUSES: Final = ("open", "suspended", "completed", "killed", "expired")
MOST: Final = 2**40
"""Above every amount that a workflow's limit can be."""
LEVELS: Final = 100
NAMES: Final = 200
"""Models or tools that a grant may name."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TASK: Final = re.compile(r"t_[a-z0-9]{1,62}")
_ALLOCATION: Final = re.compile(r"[0-9a-f]{16}")


class Link(Struct, frozen=True, kw_only=True):
    """Which child, of which parent, at which place (`host`) of its domain; `allocation` is what the child lives on."""

    parent: str
    host: str
    child: str
    allocation: str

    def claims(self) -> dict[str, Any]:
        """Give the members that say so beside `txn`."""
        return {"host": self.host, "child": self.child, "allocation": self.allocation}


class Grant(Struct, frozen=True, kw_only=True):
    """What a child at a peer is to be. `act` is its agent (IDENTITY:AGENT), `wall` in seconds, None: the workflow's.

    `models`, `tools`: the peer's own names, None: all of its workflow. It is over by `until`, its first lease by
    `lease` (ms). `depth`: levels below it, `level`: how deep it lies itself.
    """

    link: Link
    workflow: str
    act: str
    subject: tuple[str, str] | None
    models: tuple[str, ...] | None
    tools: tuple[str, ...] | None
    metadata: Mapping[str, Any]
    amounts: Amounts
    wall: float | None
    depth: int
    level: int
    until: int
    lease: int

    @property
    def sub(self) -> str:
        """On whose behalf: the subject, or the agent for itself."""
        return ":".join(self.subject) if self.subject else self.act

    def claims(self) -> dict[str, Any]:
        """Give what Buspass has to say of it."""
        wished = {"models": self.models, "tools": self.tools, "wall": self.wall}
        return {
            **self.link.claims(),
            "workflow": self.workflow,
            "metadata": dict(self.metadata),
            "amounts": dict(self.amounts),
            "depth": self.depth,
            "level": self.level,
            "until": self.until,
            "lease": self.lease,
            **{name: value for name, value in wished.items() if value is not None},
            **({"subject": {"type": self.subject[0], "id": self.subject[1]}} if self.subject else {}),
        }


class Order(Struct, frozen=True, kw_only=True):
    """What the parent's domain wants of a child: to know how it stands, and that something be done before.

    `until`: its lease renewed to then (ms), 0: not; `kill`: ended; `bury`: kept from being born where it was not.
    """

    link: Link
    until: int = 0
    kill: bool = False
    bury: bool = False

    def claims(self) -> dict[str, Any]:
        """Give what Buspass has to say of it."""
        return {**self.link.claims(), "until": self.until, "kill": self.kill, "bury": self.bury}


class Statement(Struct, frozen=True, kw_only=True):
    """How a child stands, in its peer's word: what it used, and `as_of` which of its states that was read."""

    link: Link
    state: State
    status: str
    used: Amounts
    as_of: int

    def claims(self) -> dict[str, Any]:
        """Give what Buspass has to say of it."""
        said = {"state": self.state, "status": self.status, "used": dict(self.used), "as_of": self.as_of}
        return {**self.link.claims(), **said}


def grant(claims: Mapping[str, Any]) -> Grant:
    """Read a proven grant. Raises Problem invalid_request."""
    ours, act = _ours(claims), claims.get("act")
    found = Grant(
        link=_link(claims, ours),
        workflow=_text(ours, "workflow", 64),
        act=_text(act if isinstance(act, Mapping) else {}, "sub", 400),
        subject=_subject(ours.get("subject")),
        models=_names(ours, "models"),
        tools=_names(ours, "tools"),
        metadata=_mapping(ours, "metadata"),
        amounts=_amounts(ours, "amounts"),
        wall=None if ours.get("wall") is None else _number(ours, "wall", 1, MOST),
        depth=_whole(ours, "depth", LEVELS),
        level=_whole(ours, "level", LEVELS),
        until=_whole(ours, "until"),
        lease=_whole(ours, "lease"),
    )
    if claims.get("sub") != found.sub:
        raise _wrong("sub")
    return found


def order(claims: Mapping[str, Any]) -> Order:
    """Read a proven order. Raises Problem invalid_request."""
    ours = _ours(claims)
    return Order(
        link=_link(claims, ours), until=_whole(ours, "until"), kill=_flag(ours, "kill"), bury=_flag(ours, "bury")
    )


def statement(claims: Mapping[str, Any]) -> Statement:
    """Read a proven statement. Raises Problem invalid_request."""
    ours = _ours(claims)
    state, status = ours.get("state"), ours.get("status")
    if state not in STATES:
        raise _wrong("state")
    if status not in (*STATUSES, ""):
        raise _wrong("status")
    return Statement(
        link=_link(claims, ours),
        state=state,
        status=status,
        used=_amounts(ours, "used", WHOLE),
        as_of=_whole(ours, "as_of"),
    )


def _ours(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(claims, "buspass")


def _link(claims: Mapping[str, Any], ours: Mapping[str, Any]) -> Link:
    return Link(
        parent=_matching(claims, "txn", _TASK),
        host=_matching(ours, "host", _NAME),
        child=_matching(ours, "child", _TASK),
        allocation=_matching(ours, "allocation", _ALLOCATION),
    )


def _subject(value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong("subject")
    return _text(value, "type", 256), _text(value, "id", 256)


def _matching(members: Mapping[str, Any], name: str, shape: re.Pattern[str]) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise _wrong(name)
    return value


def _text(members: Mapping[str, Any], name: str, most: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise _wrong(name)
    return value


def _names(members: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > NAMES or not all(isinstance(part, str) for part in value):
        raise _wrong(name)
    return tuple(value)


def _mapping(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name)
    if not isinstance(value, Mapping):
        raise _wrong(name)
    return value


def _amounts(members: Mapping[str, Any], name: str, most: int = MOST) -> dict[str, int]:
    value = _mapping(members, name)
    if not set(value) <= set(ACCOUNTS):
        raise _wrong(name)
    return {account: _whole(value, account, most) for account in value}


def _whole(members: Mapping[str, Any], name: str, most: int = WHOLE) -> int:
    value = members.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise _wrong(name)
    return value


def _number(members: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = members.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(name)
    return float(value)


def _flag(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    if not isinstance(value, bool):
        raise _wrong(name)
    return value


def _wrong(name: str) -> Problem:
    row = {"path": name, "message": "is missing, or is no such value"}
    return Problem("invalid_request", f"the peer's token says {name!r} in no form that is understood", errors=[row])
