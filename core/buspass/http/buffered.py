"""An application run on one request that is whole, for hosts that carry whole requests and whole answers.

Owns the ASGI conversation. Refuses to know what such a host calls a request and an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from buspass.http.asgi import Asgi, Message, Scope


class Answer(Struct, frozen=True, kw_only=True):
    """What the application sent: raw header pairs in its order, the body in bytes."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


async def call(application: Asgi, scope: Scope, body: bytes) -> Answer:
    """Run the application (ASGI 3, `http`) and wait for the whole answer. Raises RuntimeError where it sends none."""
    done = asyncio.Event()
    incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    start: Message = {}
    chunks: list[bytes] = []

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        # The client can't be seen from here: it stays until it has been answered.
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                done.set()

    await application(scope, receive, send)
    if not start or not done.is_set():
        raise RuntimeError("the application returned without a whole answer")
    return Answer(status=start["status"], headers=list(start.get("headers", ())), body=b"".join(chunks))
