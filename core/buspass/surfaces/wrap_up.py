"""A sentence of the operator's in a request's system message, in the shape of its surface.

Refuses to know when it is said, and what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from buspass.model import Ask
from buspass.surfaces import anthropic_messages

SYSTEM: Final = ("system", "developer")
AROUND: Final = 64
"""Bytes that a message of its own adds beside its text, at most."""


def with_system(ask: Ask, text: str) -> Ask:
    """Give the ask with `text` after what its system message says; one that has none gets one."""
    add = _messages if ask.surface == anthropic_messages.NAME else _chat
    size = ask.input_bytes + len(text.encode()) + AROUND
    return replace(ask, payload=add(ask.payload, text), input_bytes=size, messages=ask.messages + 1)


def _messages(payload: Mapping[str, Any], text: str) -> dict[str, Any]:
    said = payload.get("system")
    return {**payload, "system": _after(said, text) if said else text}


def _chat(payload: Mapping[str, Any], text: str) -> dict[str, Any]:
    messages = list(payload["messages"])
    if messages and messages[0].get("role") in SYSTEM:
        messages[0] = {**messages[0], "content": _after(messages[0].get("content") or "", text)}
    else:
        messages.insert(0, {"role": "system", "content": text})
    return {**payload, "messages": messages}


def _after(said: Any, text: str) -> Any:
    """A new part behind the others leaves what a provider has cached before it as it is."""
    return [*said, {"type": "text", "text": text}] if isinstance(said, list) else f"{said}\n\n{text}"
