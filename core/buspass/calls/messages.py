"""What in a message is not to be looked into, and what becomes of its ids. Refuses to know any class of finding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from buspass.model import Ask

IDS: Final = frozenset({"id", "tool_call_id", "tool_use_id"})
UNFIT: Final = r"[^A-Za-z0-9_-]"
"""What no provider's tool call has in its id."""


def opaque(ask: Ask) -> Iterator[str]:
    """Positions that say nothing to a reader, or would break if they were changed."""
    for image in ask.images:
        yield f"{image.path}.image_url.url"
        yield f"{image.path}.source.data"
    for index, message in enumerate(ask.payload.get("messages", ())):
        content = message.get("content")
        for place, block in enumerate(content if isinstance(content, list) else ()):
            if sealed := {"thinking": "signature", "redacted_thinking": "data"}.get(block.get("type", "")):
                yield f"messages[{index}].content[{place}].{sealed}"


def identified(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose tool calls' ids hold no sign that providers forbid in them, as placeholders do."""
    content = message.get("content")
    marked = {**message, "content": [_marked(block) for block in content]} if isinstance(content, list) else {**message}
    if "tool_calls" in message:
        marked["tool_calls"] = [_marked(call) for call in message["tool_calls"]]
    return _marked(marked)


def _marked(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: re.sub(UNFIT, "", part) if name in IDS else part for name, part in value.items()}
