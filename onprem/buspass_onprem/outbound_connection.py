"""One connection to an upstream, HTTP/1.1: one request at a time, its answer whole or piece by piece.

Owns the bytes: what httptools' parser (llhttp, strict) says of them, where an answer ends, whether the next may follow
on the same connection. Refuses to know URLs, deadlines and who waits.

Nothing that was not asked for is ever taken for an answer: a connection that says something between two requests, or
goes on after an answer's end, is closed.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final

from httptools import HttpResponseParser

from buspass.ports.outbound import Ambiguous, TooLarge
from buspass.ports.outbound_bodies import CHUNK, announced, fits

HEAD: Final = 64 * 1024
"""Bytes that an answer's head may have, those of interim answers (1xx) included."""
INTERIM: Final = range(100, 200)
BODILESS: Final = (204, 304)


class Connection(asyncio.Protocol):
    """A connection that is there. `gone` is told when it no longer is."""

    transport: asyncio.Transport
    since = 0.0
    """When the last answer ended, in the loop's seconds."""

    def __init__(self, sock: socket.socket, gone: Callable[[Connection], None]) -> None:
        self._gone = gone
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._asked = self._paused = False

    def ask(self, request: bytes, *, limit: int, streamed: bool) -> asyncio.Future[None]:
        """Send it, and give what is done when the answer's head is there (`streamed`) or all of it, or it failed.

        `limit`: bytes of a whole body, at most. Then `failure` says why there is none, or `status`, `headers` and
        `parts` what it is.
        """
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self._limit, self._streamed, self._asked = limit, streamed, True
        self._head = self._size = 0
        self._first = True
        self._headed = self._whole = self._once = False  # the last: no other request may follow here
        self.failure: Ambiguous | None = None
        waiter = self._waiter = self._loop.create_future()
        self.transport.write(request)
        return waiter

    async def piece(self) -> bytes | None:
        """Wait for what comes next of a streamed body; None at its end. Raises Ambiguous.

        The first chunk comes alone, so that the reader hears of it before it has worked on others, then all there is.
        """
        while not self.parts:
            if self._whole:
                return None
            if self.failure is not None:
                raise self.failure
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._first:
            self._first, piece = False, self.parts.pop(0)
        else:
            piece = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            self.parts.clear()
        self._size -= len(piece)
        if self._paused and self._size < CHUNK:
            self._paused = False
            self.transport.resume_reading()
        return piece

    def over(self) -> bool:
        """End the exchange, and say whether another may follow; else the connection is closed."""
        again = self._asked and self._whole and not self._once and not self.transport.is_closing()
        self._asked = False
        if again and not self.transport.get_write_buffer_size():  # else it answered before it had the whole request
            self.since = self._loop.time()
            return True
        self.transport.abort()
        return False

    def fit(self) -> bool:
        """Say whether it still stands: the other side may have closed it while the loop was busy, or speak unasked."""
        if self.transport.is_closing():
            return False
        return not self._poll.poll(0)

    # what the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in Intake
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._whole:
            self._once = True
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  (whatever it is: this is no answer)
            self._once = True
            if not self._whole:
                self._fail(f"the connection broke: {type(error).__name__}: {error}")
        if self._headed:
            self._bound()
        else:
            self._head += len(data)
            if self._head > HEAD:
                self._fail(f"the connection broke: more than {HEAD} bytes of an answer's head")
        if self._whole or (self._streamed and self.parts):
            self._wake()

    def eof_received(self) -> None:
        """Take the end of the connection for that of an answer which says no other, unless TLS was cut short."""
        if self._asked and self._headed and not self._whole and self._to_the_end() and not self._cut():
            self._whole = self._once = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._asked and not self._whole:
            why = f"{type(exc).__name__}: {exc}" if exc else "closed before its answer was whole"
            self._fail(f"the connection broke: {why}")
        self._gone(self)

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._whole:
            self._once = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip(" \t")
        else:  # a trailer: rare, and nothing of it may reach the next answer
            self._once = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status in INTERIM:
            self.headers = {}
        elif not self._headed:
            self.status, self._headed = status, True
            if self._streamed:
                self._wake()

    def on_body(self, data: bytes) -> None:
        if not self._whole:
            self.parts.append(data)
            self._size += len(data)

    def on_message_complete(self) -> None:
        if self._headed and not self._whole:
            self._whole = True
            if not self._parser.should_keep_alive():
                self._once = True

    # what it comes to

    def _bound(self) -> None:
        """Hold a stream back whose pieces nobody fetches, and cut a whole body above the limit."""
        if self._streamed:
            if self._size >= CHUNK and not (self._paused or self._whole):
                self._paused = True
                self.transport.pause_reading()
        elif self._size > self._limit or not self._whole:
            self._announced()

    def _announced(self) -> None:
        try:
            if "content-encoding" in self.headers:  # what it unpacks to the reader counts; packed it is hardly larger
                fits(self._size, self._limit + self._limit // 256 + 1024)
            else:
                announced(self.headers.get("content-length", ""), self._limit)
                fits(self._size, self._limit)
        except TooLarge as error:
            self._fail(error)

    def _to_the_end(self) -> bool:
        headers = self.headers
        told = "content-length" in headers or "transfer-encoding" in headers
        return not told and self.status not in BODILESS

    def _cut(self) -> bool:
        """Say whether TLS ended without saying so, as anybody on the way can bring about: asyncio does not tell."""
        tls: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        try:
            return tls is not None and tls.read(1) != b""
        except ssl.SSLError:
            return True

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str | Ambiguous) -> None:
        if self.failure is not None:
            return
        self.failure = why if isinstance(why, Ambiguous) else Ambiguous(why)
        self._wake()
        self.transport.abort()
