"""What a model said in the shape of Anthropic's messages, whole and in events. Knows no provider."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.providers.parts import Block, Choice, Delta, Head

STOP: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""OpenAI's finish reasons as Anthropic's; Anthropic's own stay."""
GROWTH: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool": ("input_json_delta", "partial_json"),
}
INVALID: Final = "INVALID_JSON"
"""The member that holds arguments which are no JSON object; Anthropic's page on fine-grained streaming names it so."""


def stop(choice: Choice) -> str | None:
    """Why it ended, None where it was cut. Who refused, refused: OpenAI says that in the message alone."""
    if any(block.kind == "refusal" for block in choice.blocks):
        return "refusal"
    return STOP.get(choice.finish, choice.finish) or None


def document(head: Head, choice: Choice) -> dict[str, Any]:
    """A message without its usage."""
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "content": [_block(block) for block in choice.blocks if block.kind != "tool" or block.closed],
        "stop_reason": stop(choice),
        "stop_sequence": choice.stop,
    }


def _block(block: Block) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.said(), "signature": block.signature}
        case "sealed":
            return {"type": "redacted_thinking", "data": block.said()}
        case "tool":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments(block.said())}
        case _:
            return {"type": "text", "text": block.said()}


def arguments(text: str) -> dict[str, Any]:
    """A tool call's arguments as the object that this format demands."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {INVALID: text}


class Writer:
    """A stream's deltas as events. What ends it is not among them: the surface writes that when the call is settled."""

    def __init__(self, alias: str, *, usage: bool) -> None:  # noqa: ARG002 - this format always tells the usage
        self._alias = alias
        self._kinds: dict[int, str] = {}

    def write(self, head: Head, delta: Delta) -> list[dict[str, Any]]:
        """The events of one delta: none or one."""
        event = self._event(head, delta)
        return [] if event is None else [event]

    def _event(self, head: Head, delta: Delta) -> dict[str, Any] | None:
        match delta.step:
            case "ping":
                return {"type": "ping"}
            case "begin":
                return {"type": "message_start", "message": self._begun(head)}
            case "open" if delta.opens is not None:
                self._kinds[delta.block] = delta.opens.kind
                return {"type": "content_block_start", "index": delta.block, "content_block": _opened(delta.opens)}
            case "sign":
                return _changed(delta.block, "signature_delta", "signature", delta.text)
            case "grow" if self._kinds[delta.block] in GROWTH:
                return _changed(delta.block, *GROWTH[self._kinds[delta.block]], delta.text)
            case "close":
                return {"type": "content_block_stop", "index": delta.block}
            case _:
                return None

    def _begun(self, head: Head) -> dict[str, Any]:
        nothing = {"input_tokens": 0, "output_tokens": 0}
        message = {"id": head.id, "type": "message", "role": "assistant", "model": self._alias, "content": []}
        return {**message, "stop_reason": None, "stop_sequence": None, "usage": head.usage or nothing}


def _changed(block: int, kind: str, member: str, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": block, "delta": {"type": kind, member: text}}


def _opened(block: Block) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "sealed":
            return {"type": "redacted_thinking", "data": block.text}
        case "tool":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
        case _:
            return {"type": "text", "text": ""}
