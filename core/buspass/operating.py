"""Stops, as operators order, list and lift them. Owns what may be stopped, and the shape in which a stop is shown.

Refuses to know how a stop is carried out (`stopping`), and HTTP. A name that nobody knows is refused: who mistypes in
an emergency must not believe that anything stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.callers import Caller, OperatorCaller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal.timeline import moment
from buspass.routing import targets
from buspass.stopping import carry_out, in_flight, stores
from buspass.stops import KINDS, Kind, Stop, stop_id
from buspass.terms import only

PATIENCE: Final = 8.0
"""Seconds that an order waits for calls in flight to end."""
CHARACTERS: Final = 256
REASON: Final = 500


async def order(house: House, who: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
    """Stop something, end the tasks that it meets, and say what came of it.

    The same again goes on where it was left. Raises Problem denied, invalid_request, conflict, state_unavailable.
    """
    by = _operator(who)
    only(body, (*KINDS, "reason"))
    kind, name = _named(house, body)
    stop = Stop(
        id=stop_id(kind, name),
        kind=kind,
        name=name,
        reason=_reason(body.get("reason")),
        by=by,
        at=house.clock.now(),
        host=house.host.name,
    )
    stands, swept = await carry_out(house, stop, PATIENCE)
    count, latest = await in_flight(swept, stands)
    return {
        **shown(stands),
        "in_flight": count,
        "cut": max(len(swept.calls) - count, 0),
        "drained_by": moment(latest or house.clock.now()),
        "unreached": sorted(set(swept.missing)),
    }


async def listing(house: House, who: Caller, *, lifted: bool) -> list[dict[str, Any]]:
    """Give the stops that stand, or the newest of those that were lifted. Raises Problem denied, state_unavailable."""
    _operator(who)
    found = await house.stops.lifted() if lifted else await house.stops.now()
    return [shown(stop) for stop in sorted(found, key=lambda stop: -stop.at)]


async def lift(house: House, who: Caller, stop: str, reason: Any) -> dict[str, Any]:
    """Lift a stop in every store, here last: what could not be reached is told, and to repeat it is harmless.

    Raises Problem denied, not_found, invalid_request, conflict, state_unavailable.
    """
    by, why = _operator(who), _reason(reason)
    places, missing = await stores(house)
    if missing:
        detail = f"the stores of these hosts can't be reached, so it still stands: {', '.join(missing)}; retry"
        raise Problem("state_unavailable", detail, retry_after=5)
    found = None
    for there in reversed(places):
        found = await there.stops.lift(stop, by=by, reason=why, host=house.host.name) or found
    if found is None:
        raise Problem("not_found", "there is no such stop; GET /v1/stops shows those that stand")
    return shown(found)


def shown(stop: Stop) -> dict[str, Any]:
    """Give a stop as `GET /v1/stops` does."""
    return {
        "id": stop.id,
        stop.kind: stop.name or True,
        "reason": stop.reason,
        "by": stop.by,
        "at": moment(stop.at),
        "host": stop.host,
        "tasks": stop.tasks,
        "complete": bool(stop.done),
        "done_at": _when(stop.done),
        "lifted_at": _when(stop.lifted),
        **({"lifted_by": stop.lifted_by, "lifted_reason": stop.lifted_reason} if stop.lifted else {}),
    }


def _when(ms: int) -> str | None:
    return moment(ms) if ms else None


# ── what may be stopped ─────────────────────────────────────────────────────────────────────────────────────────────


def _operator(who: Caller) -> str:
    if not isinstance(who, OperatorCaller):
        raise Problem("denied", "only an operator stops agents, and lets them go on", reasons=["caller"])
    return who.name


def _wrong(path: str, detail: str, allowed: Any = None) -> Problem:
    row = {"path": path, "message": "does not fit", **({"allowed": allowed} if allowed is not None else {})}
    return Problem("invalid_request", detail, errors=[row])


def _reason(reason: Any) -> str:
    if not isinstance(reason, str) or not reason.strip() or len(reason) > REASON:
        raise _wrong("reason", f"reason says why, in 1 to {REASON} characters: agents are told, and it is kept")
    return reason.strip()


def _named(house: House, body: Mapping[str, Any]) -> tuple[Kind, str]:
    given: list[Kind] = [kind for kind in KINDS if body.get(kind) is not None]
    if len(given) != 1:
        raise _wrong("", f"say what to stop: one of {', '.join(KINDS)}", list(KINDS))
    (kind,) = given
    name = body[kind]
    if kind == "all":
        if name is not True:
            raise _wrong("all", "all is true, or left out", [True])
        return kind, ""
    if not isinstance(name, str) or not 0 < len(name) <= CHARACTERS or not name.isprintable():
        raise _wrong(kind, f"{kind} is a name of at most {CHARACTERS} printable characters")
    known = _known(house, kind)
    if known is not None and name not in known:
        raise _wrong(kind, f"there is no {kind} {name!r} here, so nothing was stopped", sorted(known))
    return kind, name


def _known(house: House, kind: Kind) -> set[str] | None:
    """Give the names there are; None of agents, whom their issuers know."""
    settings = house.settings
    models = settings.models.values()
    match kind:
        case "workflow":
            return set(settings.workflows)
        case "tool":
            return set(settings.tools)
        case "model":
            return {*settings.models, *(targets.name(target) for model in models for target in model.targets)}
        case _:
            return None
