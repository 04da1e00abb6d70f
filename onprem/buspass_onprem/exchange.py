"""One request and its answer: what an application is given as ASGI's scope, receive and send.

Owns an answer's bytes, in order: its head, where its body ends, what may not be sent. Refuses to know what else comes
and goes on the connection, and what the application makes of it.

A whole answer is one write. A head that says how long its body is waits for that body's first piece; any other waits
for it until the event loop's next turn, and no longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from buspass.http.asgi import AT_HAND, Asgi, Headers, Message, Scope
from buspass_onprem.heads import STATUS, lines

LARGE: Final = 64 * 1024
"""Bytes of a piece from which on it is not copied to stand behind its head."""
ENDLESS: Final = 1 << 62
UNSAID: Final = (204, 304)
"""Answers that have no body, and so say no length."""
DISCONNECT: Final[Message] = {"type": "http.disconnect"}
FAILED: Final = b"Internal Server Error"
PLAIN: Final = b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
log = logging.getLogger("buspass")


class Line(Protocol):
    """The connection, as an exchange sees it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    gone: bool
    done: asyncio.Future[None]
    """Done, for whoever need not wait."""

    def opening(self) -> bytes: ...
    def read_on(self) -> None: ...
    def writable(self) -> Awaitable[Any]: ...
    def close(self) -> None: ...
    def answered(self, exchange: Exchange) -> None: ...


class Exchange:
    """Made when a request's head is there. Its body is added to `parts` until it is `whole`; whoever adds wakes it."""

    __slots__ = (
        "_chunked",
        "_expects",
        "_headed",
        "_held",
        "_left",
        "_line",
        "_said_end",
        "_taken",
        "complete",
        "event",
        "keep",
        "parts",
        "scope",
        "size",
        "task",
        "whole",
    )

    def __init__(self, line: Line, scope: Scope, *, keep: bool, expects: bool) -> None:
        """`keep`: another request may follow on the connection. `expects`: the client waits to be told to go on."""
        self._line, self.scope, self.keep, self._expects = line, scope, keep, expects
        self.parts: list[bytes] = []
        self.size = 0
        """Bytes of the body that nobody has fetched."""
        self.whole = self.complete = self._taken = self._said_end = self._headed = self._chunked = False
        self._held, self._left = b"", 0
        self.event: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None

    # the request

    def wake(self) -> None:
        """Let whoever receives look again."""
        if self.event is not None:
            self.event.set()

    def fetch(self) -> bytes | None:
        """Give the body if it is whole and nobody had any of it; else None, and `receive` is to be asked."""
        return self._fetched() if self.whole and not self._taken else None

    def receive(self) -> Awaitable[Message]:
        """Give what is there of the body, or wait for more of it; after it, wait for the end of the exchange."""
        if self.whole and not (self._said_end or self.complete):
            told = self._line.loop.create_future()
            told.set_result({"type": "http.request", "body": self._fetched(), "more_body": False})
            return told
        return self._wait()

    async def _wait(self) -> Message:
        line = self._line
        if self._expects:
            self._expects = False
            if not (self.parts or self._headed or line.gone):
                line.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (line.gone or self.complete):
            if self.parts or (self.whole and not self._said_end):
                return {"type": "http.request", "body": self._fetched(), "more_body": not self.whole}
            line.read_on()
            if self.event is None:
                self.event = asyncio.Event()
            self.event.clear()
            await self.event.wait()
        return DISCONNECT

    def _fetched(self) -> bytes:
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts, self.size, self._taken, self._said_end = [], 0, True, self.whole
        return body

    # the answer

    async def run(self, application: Asgi, tasks: set[asyncio.Task[None]]) -> None:
        """Let the application answer. What it raises, or leaves undone, is a 500 or an answer that breaks off."""
        try:
            self.scope[AT_HAND] = self
            await application(self.scope, self.receive, self.send)
        except BaseException:  # a cancelled one has a client, too
            log.exception("the application failed")
            self._break_off()
        else:
            if not (self.complete or self._line.gone):
                log.error("the application left its answer undone")
                self._break_off()
        finally:
            del self.scope[AT_HAND]  # or each would hold the other
            if self.task is not None:
                tasks.discard(self.task)

    def send(self, message: Message) -> Awaitable[Any]:
        """Take the head, then the body piece by piece. Raises RuntimeError and ValueError for what is no answer."""
        line = self._line
        if line.gone:
            return line.done
        if message["type"] == "http.response.body" and self._headed and not self.complete:
            self._piece(message.get("body", b""), more=message.get("more_body", False))
        elif message["type"] == "http.response.start" and not self._headed:
            self._head(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{message['type']} has no place here")
        return line.writable()

    @property
    def unsaid(self) -> bool:
        """Whether nothing of the answer has left."""
        return not self._headed or self._held != b""

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Take a whole answer at once, its headers as lines. Raises RuntimeError."""
        line = self._line
        if line.gone:
            return
        if self._headed:
            raise RuntimeError("an answer has no place here")
        self._headed = True
        end = b"\r\n\r\n" if self.keep else b"\r\nconnection: close\r\n\r\n"
        self._held = b"".join((STATUS[status], line.opening(), lines, end))
        self._write(b"" if self.scope["method"] == "HEAD" else body)
        self._over()

    def _head(self, status: int, headers: Headers) -> None:
        line, scope = self._line, self.scope
        text, named = lines(headers)
        if b"transfer-encoding" in named:
            raise ValueError("how a body is framed is the host's")
        more, length = b"", named.get(b"content-length")
        if b"connection" in named and b"close" in map(bytes.strip, named[b"connection"].lower().split(b",")):
            self.keep = False
        elif not self.keep:
            more = b"\r\nconnection: close"
        if length is not None:
            self._left = int(length)
        elif scope["method"] == "HEAD" or status in UNSAID:
            self._left = 0
        elif scope["http_version"] == "1.1":
            self._chunked, more = True, more + b"\r\ntransfer-encoding: chunked"
        else:
            self._left = ENDLESS  # as ever with HTTP/1.0, the connection's end is the body's
        self._held = b"".join((STATUS[status], line.opening(), text, more, b"\r\n\r\n"))
        self._headed = True
        if length is None:
            line.loop.call_soon(self._write, b"")

    def _piece(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (0 < self._left < ENDLESS // 2 and not more):
                raise RuntimeError("the body is not as long as its head says")
        self._write(body)
        if not more:
            self._over()

    def _write(self, text: bytes) -> None:
        """Write what is held of the head, and this."""
        held, self._held = self._held, b""
        if held and len(text) > LARGE:
            self._line.transport.writelines((held, text))
        elif held or text:
            self._line.transport.write(held + text)

    def _over(self) -> None:
        self.complete = True
        self.wake()
        self._line.answered(self)

    def _break_off(self) -> None:
        """Say that it failed, if nothing was said yet; else let the client see that this was not the end."""
        line = self._line
        if line.gone or self.complete:
            return
        if self._headed and not self._held:
            line.close()
            return
        body = b"" if self.scope["method"] == "HEAD" else FAILED
        self._held, self.keep = b"", False
        line.transport.write(STATUS[500] + line.opening() + PLAIN % (len(FAILED), body))
        self._over()
