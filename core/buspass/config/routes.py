"""Whether a workflow's route can be walked: tools granted once, prerequisites without a cycle, facts that exist.

Refuses to know models and agents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, Final

from buspass.config.document import Path, Problems
from buspass.config.schema.tools import Tool
from buspass.config.schema.workflows import AfterRule, StepRule, Workflow
from buspass.config.toolsets import arguments_of

SUBJECT: Final = "$subject.id"
ARGUMENTS: Final = "$arguments."


def check_route(at: Path, workflow: Workflow, tools: Mapping[str, Tool], problems: Problems) -> None:
    """Note what is wrong with one workflow's route."""
    granted: set[str] = set()
    for index, step in enumerate(workflow.tools):
        place = (*at, "tools", index)
        if not _exists(step.tool, tools):
            problems.add(_tool_place(place, problems), f"no tool {step.tool!r}; allowed: {_list(tools)}")
        elif step.tool in granted:
            problems.add(_tool_place(place, problems), f"{step.tool!r} is granted twice")
        granted.add(step.tool)
    for index, step in enumerate(workflow.tools):
        place = (*at, "tools", index)
        _where(place, step, workflow, tools, problems)
        for number, rule in enumerate(step.after):
            _after((*place, "after", number), step, rule, workflow, tools, problems)
    _cycles(at, workflow, problems)


def _tool_place(place: Path, problems: Problems) -> Path:
    return (*place, "tool") if problems.stands((*place, "tool")) else place


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none is defined"


def _exists(name: str, tools: Mapping[str, Tool]) -> bool:
    """Tools of an OpenAPI document or an MCP server are named ENTRY_OPERATION."""
    if name in tools:
        return True
    return any(name.startswith(f"{entry}_") for entry, tool in tools.items() if tool.openapi or tool.mcp)


def _where(at: Path, step: StepRule, workflow: Workflow, tools: Mapping[str, Tool], problems: Problems) -> None:
    tool = tools.get(step.tool)
    for argument, wanted in step.where.items():
        place = (*at, "where", argument)
        if tool is not None and tool.http and argument not in arguments_of(tool):
            what = f"{step.tool} has no argument {argument!r}; allowed: {_list(arguments_of(tool))}"
            problems.add(place, what, key=True)
        _value(place, wanted, workflow, None, problems)


def _after(
    at: Path, step: StepRule, rule: AfterRule, workflow: Workflow, tools: Mapping[str, Tool], problems: Problems
) -> None:
    granted = [each.tool for each in workflow.tools]
    if rule.tool not in granted:
        what = f"{rule.tool!r} is not granted in this workflow; allowed: {_list(granted)}"
        problems.add(_tool_place(at, problems), what)
        return
    before, tool = tools.get(rule.tool), tools.get(step.tool)
    for fact, wanted in rule.where.items():
        place = (*at, "where", fact)
        if before is not None and before.http and fact not in before.keep:
            what = f"{rule.tool} keeps no fact {fact!r}; allowed: {_list(before.keep)}"
            problems.add(place, what, key=True)
        _value(place, wanted, workflow, tool, problems)


def _value(at: Path, wanted: Any, workflow: Workflow, tool: Tool | None, problems: Problems) -> None:
    """A literal, `$subject.id`, or (of a prerequisite) `$arguments.NAME` of the step's own tool."""
    if not isinstance(wanted, str | bool | int | Decimal):
        problems.add(at, "must be text, a number, true or false, or $subject.id")
        return
    if not isinstance(wanted, str) or not wanted.startswith("$"):
        return
    if wanted == SUBJECT:
        if workflow.subject is None:
            problems.add(at, "$subject.id needs a subject; add subject: {types: […]} to the workflow")
        return
    if tool is None or not wanted.startswith(ARGUMENTS):
        allowed = "$subject.id" if tool is None else "$subject.id, $arguments.NAME"
        problems.add(at, f"{wanted!r} is not known; allowed: {allowed}, or a literal")
        return
    argument = wanted.removeprefix(ARGUMENTS)
    if tool.http and argument not in arguments_of(tool):
        problems.add(at, f"the tool has no argument {argument!r}; allowed: {_list(arguments_of(tool))}")


def _cycles(at: Path, workflow: Workflow, problems: Problems) -> None:
    before = {step.tool: [rule.tool for rule in step.after] for step in workflow.tools}
    told: set[frozenset[str]] = set()
    for index, step in enumerate(workflow.tools):
        cycle = _cycle(step.tool, before)
        if cycle and frozenset(cycle) not in told:
            told.add(frozenset(cycle))
            chain = " after ".join([*cycle, step.tool])
            problems.add((*at, "tools", index, "after"), f"can never be called: {chain}")


def _cycle(start: str, before: Mapping[str, list[str]]) -> list[str]:
    """The shortest chain of prerequisites from `start` back to itself; empty if there is none."""
    chains = [[start]]
    seen = {start}
    for chain in chains:
        for name in before.get(chain[-1], []):
            if name == start:
                return chain
            if name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []
