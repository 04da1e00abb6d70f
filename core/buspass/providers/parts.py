"""What a model said, apart from any wire format: blocks as they grow, and whole.

Decoders of both wire formats make it, writers of both make their documents and events of it. Knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from buspass.model import Offer

type Kind = Literal["text", "refusal", "thinking", "sealed", "tool"]


class Block(Struct, kw_only=True):
    """One piece of an answer. `text` is what it says, or a tool's arguments, or a sealed thought's data."""

    kind: Kind
    id: str = ""
    name: str = ""
    text: str = ""
    signature: str = ""
    closed: bool = False
    pieces: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.text, self.pieces, self.closed = self.said(), [], True

    def said(self) -> str:
        return self.text + "".join(self.pieces)


class Choice(Struct, kw_only=True):
    """One answer of those that were asked for. `finish` is the provider's own word for why it ended, "" if it did not.

    `stop` is the stop sequence that ended it; `logprobs` is OpenAI's member of that name.
    """

    blocks: list[Block] = field(default_factory=list)
    finish: str = ""
    stop: str | None = None
    logprobs: Mapping[str, Any] | None = None

    def text(self) -> str:
        return "".join(block.said() for block in self.blocks if block.kind in {"text", "refusal"})

    def thinking(self) -> str:
        return "".join(block.said() for block in self.blocks if block.kind == "thinking")

    def offers(self) -> tuple[Offer, ...]:
        """The tool calls that are whole: half a call licenses nothing. No arguments at all are an empty object."""
        whole = [block for block in self.blocks if block.kind == "tool" and block.closed]
        return tuple(Offer(id=block.id, name=block.name, arguments_text=block.said() or "{}") for block in whole)


class Delta(Struct, frozen=True, kw_only=True):
    """One step of a stream: a choice begins, a block opens, grows, closes, or nothing but a sign of life.

    `block` counts the blocks of a choice; `opens` is given where it opens.
    """

    step: Literal["begin", "open", "grow", "sign", "close", "ping"]
    choice: int = 0
    block: int = 0
    opens: Block | None = None
    text: str = ""
    logprobs: Mapping[str, Any] | None = None


class Head(Struct, frozen=True, kw_only=True):
    """What an answer says of itself. `created` is in seconds of Unix time, 0 where the provider does not say.

    `extra` are OpenAI's members of that name; `usage` is what Anthropic tells of the input when a message begins.
    """

    id: str = ""
    created: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, int] | None = None


class Collector:
    """Puts a stream's deltas together."""

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}

    def take(self, delta: Delta) -> None:
        choice = self.choices.get(delta.choice)
        if choice is None:
            choice = self.choices[delta.choice] = Choice()
        if delta.step == "grow":
            choice.blocks[delta.block].pieces.append(delta.text)
        elif delta.opens is not None:
            choice.blocks.append(delta.opens)
        elif delta.step == "sign":
            choice.blocks[delta.block].signature += delta.text
        elif delta.step == "close":
            choice.blocks[delta.block].close()
        if delta.logprobs:
            choice.logprobs = _joined(choice.logprobs, delta.logprobs)

    def in_order(self) -> list[Choice]:
        return [self.choices[index] for index in sorted(self.choices)]


def _joined(before: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(before or {})
    for name, rows in more.items():
        joined[name] = [*joined.get(name, ()), *rows]
    return joined
