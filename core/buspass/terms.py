"""What a task begins with: its workflow's terms, narrowed by the client's budget and by policy's grant.

Owns that each can only narrow, and what a budget may look like. Pure. Refuses to know who starts a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.model import ACCOUNTS, MICRO
from buspass.policy.decide import Decision
from buspass.tasks import Grant

BUDGET_FIELDS: Final = (*ACCOUNTS, "wall")
ROWS: Final = 20
"""Rows a problem shows at most."""


class Terms(Struct, frozen=True, kw_only=True):
    """What a task begins with: grant, limits by account, seconds of life."""

    grant: Grant
    limits: Mapping[str, int]
    wall: float


def terms_of(workflow: Workflow, budget: Mapping[str, Any]) -> Terms:
    """Give a workflow's terms under a client's budget. Raises Problem unsupported, invalid_request."""
    grant = Grant(models=workflow.models, tools=tuple(workflow.route))
    return budgeted(Terms(grant=grant, limits=workflow.limits, wall=workflow.wall), budget)


def budgeted(terms: Terms, budget: Mapping[str, Any]) -> Terms:
    """Narrow the limits; an account that has none gets one.

    Raises Problem invalid_request for what is malformed or wider, unsupported for what is unknown.
    """
    only(budget, BUDGET_FIELDS, "budget.")
    limits, wall = dict(terms.limits), terms.wall
    for name, value in budget.items():
        amount = _amount(name, value)
        now = round(wall * MICRO) if name == "wall" else limits.get(name, amount)
        if amount > now:
            most = now / MICRO if name in {"wall", "cost"} else now
            raise Problem(
                "invalid_request",
                f"budget.{name} may only narrow the workflow's {most:g}",
                errors=[{"path": f"budget.{name}", "message": "is wider", "allowed": most}],
            )
        if name == "wall":
            wall = amount / MICRO
        else:
            limits[name] = amount
    return Terms(grant=terms.grant, limits=limits, wall=wall)


def named_part(field: str, names: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Give the part of `allowed` that a list names, all of it where there is none. Raises Problem invalid_request."""
    if names is None:
        return allowed
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name in allowed for name in names):
        row = {"path": field, "message": "is no list of what may be had", "allowed": list(allowed)}
        raise Problem("invalid_request", f"{field} is a list of names that may be had here", errors=[row])
    return tuple(name for name in allowed if name in names)


def _amount(name: str, value: Any) -> int:
    """Give an account's integer; cost and wall in millionths (USD, seconds)."""
    scaled = name in {"cost", "wall"}
    if isinstance(value, bool) or not isinstance(value, int | float if scaled else int) or not 0 <= value < 2**40:
        raise Problem(
            "invalid_request",
            f"budget.{name} must be a {'number' if scaled else 'whole number'} of at least 0",
            errors=[{"path": f"budget.{name}", "message": "is no such number"}],
        )
    if name == "wall" and value < 1:
        raise Problem(
            "invalid_request",
            "budget.wall must be at least 1 second",
            errors=[{"path": "budget.wall", "message": "is too short for any call"}],
        )
    return round(value * MICRO) if scaled else int(value)


def narrowed(terms: Terms, decision: Decision) -> Terms:
    """Apply policy's grant: it can only narrow, so what it adds is nothing. Raises Problem policy_unavailable."""
    if (given := decision.grant) is None:
        return terms
    budget = given.get("budget", {})
    known = set(given) <= {"models", "tools", "budget", "lifetime"} and isinstance(budget, Mapping)
    lifetime = given.get("lifetime", terms.wall)
    if not known or not set(budget) <= set(BUDGET_FIELDS) or not _positive(lifetime):
        raise _malformed()
    limits, wall = dict(terms.limits), min(terms.wall, float(lifetime))
    for name, value in budget.items():
        try:
            amount = _amount(name, value)
        except Problem as problem:
            raise _malformed() from problem
        if name == "wall":
            wall = min(wall, amount / MICRO)
        else:
            limits[name] = min(amount, limits.get(name, amount))
    granted = terms.grant
    grant = Grant(models=_kept(granted.models, given.get("models")), tools=_kept(granted.tools, given.get("tools")))
    return Terms(grant=grant, limits=limits, wall=wall)


def _kept(names: tuple[str, ...], given: Any) -> tuple[str, ...]:
    if given is None:
        return names
    if not isinstance(given, list | tuple | set | frozenset):
        raise _malformed()
    wanted = {name for name in given if isinstance(name, str)}
    return tuple(name for name in names if name in wanted)


def _positive(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 1


def _malformed() -> Problem:
    """Policy's fault, not the client's: where a module answers, what can't be understood is no permission."""
    return Problem("policy_unavailable", "the start policy gave a grant that can't be understood")


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Give an optional object of a body. Raises Problem invalid_request."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Problem("invalid_request", f"{name} must be an object", errors=[{"path": name, "message": "no object"}])
    return value


def only(body: Mapping[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    """Refuse members that are not known. Raises Problem unsupported."""
    unknown = [name for name in body if name not in known]
    if unknown:
        rows = [{"path": prefix + name, "message": "is not a field", "allowed": list(known)} for name in unknown[:ROWS]]
        raise Problem("unsupported", f"field {(prefix + unknown[0])[:100]!r} is not supported", errors=rows)
