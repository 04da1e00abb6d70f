"""Streams of the simulated providers: server-sent events of both wire formats, and what goes wrong in one.

Owns the framing, the pace and the faults of a stream. Refuses to know what a model says, or HTTP's beginnings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

PIECE = 12
"""Characters of text that one event brings."""


class Fault(Struct, frozen=True, kw_only=True):
    """What goes wrong with one request. `seconds`: of something slow, or in Retry-After, which 0 leaves out.

    Before the answer: `rate_limited`, `overloaded` (529), `error`, `slow` (no headers yet), `invalid_json`, `html`.
    In the middle: `cut` (the connection breaks), and of streams alone `slow_first_token` (after the headers), `stall`
    (goes on after `seconds`), `truncated` (ends too early, in good order), `error_event`. On a whole answer these last
    are what comes nearest: slow, cut or a 500.
    """

    kind: Literal[
        "rate_limited",
        "overloaded",
        "error",
        "slow",
        "invalid_json",
        "html",
        "cut",
        "slow_first_token",
        "stall",
        "truncated",
        "error_event",
    ]
    seconds: float = 1


IN_STREAM = frozenset({"cut", "slow_first_token", "stall", "truncated", "error_event"})
WHOLE: Mapping[str, Any] = {"slow_first_token": "slow", "stall": "slow", "truncated": "cut", "error_event": "error"}


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


class BrokenOffError(ConnectionError):
    """What a server raises to break its own connection in the middle of a body."""


async def paced(frames: Sequence[bytes], *, pace: float, fault: Fault | None, error: bytes) -> AsyncIterator[bytes]:
    """The frames, `pace` seconds apart; a fault strikes at the beginning or in the middle. `error`: the error event."""
    middle = len(frames) // 2
    if fault is not None and fault.kind == "slow_first_token":
        await asyncio.sleep(fault.seconds)
    for index, each in enumerate(frames):
        if index == middle and fault is not None:
            match fault.kind:
                case "stall":
                    await asyncio.sleep(fault.seconds)
                case "truncated":
                    return
                case "cut":
                    raise BrokenOffError
                case "error_event":
                    yield error
                    return
        if pace and index:
            await asyncio.sleep(pace)
        yield each


def chunks(document: Mapping[str, Any], *, usage: bool) -> list[bytes]:
    """A chat completion as OpenAI streams it."""
    same = {name: document[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    same["object"] = "chat.completion.chunk"
    if usage:
        same["usage"] = None
    frames = []
    for choice in document["choices"]:
        for delta in _deltas(choice["message"]):
            said = {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": None}
            frames.append(frame({**same, "choices": [said]}))
        last = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        frames.append(frame({**same, "choices": [last]}))
    if usage:
        frames.append(frame({**same, "choices": [], "usage": document["usage"]}))
    return [*frames, b"data: [DONE]\n\n"]


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "", "refusal": None}
    for piece in pieces(message["content"] or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": function}]}
        for piece in pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def events(document: Mapping[str, Any]) -> list[bytes]:
    """A message as Anthropic streams it."""
    used = document["usage"]
    begun = {**document, "content": [], "stop_reason": None, "stop_sequence": None}
    begun["usage"] = {**used, "output_tokens": 1}
    told: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(document["content"]):
        told.append({"type": "content_block_start", "index": index, "content_block": _empty(block)})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _growth(block)]
        told.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": document["stop_reason"], "stop_sequence": document["stop_sequence"]}
    told += [{"type": "message_delta", "delta": ended, "usage": used}, {"type": "message_stop"}]
    return [frame(each, each["type"]) for each in told]


def _empty(block: Mapping[str, Any]) -> dict[str, Any]:
    none: Mapping[str, Any] = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: none.get(name, value) for name, value in block.items()}


def _growth(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "text":
            yield from ({"type": "text_delta", "text": piece} for piece in pieces(block["text"]))
        case "thinking":
            yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"]))
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            written = json.dumps(block["input"], ensure_ascii=False)
            yield {"type": "input_json_delta", "partial_json": ""}
            yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces(written))
