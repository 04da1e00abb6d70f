"""The queue between thought and action: a message carries only ids. The head's entry is the outbox."""

from __future__ import annotations

from typing import Protocol


class QueueUnavailable(Exception):  # noqa: N818
    """The message surely was not taken; the sweep sends it again."""


class Queue(Protocol):
    """At-least-once delivery, no order promised. `delay` is in seconds."""

    async def send(self, task: str, action: str, *, delay: float = 0) -> None: ...

    async def close(self) -> None: ...
