"""The route: caps and what must come before (`max_calls`, `after … where … within`).

Owns the meaning of `after`. A bare one asks whether the tool ever succeeded: that never turns false again, so the hold
need not demand the head's version. One with `where` or `within` reads the newest kept fact, which a call beginning
meanwhile may outdate: `check_route` says so, and the hold then demands the version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.config.settings import After, Step
from buspass.errors import Problem, Refuse, enforce
from buspass.model import Subject
from buspass.ports.state import Item

KEPT: Final = 16
"""Calls of one tool whose kept facts count."""
RETRY: Final = 0.5
"""Seconds after which a prerequisite that is still running may have ended."""


def check_route(
    head: Item,
    step: Step,
    arguments: Mapping[str, Any],
    subject: Subject | None,
    now: int,
    refuse: Refuse = enforce,
) -> bool:
    """Refuse with call_limit, prerequisite_missing or prerequisite_in_flight; else say whether history was read.

    `now` in ms. Tool names are the head's segments as they stand in the route.
    """
    if step.max_calls is not None and _number(head, "left", step.tool) < 1:
        detail = f"{step.tool} may be called {step.max_calls} time(s) in this task and has been"
        refuse(Problem("call_limit", detail, limit=step.max_calls))
    for after in step.after:
        try:
            _check_after(head, step.tool, after, arguments, subject, now)
        except Problem as problem:
            refuse(problem)
    return any(after.where or after.within is not None for after in step.after)


def _check_after(
    head: Item, tool: str, after: After, arguments: Mapping[str, Any], subject: Subject | None, now: int
) -> None:
    running = _number(head, "running", after.tool) > 0
    judged = bool(after.where) or after.within is not None
    if running and (judged or not _number(head, "done", after.tool)):
        raise Problem(
            "prerequisite_in_flight",
            f"{after.tool} must have answered before {tool}, and it is still running; retry when it has",
            retry_after=RETRY,
            prerequisite=after.tool,
        )
    if not _number(head, "done", after.tool):
        raise _missing(f"call {after.tool} before {tool}", after.tool, "done")
    if judged:
        _judge(head, tool, after, arguments, subject, now)


def _judge(
    head: Item, tool: str, after: After, arguments: Mapping[str, Any], subject: Subject | None, now: int
) -> None:
    chosen = {name: bound(value, arguments, subject) for name, value in after.where.items() if _binds(value)}
    for kept in newest_first(head, after.tool):
        if all(_same(kept["facts"].get(name), value) for name, value in chosen.items()):
            break
    else:
        what = ", ".join(f"{name} = {value!r}" for name, value in chosen.items())
        raise _missing(f"call {after.tool} for {what or 'this'} before {tool}", after.tool, "where")
    for name, wanted in after.where.items():
        if not _binds(wanted) and not _same(kept["facts"].get(name), wanted):
            said = json.dumps(kept["facts"].get(name))
            detail = f"{tool} needs {name} = {json.dumps(wanted)}: {after.tool} said {name}={said}"
            raise _missing(detail, after.tool, "where")
    if after.within is not None and now - kept["at"] > after.within * 1000:
        detail = f"{after.tool} answered longer than {after.within:g} s ago; call it again"
        raise _missing(detail, after.tool, "within")


def newest_first(head: Item, tool: str) -> list[dict[str, Any]]:
    """Give the kept facts of a tool as `{facts, at, turn}`, newest call first (by turn: clocks may differ).

    Those of its last KEPT calls alone: a call that keeps nothing leaves an old fact in its place, which must not
    outlive the younger ones that would have contradicted it.
    """
    kept = head["kept"] if isinstance(head["kept"], Mapping) else {}
    found = [
        {"facts": json.loads(str(entry["facts"])), "at": int(str(entry["at"])), "turn": int(str(entry["turn"]))}
        for name, entry in kept.items()
        if name.rpartition(":")[0] == tool and isinstance(entry, Mapping)
    ]
    oldest = _number(head, "turns", tool) - KEPT
    return sorted((entry for entry in found if entry["turn"] > oldest), key=lambda entry: -entry["turn"])


def bound(value: Any, arguments: Mapping[str, Any], subject: Subject | None) -> Any:
    """Give what `$arguments.X` or `$subject.id` stands for in this call; None where it is not there."""
    source, _, name = str(value)[1:].partition(".")
    if source == "arguments":
        return arguments.get(name)
    if source == "subject" and subject is not None:
        return {"id": subject.id, "type": subject.type}.get(name)
    return None


def _binds(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def _same(found: Any, wanted: Any) -> bool:
    """Compare JSON values: 1 is 1.0, true is not 1, and nothing equals a fact that is not there."""
    if found is None or isinstance(found, bool) != isinstance(wanted, bool):
        return False
    return bool(found == wanted)


def _number(head: Item, table: str, name: str) -> int:
    found = head[table]
    return int(str(found.get(name, 0))) if isinstance(found, Mapping) else 0


def _missing(detail: str, prerequisite: str, part: str) -> Problem:
    """`part`: which of the rule is not met: that it is `done`, what its facts must say (`where`), or `within`."""
    return Problem("prerequisite_missing", detail, prerequisite=prerequisite, unmet=part)
