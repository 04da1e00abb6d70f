"""A conversation as the planner understands it: who, which order, how much, and what every call so far has answered.

Owns the reading of one request's messages and tools. Refuses to decide what comes next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from returns import reading

from buspass.testing.provider_wire import text_of

ROLES = {"customer": ("customer",), "order": ("order",), "legal": ("legal", "check"), "refund": ("refund", "pay")}
"""What a tool is for, by words in its name; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A tool call of this conversation and what came of it: a result, or a problem with a `code`."""

    tool: str
    arguments: dict[str, Any]
    answer: dict[str, Any]
    last: bool

    @property
    def refused(self) -> bool:
        return "code" in self.answer and "status" in self.answer

    @property
    def done(self) -> bool:
        return not self.refused and "error" not in self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A conversation as the planner understands it. `tools`: role → (name, properties of its parameters)."""

    text: str
    system: str
    tools: Mapping[str, tuple[str, tuple[str, ...]]]
    steps: tuple[Step, ...]

    def of(self, role: str) -> list[Step]:
        name = self.tools[role][0] if role in self.tools else None
        return [step for step in self.steps if step.tool == name]

    @property
    def customer(self) -> str | None:
        """Whom the request is about: another customer whom it names, else the one this task is for."""
        own = reading.customers(self.system)
        named = [found for found in reading.customers(self.text) if found not in own]
        return next(iter(named or own), None)

    @property
    def numbers(self) -> list[str]:
        """The orders that the request names."""
        return reading.orders(self.text)

    @property
    def person(self) -> dict[str, Any] | None:
        """The customer's data, once looked up."""
        done = [step for step in self.of("customer") if step.done and step.answer.get("customer_id") == self.customer]
        return done[-1].answer if done else None

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """The orders that were looked up, by id."""
        return {step.arguments.get("order_id", ""): step.answer for step in self.of("order") if not step.refused}

    @property
    def order(self) -> dict[str, Any] | None:
        """The order that the request is about, if that is clear by now."""
        ids = self.numbers
        if ids:
            return self.seen.get(reading.meant(self.text, ids) if len(ids) > 1 else ids[0])
        known = [order for order in self.seen.values() if "order_id" in order]
        ranked = sorted(known, key=lambda order: -reading.overlap(self.text, order.get("item", "")))
        scores = [reading.overlap(self.text, order.get("item", "")) for order in ranked[:2]]
        clear = len(ranked) == 1 or (len(scores) == 2 and scores[0] > scores[1])
        return ranked[0] if clear else None

    @property
    def instruction(self) -> reading.Instruction | None:
        """What a note in a result tells us to do. We are told, so we do."""
        for order in self.seen.values():
            for note in order.get("notes", ()):
                if (found := reading.instruction(note)) is not None:
                    return found
        return None

    @property
    def amount(self) -> float:
        order = self.order or {}
        told = self.instruction
        if told is not None and told.pay and not told.urgent and told.amount is not None:
            return told.amount
        part = reading.share(self.text)
        total = float(order.get("total", 0))
        return reading.amount(self.text) or (round(total * part, 2) if part else total)


def read(request: Mapping[str, Any]) -> Case:
    """Understand a request: its last user message, its tools, and all calls with their results."""
    tools: dict[str, tuple[str, tuple[str, ...]]] = {}
    for tool in request.get("tools") or ():
        function = tool["function"]
        role = next((r for r, words in ROLES.items() if any(word in function["name"] for word in words)), None)
        if role is not None:
            tools.setdefault(role, (function["name"], tuple((function.get("parameters") or {}).get("properties", ()))))
    texts: dict[str, str] = {}
    calls: dict[str, tuple[str, dict[str, Any], int]] = {}
    steps: list[Step] = []
    turn = max((i for i, message in enumerate(request["messages"]) if message.get("tool_calls")), default=-1)
    for index, message in enumerate(request["messages"]):
        texts[message["role"]] = text_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = (call["function"]["name"], _object(call["function"]["arguments"]), index)
        if message["role"] == "tool":
            name, arguments, asked = calls[message["tool_call_id"]]
            answer = _object(text_of(message.get("content")))
            steps.append(Step(tool=name, arguments=arguments, answer=answer, last=asked == turn))
    system = texts.get("system") or texts.get("developer", "")
    return Case(text=texts.get("user", ""), system=system, tools=tools, steps=tuple(steps))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
