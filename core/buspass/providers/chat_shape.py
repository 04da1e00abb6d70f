"""What a model said in the shape of OpenAI's chat completions, whole and in chunks. Knows no provider.

Thinking has no place in this format: it is left out, and stands in the answer's `thinking` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from buspass.providers.parts import Block, Choice, Delta, Head

FINISH: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "stop",
    "refusal": "content_filter",
}
"""Anthropic's stop reasons as OpenAI's; OpenAI's own stay."""


def finish(reason: str) -> str:
    return FINISH.get(reason, reason)


def document(head: Head, choices: Sequence[Choice]) -> dict[str, Any]:
    """A chat completion without its usage. A choice that was cut has `finish_reason` null."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        **head.extra,
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": choice.logprobs,
                "finish_reason": finish(choice.finish) or None,
            }
            for index, choice in enumerate(choices)
        ],
    }


def _message(choice: Choice) -> dict[str, Any]:
    texts = [block.said() for block in choice.blocks if block.kind == "text"]
    refusals = [block.said() for block in choice.blocks if block.kind == "refusal"]
    calls = [_call(block) for block in choice.blocks if block.kind == "tool" and block.closed]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    return message | {"tool_calls": calls} if calls else message


def _call(block: Block) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.said() or "{}"}}


class Writer:
    """A stream's deltas as chunks. The finish is not among them: the surface writes it when the call is settled."""

    def __init__(self, alias: str, *, usage: bool) -> None:
        self._alias = alias
        self._usage = {"usage": None} if usage else {}
        self._tools: dict[tuple[int, int], int] = {}
        self._kinds: dict[tuple[int, int], str] = {}
        self._empty: set[tuple[int, int]] = set()
        self._head: Head | None = None
        self._same: dict[str, Any] = {}

    def write(self, head: Head, delta: Delta) -> list[dict[str, Any]]:
        """The chunks of one delta: none or one."""
        changed = self._changed(delta)
        if changed is None:
            return []
        if head is not self._head:
            same = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, **head.extra}
            self._head, self._same = head, {**same, "model": self._alias}
        choice = {"index": delta.choice, "delta": changed, "logprobs": delta.logprobs, "finish_reason": None}
        return [{**self._same, "choices": [choice], **self._usage}]

    def _changed(self, delta: Delta) -> dict[str, Any] | None:
        place = (delta.choice, delta.block)
        if delta.step == "grow":
            kind = self._kinds.get(place)
            if kind == "text":
                return {"content": delta.text}
            if kind == "tool":
                self._empty.discard(place)
                return self._arguments(place, delta.text)
            return {"refusal": delta.text} if kind == "refusal" else None
        if delta.step == "begin":
            return {"role": "assistant", "content": ""}
        if delta.opens is not None:
            return self._opened(place, delta.opens)
        if delta.step == "close" and place in self._empty:
            return self._arguments(place, "{}")
        return None

    def _opened(self, place: tuple[int, int], block: Block) -> dict[str, Any] | None:
        self._kinds[place] = block.kind
        if block.kind != "tool":
            return None
        self._tools[place] = sum(1 for choice, _ in self._tools if choice == place[0])
        self._empty.add(place)
        call = {"index": self._tools[place], "id": block.id, "type": "function"}
        return {"tool_calls": [{**call, "function": {"name": block.name, "arguments": ""}}]}

    def _arguments(self, place: tuple[int, int], text: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": self._tools[place], "function": {"arguments": text}}]}
