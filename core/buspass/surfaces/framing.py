"""What surfaces share on the way out: server-sent events, and which members and headers of a problem are ours.

Source of the framing: html.spec.whatwg.org, "Server-sent events". Knows no surface's shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buspass.errors import Problem
from buspass.jsontext import written


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """One event of a stream. JSON holds no raw line break, so it is one line."""
    name = f"event: {event}\n".encode() if event else b""
    return b"%sdata: %s\n\n" % (name, written(data))


def retry_headers(found: Problem) -> dict[str, str]:
    """The official SDKs retry 409, 429 and 5xx by themselves unless told not to; whole seconds, at least one.

    What a client should not repeat by itself may still say when it is worth asking again.
    """
    seconds = {"retry-after": str(max(1, -int(-(found.retry_after or 1) // 1)))}
    if found.retryable:
        return seconds
    return {"x-should-retry": "false"} | (seconds if found.retry_after else {})


def ours(found: Problem) -> dict[str, Any]:
    """A problem's members that no provider's envelope has: task, call, retryable, errors and its own."""
    shared = {"type", "title", "status", "detail", "code"}
    return {name: value for name, value in found.document().items() if name not in shared}
