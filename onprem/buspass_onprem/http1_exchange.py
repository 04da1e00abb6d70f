"""One request and its answer over HTTP/1.1: what an ASGI application receives, and the bytes of what it sends.

Owns how an answer is framed and which headers may be written. Refuses to know sockets: a `Connection` has one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from buspass_onprem.http1 import Connection

type Message = MutableMapping[str, Any]

_NAME: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_VALUE: Final = bytes(each for each in range(256) if each == 9 or (each >= 32 and each != 127))
_MOST: Final = 256
_STATUS: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}".encode() for each in HTTPStatus}
_FAILED: Final = b"Internal Server Error"
_CLOSE: Final = (b"connection", b"close")
_CHUNKED: Final = (b"transfer-encoding", b"chunked")
log = logging.getLogger("uvicorn.error")


class _Names(dict[bytes, bytes]):
    """`name: ` by name, of those whose characters were looked at. Raises RuntimeError."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if not lower or not _NAME.issuperset(lower):
            raise RuntimeError("a header's name has characters that it may not have")
        prefix = lower + b": "
        if len(self) < _MOST:
            self[name] = prefix
        return prefix


_names = _Names()


class Exchange:
    """One request and its answer (ASGI 3)."""

    _size = 0
    _come = _ended = _gone = _begun = _done = _chunked = seen = False
    _left: int | None = None
    """Bytes of the answer that are to come; None where their number is not said."""
    _event: asyncio.Event | None = None

    def __init__(self, connection: Connection, scope: Message, keep_alive: bool, expected: bool) -> None:
        self._connection, self._scope, self.keep_alive, self._expected = connection, scope, keep_alive, expected
        self._body: list[bytes] = []

    async def run(self) -> None:
        """Let the application answer."""
        try:
            await self._connection.app(self._scope, self.receive, self.send)
            if not (self._done or self._gone):
                log.error("the application ended without a whole answer")
                await self._break_off()
        except asyncio.CancelledError:  # the time to drain is over
            await self._break_off()
            raise
        except Exception:
            log.exception("Exception in ASGI application")
            await self._break_off()

    async def receive(self) -> Message:
        """Give the next part of the body, `http.disconnect` once the client has gone or was answered."""
        connection = self._connection
        if self._expected:
            self._expected = False
            if not connection.transport.is_closing():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._gone or self._done):
            connection.resume_reading()
            while not (self._come or self._gone or self._done):
                self._event = self._event or asyncio.Event()
                self._event.clear()
                await self._event.wait()
        if self._gone or self._done:
            return {"type": "http.disconnect"}
        body, self._body, self._size, self._come = b"".join(self._body), [], 0, False
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    async def send(self, message: Message) -> None:
        """Write a part of the answer. Raises RuntimeError for one that is no HTTP."""
        if self._connection.full:
            await self._connection.drained()
        if self._gone:
            return
        kind = message["type"]
        if not self._begun and kind == "http.response.start":
            self._begin(message)
        elif self._begun and not self._done and kind == "http.response.body":
            self._write(message.get("body", b""), last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} does not follow here")

    def take(self, body: bytes) -> int:
        """Keep a part of the request's body; say how much waits."""
        if not self._done:
            self._body.append(body)
            self._size += len(body)
            self._wake()
        return self._size

    def end(self) -> None:
        """Know that the request's body is whole."""
        self._ended = True
        self._wake()

    def lost(self) -> None:
        """Know that the client has gone."""
        self._gone = not self._done
        self._wake()

    def _wake(self) -> None:
        self._come = True
        if self._event is not None:
            self._event.set()

    def _begin(self, message: Message) -> None:
        self._begun, self._expected = True, False
        status, said = message["status"], message.get("headers", ())
        headers, known = [*self._connection.state.default_headers, *said], dict(said)
        method = self._scope["method"]
        if (length := known.get(b"content-length")) is not None:
            self._left = 0 if method == "HEAD" else int(length)
        elif known.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._chunked = True
        elif method != "HEAD" and status not in (204, 304):
            if self._scope["http_version"] == "1.0":
                self.keep_alive = False  # it knows no chunks: the end of the connection is the end of the body
            else:
                self._chunked = True
                headers.append(_CHUNKED)
        if b"close" in known.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append(_CLOSE)
        self._connection.transport.write(head(status, headers))

    def _write(self, body: bytes, *, last: bool) -> None:
        transport = self._connection.transport
        if self._scope["method"] == "HEAD":
            pass
        elif self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            transport.write(chunk + b"0\r\n\r\n" if last else chunk)
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0:
                    raise RuntimeError("the body is longer than its Content-Length")
            transport.write(body)
        if last:
            if self._left:
                raise RuntimeError("the body is shorter than its Content-Length")
            self._done = True
            self._wake()
            if not self.keep_alive:
                transport.close()
            self._connection.answered()

    async def _break_off(self) -> None:
        """Say that it failed where nothing was said yet, else close."""
        if self._begun:
            self._connection.transport.close()
            return
        await self.send({"type": "http.response.start", "status": 500, "headers": text(_FAILED)})
        await self.send({"type": "http.response.body", "body": _FAILED})


def head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Write an answer's head. Raises RuntimeError for a name or a value that would be something else on the wire."""
    lines = [_names[name] + value for name, value in headers]
    head = b"\r\n".join([_STATUS.get(status) or b"HTTP/1.1 %d " % status, *lines, b"", b""])
    if len(head.translate(None, _VALUE)) != 2 * len(headers) + 4:  # whatever is more than these lines' ends
        raise RuntimeError("a header's value has characters that it may not have")
    return head


def text(said: bytes) -> list[tuple[bytes, bytes]]:
    """Give the headers of a short text after which the connection closes."""
    return [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(said)), _CLOSE]
