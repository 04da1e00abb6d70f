"""Keys, as operators make and end them: new, list, rotate, revoke.

Owns what a key may be made for, and the shape in which one is shown. Refuses to know calls (`standing`) and HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.callers import Caller, OperatorCaller
from buspass.calls.house import House
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.identity import keys as secrets
from buspass.journal.timeline import moment
from buspass.model import MICRO
from buspass.tasks.keys import Key
from buspass.terms import mapping, only, terms_of

FIELDS: Final = ("name", "workflow", "pool", "models", "expires_in", "budget")
LONGEST: Final = 10 * 365 * 86_400
"""Seconds that a key lives, or its old secret after a rotation, at most."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Made(Struct, frozen=True, kw_only=True):
    """A key and its text, which is shown this once."""

    key: Key
    text: str

    def __repr__(self) -> str:
        return f"Made({self.key.id}, …)"


async def new(house: House, who: Caller, body: Mapping[str, Any]) -> Made:
    """Make a key. Raises Problem denied, invalid_request, unsupported, state_unavailable."""
    by = _operator(who)
    only(body, FIELDS)
    name, now = _name(body.get("name")), house.clock.now()
    workflow = _workflow(house, body.get("workflow"))
    pool = _pool(house, workflow, body.get("pool"))
    budget = mapping(body.get("budget"), "budget")
    _affordable(house, workflow, pool, budget)
    lasts = _seconds(body.get("expires_in"), "expires_in", least=1)
    shown = secrets.mint(house.clock)
    key = Key(
        id=shown.id,
        name=name,
        workflow=workflow.name,
        pool=pool,
        digest=shown.digest,
        created_at=now,
        created_by=by,
        models=_models(workflow, body.get("models")),
        budget=dict(budget),
        expires_at=now + lasts * 1000 if lasts else 0,
    )
    await house.keys.add(key)
    return Made(key=key, text=shown.text)


async def listing(house: House, who: Caller, limit: int, cursor: str) -> tuple[list[Key], str | None]:
    """Give a page of keys, ended ones too. Raises Problem denied, state_unavailable."""
    _operator(who)
    return await house.keys.listing(cursor, limit)


async def rotate(house: House, who: Caller, key: str, body: Mapping[str, Any]) -> Made:
    """Give a key a new secret, and lift the stop that a kill put on it. The old one is good for `grace` seconds more.

    Raises Problem denied, not_found, invalid_request, unsupported, state_unavailable.
    """
    _operator(who)
    only(body, ("grace",))
    grace, now = _seconds(body.get("grace"), "grace", least=0), house.clock.now()
    shown = secrets.mint(house.clock, key)

    def turned(found: Key) -> Key:
        if found.revoked_at or (found.expires_at and found.expires_at <= now):
            raise Problem("invalid_request", f"key {found.name!r} is over; make a new one")
        return replace(
            found,
            digest=shown.digest,
            previous=found.digest if grace else "",
            previous_until=now + grace * 1000 if grace else 0,
            rotated_at=now,
            stopped="",
            cleared=now if found.stopped else found.cleared,
        )

    return Made(key=await house.keys.change(key, turned), text=shown.text)


async def revoke(house: House, who: Caller, key: str) -> Key:
    """End a key for ever; every host refuses it within five seconds. Raises Problem denied, not_found."""
    _operator(who)
    now = house.clock.now()
    return await house.keys.change(key, lambda found: found if found.revoked_at else replace(found, revoked_at=now))


def shown(key: Key, now: int) -> dict[str, Any]:
    """Give a key as `GET /v1/keys` does; nothing of its secrets."""
    return {
        "id": key.id,
        "name": key.name,
        "workflow": key.workflow,
        "pool": key.pool,
        "models": list(key.models) or None,
        "budget": dict(key.budget),
        "status": _status(key, now),
        "created_at": moment(key.created_at),
        "created_by": key.created_by,
        "expires_at": _when(key.expires_at),
        "rotated_at": _when(key.rotated_at),
        "revoked_at": _when(key.revoked_at),
        "killed_task": key.stopped or None,
    }


def _status(key: Key, now: int) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at and key.expires_at <= now:
        return "expired"
    return "stopped" if key.stopped else "active"


def _when(ms: int) -> str | None:
    return moment(ms) if ms else None


# ── what a key may be made for ──────────────────────────────────────────────────────────────────────────────────────


def _operator(who: Caller) -> str:
    if not isinstance(who, OperatorCaller):
        raise Problem("denied", "only an operator makes, lists and ends keys", reasons=["caller"])
    return who.name


def _wrong(path: str, detail: str, allowed: Any = None) -> Problem:
    row = {"path": path, "message": "does not fit", **({"allowed": allowed} if allowed is not None else {})}
    return Problem("invalid_request", detail, errors=[row])


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong("name", "name is 1 to 64 letters, digits, '.', '_' and '-': whose key it is")
    return name


def _workflow(house: House, name: Any) -> Workflow:
    known = house.settings.workflows
    if not isinstance(name, str):
        raise _wrong("workflow", "workflow names the kind of task that the key's calls run in", sorted(known))
    if name not in known:
        raise _wrong(
            "workflow", f"there is no workflow {name!r} here, in whose tasks the key's calls would run", sorted(known)
        )
    if known[name].subject is not None:
        free = sorted(each for each, workflow in known.items() if workflow.subject is None)
        detail = f"workflow {name!r} acts for a subject, which a key cannot prove; its agents need OIDC"
        raise _wrong("workflow", detail, free)
    return known[name]


def _pool(house: House, workflow: Workflow, name: Any) -> str:
    """Give the pool: the one named, the workflow's own, or the only one there is."""
    known = sorted(house.settings.pools)
    if not known:
        raise _wrong("pool", "a key's money comes out of a pool and none is configured; add pools: {NAME: {cost: 5}}")
    if name is None:
        name = workflow.pool or (known[0] if len(known) == 1 else None)
    if name is None:
        raise _wrong("pool", "pool is needed where there are several: which one pays for this key", known)
    if not isinstance(name, str) or name not in known:
        raise _wrong("pool", "there is no such pool", known)
    return name


def _models(workflow: Workflow, models: Any) -> tuple[str, ...]:
    if models is None:
        return ()
    allowed = list(workflow.models)
    if not isinstance(models, list) or not models or not all(name in allowed for name in models):
        raise _wrong("models", f"models is a list of some that workflow {workflow.name!r} grants", allowed)
    return tuple(name for name in allowed if name in models)


def _affordable(house: House, workflow: Workflow, pool: str, budget: Mapping[str, Any]) -> None:
    """Refuse a key whose standing tasks have no bound, or one that its pool can never pay."""
    cost = terms_of(workflow, budget).limits.get("cost")
    if cost is None:
        raise _wrong("budget.cost", f"workflow {workflow.name!r} does not limit cost: give the key budget: {{cost: …}}")
    if cost > (holds := house.settings.pools[pool].cost):
        detail = f"each standing task draws ${cost / MICRO:.6f} and pool {pool!r} holds ${holds / MICRO:.6f} in all"
        raise _wrong("budget.cost", f"{detail}: give the key a smaller budget: {{cost: …}}", holds / MICRO)


def _seconds(value: Any, name: str, *, least: int) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LONGEST:
        raise _wrong(name, f"{name} is a whole number of seconds, {least} to {LONGEST}")
    return value
