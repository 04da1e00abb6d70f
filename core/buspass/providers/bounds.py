"""What one attempt may use at most, and what tokens cost. Integers only: tokens, pico-dollars a token, micro-dollars.

Source of the byte bound: a byte-level tokenizer makes at most one token of a byte. What a provider adds around the text
(chat template, tool preamble) is not in the text: OVERHEADS bounds it, per wire format, as data; pictures have formulas
of their own (`images`). Knows no budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, get_args

from msgspec import Struct

from buspass.config.settings import Price, Target, Tier
from buspass.errors import Problem, Refuse, enforce
from buspass.model import Ask, Usage
from buspass.providers import images, to_anthropic, to_openai
from buspass.providers.decoding import CHAT, MESSAGES

PICO: Final = 1_000_000
"""Pico-dollars in a micro-dollar."""


class Overhead(Struct, frozen=True, kw_only=True):
    """Tokens that a provider adds at most: once a request, for each message, for each tool."""

    request: int
    message: int
    tool: int


OVERHEADS: Final[Mapping[str, Overhead]] = {
    # OpenAI's cookbook counts 3 to prime the answer, 4 a message and 12 a function; vLLM's templates open a request
    # with tools by a paragraph of instructions (Qwen3's is the longest of the bundled ones, some 150 tokens).
    "openai": Overhead(request=256, message=16, tool=32),
    # Anthropic's pricing page counts up to some 800 for its tool preamble; an output format adds a prompt of its own.
    "anthropic": Overhead(request=2048, message=16, tool=64),
}
OWN: Final = {"openai": CHAT, "anthropic": MESSAGES}
"""The surface whose asks a wire format says as they are."""
TEXTUAL: Final = frozenset({"text", "refusal", "thinking", "redacted_thinking", "tool_use", "tool_result"})
WRITE_5M: Final = (5, 4)
WRITE_1H: Final = (2, 1)
"""What a token written to a provider's cache costs, as a fraction of a plain input token's price.

Source: platform.claude.com/docs/en/build-with-claude/prompt-caching, "pricing".
"""


type Caches = Literal["no", "auto", "5m", "1h"]
type Rates = Mapping[Caches, tuple[int, int]]
"""By the longest cache: pico-dollars that a token of input costs at most, and one of output."""


class Bound(Struct, frozen=True, kw_only=True):
    """The most that one attempt can use. `max_output` is the limit a choice that must be sent for that to hold.

    `caches`: the longest cache that the input may be written to, which makes it dearer; `auto`: the provider writes to
    its own without being asked.
    """

    input_tokens: int
    output_tokens: int
    max_output: int
    caches: Caches = "no"

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def bound(
    ask: Ask,
    target: Target,
    max_output_default: int,
    *,
    api: str = "openai",
    at_most: int | None = None,
    refuse: Refuse = enforce,
) -> Bound:
    """Bounds one attempt at `target`. `at_most` is policy's `max_tokens`: it narrows what client and alias allow.

    Raises `unbounded` for content that no formula covers, `unsupported` and `invalid_request` for an ask that this
    wire format can't say: another target may. Where `refuse` lets content without a formula pass, it counts as nothing.
    """
    overhead = OVERHEADS.get(api)
    if overhead is None:
        raise Problem("unbounded", f"no bound is known for targets that speak '{api}', such as {target.model}")
    if ask.surface != OWN[api]:
        check(ask, api)
    shown = 0
    for message in () if ask.flat else ask.payload.get("messages", ()):
        if isinstance(message.get("content"), list):  # else it is text
            shown = _shown(ask, target, api, refuse)
            break
    most = max_output_default if ask.max_output is None else ask.max_output
    if at_most is not None:
        most = min(most, at_most)
    if most < 1:
        raise Problem("unbounded", "the answer has no limit: send max_completion_tokens of at least 1")
    around = overhead.request + overhead.message * ask.messages + overhead.tool * len(ask.tools)
    return Bound(
        input_tokens=ask.input_bytes + shown + around,
        output_tokens=ask.n * most,
        max_output=most,
        caches="auto" if api == "openai" else ask.caches,
    )


def check(ask: Ask, api: str) -> None:
    """Raises `unsupported` or `invalid_request` for an ask that this wire format can't say."""
    if ask.surface == CHAT and api == "anthropic":
        to_anthropic.check(ask.payload)
    if ask.surface == MESSAGES and api == "openai":
        to_openai.check(ask.payload)


def cost(price: Price | None, usage: Usage) -> int:
    """Micro-dollars, rounded up once for the whole call; what a cache gave or took at its own price; without one 0.

    The whole input, cached or not, decides the row of a price with tiers.
    """
    if price is None:
        return 0
    row = _row(price, usage.input) if price.tiers else price
    if not usage.cached and not usage.cache_write:
        return -(-(usage.input * row.input + usage.output * row.output) // PICO)
    cached = min(usage.cached, usage.input)
    written = min(usage.cache_write, usage.input - cached)
    pico = (usage.input - cached - written) * row.input + cached * row.cached_input + usage.output * row.output
    if written:
        long = min(usage.cache_write_1h, written)
        pico += (written - long) * _write(row) + long * _write_1h(row)
    return -(-pico // PICO)


def _row(price: Price, tokens: int) -> Price | Tier:
    """The row of an input of so many tokens. Both lists say "more than": at its start a tier doesn't apply yet."""
    reached = [tier for tier in price.tiers if tokens > tier.start]
    return reached[-1] if reached else price


def _write(row: Price | Tier) -> int:
    return _share(row.input, WRITE_5M) if row.cache_write is None else row.cache_write


def _write_1h(row: Price | Tier) -> int:
    return _share(row.input, WRITE_1H) if row.cache_write_1h is None else row.cache_write_1h


def _share(price: int, share: tuple[int, int]) -> int:
    return -(-price * share[0] // share[1])


def _dearest(row: Price | Tier, most: Bound) -> int:
    """Pico-dollars that a bounded attempt costs at most by this row."""
    return most.input_tokens * _dear(row, most.caches) + most.output_tokens * row.output


def _dear(row: Price | Tier, caches: Caches) -> int:
    """Pico-dollars that a token of input costs at most by this row."""
    price = max(row.input, row.cached_input)
    if caches != "no" and (written := _write(row)) > price:
        price = written
    if caches == "1h" and (written := _write_1h(row)) > price:
        price = written
    return price


def rates(price: Price | None) -> Rates | None:
    """What `plain_ceiling` needs of a target's price; None where that can't say it."""
    if price is None or price.tiers:
        return None
    return {caches: (_dear(price, caches), price.output) for caches in get_args(Caches.__value__)}


def plain_ceiling(each: Iterable[Rates | None], most: Bound) -> int | None:
    """The same as `ceiling` for targets all of whose prices are known and have no tiers: nearly always. Else None."""
    dearest = 0
    for target in each:
        if target is None:
            return None
        dear, output = target[most.caches]
        if (pico := most.input_tokens * dear + most.output_tokens * output) > dearest:
            dearest = pico
    return -(-dearest // PICO)


def ceiling(targets: Iterable[Target], most: Bound, *, limited: bool, refuse: Refuse = enforce) -> int:
    """Micro-dollars that one attempt costs at most at the dearest of `targets`.

    `limited`: the task's cost is limited, so a target without a price is refused as `unpriced`; where `refuse` lets it
    pass, it counts as nothing.
    """
    dearest = 0
    for target in targets:
        price = target.price
        if price is None:
            if limited:
                name = f"{target.provider}/{target.model}"
                refuse(Problem("unpriced", f"'{name}' has no price: add it to prices: in buspass.yaml", target=name))
            continue
        if (pico := _dearest(price, most)) > dearest:
            dearest = pico
        for tier in price.tiers:  # whether it is reached is known only afterwards; a longer input need not be dearer
            if most.input_tokens >= tier.start:
                dearest = max(dearest, _dearest(tier, most))
    return -(-dearest // PICO)


def _shown(ask: Ask, target: Target, api: str, refuse: Refuse) -> int:
    """Tokens of the pictures. Refuses as `unbounded` one that no formula covers, and parts that are no text."""
    pictures = {image.path: image for image in ask.images}
    total = 0
    for path, kind in _parts(ask.payload.get("messages", ()), "messages"):
        if kind in TEXTUAL:
            continue
        found = images.tokens(api, target.model, pictures[path]) if path in pictures else None
        if found is None:
            detail = f"'{path}' is not text, and no formula bounds its tokens at {target.provider}/{target.model}"
            row = {"path": path, "message": "has no bound", "allowed": sorted(TEXTUAL)}
            refuse(Problem("unbounded", detail, errors=[row]))
        total += found or 0
    return total


def _parts(holders: Iterable[Mapping[str, Any]], path: str) -> Iterator[tuple[str, Any]]:
    """Every content part with its path and type, those within tool results too."""
    for index, holder in enumerate(holders):
        parts = holder.get("content")
        if not isinstance(parts, list):
            continue
        at = f"{path}[{index}].content"
        yield from ((f"{at}[{place}]", part.get("type")) for place, part in enumerate(parts))
        if any(isinstance(part.get("content"), list) for part in parts):
            yield from _parts(parts, at)
