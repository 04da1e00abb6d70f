"""What a workflow's rules for personal data do with each class on each of a call's ways.

Owns the four ways: towards a model or a tool, from a model or a tool; and which of two actions is the stricter. Refuses
to know any call, and what policy adds: that is `screening`.
"""

from __future__ import annotations

from typing import Final

from buspass.config.settings import PersonalData
from buspass.mediation.classes import PERSONAL
from buspass.mediation.rewriting import Action

STRENGTH: Final[tuple[Action, ...]] = ("allow", "placeholder", "mask", "block")
"""From weakest to strictest: policy may only move a class to the right."""
ANSWERED: Final[dict[str, Action]] = {"secret": "mask"}


def towards_model(rules: PersonalData | None) -> dict[str, Action]:
    """Give the action per class on the way to a model."""
    if rules is None:
        return {}
    passing: Action = rules.to_models or "allow"
    return {name: "block" if name in rules.block else passing for name in PERSONAL}


def towards_tool(rules: PersonalData | None, tool: str) -> dict[str, Action]:
    """Give that to a tool: what may not pass as it is becomes a placeholder, unless the workflow blocks it."""
    if rules is None:
        return {}
    told = rules.to_tools.get(tool, frozenset())
    barred: Action = "block" if rules.to_models == "block" else "placeholder"
    return {name: "block" if name in rules.block else "placeholder" if name in told else barred for name in PERSONAL}


def from_model(rules: PersonalData | None) -> dict[str, Action]:
    """Give that from a model to the agent."""
    if rules is None:
        return dict(ANSWERED)
    found: Action = "placeholder" if rules.to_agent == "placeholder" else "allow"
    return {name: "mask" if name in rules.block else found for name in PERSONAL} | ANSWERED


def from_tool(rules: PersonalData | None) -> dict[str, Action]:
    """Give that from a tool to the agent, and so to its model."""
    if rules is None:
        return dict(ANSWERED)
    hidden = "placeholder" in (rules.to_models, rules.to_agent)
    passing: Action = "mask" if rules.to_models == "block" else "placeholder" if hidden else "allow"
    return {name: "mask" if name in rules.block else passing for name in PERSONAL} | ANSWERED


def stricter(one: Action, other: Action) -> Action:
    """Give the stricter of two."""
    return max(one, other, key=STRENGTH.index)
