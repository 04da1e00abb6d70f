"""What a workflow would have to allow for what was seen: the least that buspass.yaml must say.

Owns how each control is loosened, and what no configuration can allow, in words. Pure. Refuses to know journals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, field

from buspass.config.settings import After, Settings, Step, Workflow
from buspass.model import ACCOUNTS, MICRO

ROOM: Final = 1.25
"""An agent never does the very same twice: a raised limit leaves it a quarter more."""
CENT: Final = 10_000
WINDOW: Final = 12
"""The most that a threshold of `loops` can be."""
MOST: Final = {"cycle": 6}
_AFTER: Final = re.compile(r"after (\S+) \((done|where|within)\)")


class Seen(Struct, frozen=True, kw_only=True):
    """One thing that was seen `count` times: as a record's entry of `observed` says it, of a call of `kind` to `name`.

    `below`: the most that an account was short; `limit`: the task's own of that account then.
    """

    verdict: str
    code: str
    kind: str
    name: str
    rule: str
    count: int
    below: int = 0
    limit: int | None = None


class Allowance(Struct):
    """What would be merged into buspass.yaml (lists replace lists), and what that can't allow."""

    workflow: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, seen: Seen, text: str) -> None:
        """Say once what is left to a person."""
        line = f"{text} ({seen.count}×)"
        if line not in self.notes:
            self.notes.append(line)


def allowance(workflow: Workflow, settings: Settings, seen: Iterable[Seen], *, acted: bool) -> Allowance:
    """Give what would allow what was seen. `acted`: tools were called through the gateway."""
    found = Allowance({"enforce": "on"})
    rows = sorted(seen, key=lambda row: (row.code, row.name, row.rule))
    _models(found, workflow, rows)
    _route(found, workflow, settings, rows, acted=acted)
    _budget(found, workflow, rows)
    _loops(found, rows)
    _personal_data(found, workflow, rows)
    for row in rows:
        match row.code:
            case "thought_required":
                found.workflow["require_thought"] = False
            case "denied" if not row.rule.startswith("argument_bound: "):
                found.note(row, f"policy denies {row.name}: {row.rule}; change its Rego")
            case "policy_unavailable":
                found.note(row, "policy gave no usable answer; mend its Rego")
            case "max_tokens":
                found.note(row, f"policy would end answers of {row.name} sooner; the agent would get less")
            case "idempotency_mismatch":
                found.note(row, f"{row.name} was called with other arguments than its model asked for; mend the agent")
            case "unpriced":
                found.note(row, f"{row.rule} has no price; add it to prices:")
            case "unbounded":
                found.note(
                    row, f"nothing bounds what {row.rule} costs at {row.name}; leave it out, or take another model"
                )
            case "too_many_in_flight":
                found.note(row, "more than 64 calls of a task were in flight; the agent would have waited")
    return found


def _models(found: Allowance, workflow: Workflow, rows: Iterable[Seen]) -> None:
    models = list(workflow.models)
    for row in rows:
        if row.code != "model_not_granted":
            continue
        if row.rule in workflow.models:
            found.note(row, f"model {row.rule} is the workflow's, but the key or policy grants less")
        elif row.rule not in models:
            models.append(row.rule)
    if len(models) > len(workflow.models):
        found.workflow["models"] = models


def _route(found: Allowance, workflow: Workflow, settings: Settings, rows: Iterable[Seen], *, acted: bool) -> None:
    route = {name: _copy(step) for name, step in workflow.route.items()}
    own: list[Seen] = []
    for row in rows:
        if row.code != "tool_not_granted":
            _loosen(route.get(row.name), row)
        elif row.rule in workflow.route:
            found.note(row, f"tool {row.rule} is the workflow's, but the key or policy grants less")
        elif row.rule in settings.tools:
            route.setdefault(row.rule, {"tool": row.rule})
        else:
            own.append(row)
    if own and not acted:
        names = ", ".join(row.rule for row in own)
        found.note(own[0], f"the agent runs its functions itself ({names}): an empty route lets all of them pass")
        route = {}
    else:
        for row in own:
            found.note(
                row, f"{row.rule} is the agent's own function; define it under tools: to let the gateway call it"
            )
    if route != {name: _copy(step) for name, step in workflow.route.items()}:
        found.workflow["tools"] = [_said(step) for step in route.values()]


def _loosen(step: dict[str, Any] | None, row: Seen) -> None:
    """Take from a step what was not met."""
    if step is None:
        return
    if row.code == "denied" and row.rule.startswith("argument_bound: "):
        _without(step, "where", row.rule.removeprefix("argument_bound: "))
    elif row.code == "call_limit":
        step["max_calls"] = step.get("max_calls", 0) + max(row.below, 1)
    elif row.code in {"prerequisite_missing", "prerequisite_in_flight"}:
        _later(step, row.rule)


def _copy(step: Step) -> dict[str, Any]:
    """Give a step as the file would say it."""
    said: dict[str, Any] = {"tool": step.tool}
    if step.where:
        said["where"] = dict(step.where)
    if step.after:
        said["after"] = [_copy_after(after) for after in step.after]
    if step.max_calls is not None:
        said["max_calls"] = step.max_calls
    return said


def _copy_after(after: After) -> dict[str, Any]:
    said: dict[str, Any] = {"tool": after.tool}
    if after.where:
        said["where"] = dict(after.where)
    if after.within is not None:
        said["within"] = f"{round(after.within * 1000)}ms"
    return said


def _said(step: Mapping[str, Any]) -> Any:
    """Give a step as short as it can be said."""
    if "after" in step:
        step = {**step, "after": [_said(after) for after in step["after"]]}
    return step["tool"] if set(step) == {"tool"} else dict(step)


def _without(said: dict[str, Any], member: str, name: str) -> None:
    said.get(member, {}).pop(name, None)
    if not said.get(member):
        said.pop(member, None)


def _later(step: dict[str, Any], rule: str) -> None:
    """Loosen the prerequisites of one tool by the part that was not met: all of it where it had not succeeded."""
    if (match := _AFTER.fullmatch(rule)) is None:
        return
    tool, part = match.groups()
    for after in [after for after in step.get("after", ()) if after["tool"] == tool]:
        if part == "done":
            step["after"].remove(after)
        else:
            after.pop(part, None)
    if not step.get("after"):
        step.pop("after", None)


def _budget(found: Allowance, workflow: Workflow, rows: Iterable[Seen]) -> None:
    needed: dict[str, int] = {}
    for row in rows:
        if row.code in {"budget_exhausted", "budget_held"} and row.rule in ACCOUNTS and row.limit is not None:
            if row.limit < workflow.limits.get(row.rule, row.limit + 1):
                found.note(
                    row, f"a task's own {row.rule} was less than the workflow's; its client or policy asked for it"
                )
            needed[row.rule] = max(needed.get(row.rule, 0), row.limit + row.below)
    raised = {
        name: _roomy(name, amount)
        for name in ACCOUNTS
        if (amount := needed.get(name, 0)) > workflow.limits.get(name, amount)
    }
    if raised:
        found.workflow["budget"] = raised


def _loops(found: Allowance, rows: Iterable[Seen]) -> None:
    """Allow what repeated as often as it was seen, as far as a task's head looks back."""
    needed: dict[str, int] = {}
    for row in rows:
        if row.code == "rate_limited":
            found.note(row, f"{row.name} was polled more often than its min_interval; it would be told to wait")
        if row.code != "repeated_call" or row.limit is None:
            continue
        needed[row.rule] = max(needed.get(row.rule, 0), row.limit + row.below)
        what = f"{row.name} went in circles ({row.rule})"
        found.note(row, f"{what}; mend the agent, or declare the tool polling if it must be asked again and again")
    if not needed:
        return
    if all(count <= MOST.get(pattern, WINDOW) for pattern, count in needed.items()):
        found.workflow["loops"] = needed
    else:
        found.workflow["loops"] = "off"


def _roomy(account: str, amount: int) -> int | float:
    """Give the amount with room, rounded up to two digits; `cost` in USD, to the cent at least."""
    wanted = amount * ROOM
    digit = 10 ** max(math.floor(math.log10(wanted)) - 1, 0)
    step = max(digit, CENT) if account == "cost" else digit
    whole: int = math.ceil(wanted / step) * step
    return whole / MICRO if account == "cost" else whole


def _personal_data(found: Allowance, workflow: Workflow, rows: Iterable[Seen]) -> None:
    rules = workflow.personal_data
    blocked = set(rules.block) if rules else set()
    for row in rows:
        class_, _, where = row.rule.partition(" ")
        if row.code == "content_blocked":
            blocked.discard(class_)
            found.note(row, f"{class_} would be blocked on its way {where}; below it is no longer")
        elif row.code in {"placeholder", "mask"} and row.verdict == "would_block":
            what = "replaced by a placeholder" if row.code == "placeholder" else "masked"
            found.note(row, f"{class_} would be {what} on its way {where}; nothing is refused for it")
    if rules is None or not any(row.code == "content_blocked" for row in rows):
        return
    changed: dict[str, Any] = {"block": sorted(blocked)}
    if rules.to_models == "block":
        changed["to_models"] = "placeholder"
    found.workflow["personal_data"] = changed
