"""What one attempt may use at most, and what tokens cost. Integers only: tokens, pico-dollars a token, micro-dollars.

Source of the byte bound: a byte-level tokenizer makes at most one token of a byte. What a provider adds around the text
(chat template, tool preamble) is not in the text: OVERHEADS bounds it, per wire format, as data. Knows no budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from buspass.config.settings import Price, Target
from buspass.errors import Problem
from buspass.model import Ask, Usage

PICO: Final = 1_000_000
"""Pico-dollars in a micro-dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Tokens that a provider adds at most: once a request, for each message, for each tool."""

    request: int
    message: int
    tool: int


OVERHEADS: Final[Mapping[str, Overhead]] = {
    # OpenAI's cookbook counts 3 to prime the answer, 4 a message and 12 a function; vLLM's templates open a request
    # with tools by a paragraph of instructions (Qwen3's is the longest of the bundled ones, some 150 tokens).
    "openai": Overhead(request=256, message=16, tool=32),
}
TEXTUAL: Final = frozenset({"text", "refusal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that one attempt can use. `max_output` is the limit a choice that must be sent for that to hold."""

    input_tokens: int
    output_tokens: int
    max_output: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def bound(
    ask: Ask, target: Target, max_output_default: int, *, api: str = "openai", at_most: int | None = None
) -> Bound:
    """Bounds one attempt at `target`. `at_most` is policy's `max_tokens`: it narrows what client and alias allow.

    Raises `unbounded` for content that no formula covers.
    """
    overhead = OVERHEADS.get(api)
    if overhead is None:
        raise Problem("unbounded", f"no bound is known for targets that speak '{api}', such as {target.model}")
    _only_text(ask.payload.get("messages", ()))
    most = max_output_default if ask.max_output is None else ask.max_output
    most = most if at_most is None else min(most, at_most)
    if most < 1:
        raise Problem("unbounded", "the answer has no limit: send max_completion_tokens of at least 1")
    around = overhead.request + overhead.message * ask.messages + overhead.tool * len(ask.tools)
    return Bound(input_tokens=ask.input_bytes + around, output_tokens=ask.n * most, max_output=most)


def cost(price: Price | None, usage: Usage) -> int:
    """Micro-dollars, rounded up once for the whole call; cached input at its own price; without a price 0."""
    if price is None:
        return 0
    cached = min(usage.cached, usage.input)
    pico = (usage.input - cached) * price.input + cached * price.cached_input + usage.output * price.output
    return -(-pico // PICO)


def ceiling(targets: Iterable[Target], most: Bound, *, limited: bool) -> int:
    """Micro-dollars that one attempt costs at most at the dearest of `targets`.

    `limited`: the task's cost is limited, so a target without a price raises `unpriced`.
    """
    dearest = 0
    for target in targets:
        price = target.price
        if price is None:
            if limited:
                name = f"{target.provider}/{target.model}"
                raise Problem("unpriced", f"'{name}' has no price: add it to prices: in buspass.yaml", target=name)
            continue
        pico = most.input_tokens * max(price.input, price.cached_input) + most.output_tokens * price.output
        dearest = max(dearest, -(-pico // PICO))
    return dearest


def _only_text(messages: Iterable[Mapping[str, Any]]) -> None:
    for index, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") not in TEXTUAL:
                path = f"messages[{index}].content[{place}]"
                raise Problem(
                    "unbounded",
                    f"'{path}' is not text, and no formula bounds its tokens",
                    errors=[{"path": path, "message": "has no bound", "allowed": sorted(TEXTUAL)}],
                )
