"""The outbound port on the event loop itself: what governed calls go out by on a host that has uvloop and httptools.

pyreqwest has a thread of its own, which must be woken for each request, wakes the event loop for each answer, and
takes the interpreter's lock to do so: with one core a fifth of a call. Here a request is one write and an answer one
read, where the loop is anyway.

Owns which connection a request goes out on, and what each failure means. Refuses to know who is called and why; it
neither repeats, follows, remembers nor takes a proxy. What is not plain (a URL that must be rewritten, HEAD, headers
that frame a message) goes the way that the other hosts' requests go, by `PyreqwestOutbound`.

What decides between "surely not sent" and "ambiguous" is whether the request was handed to a connection. One that the
server has closed meanwhile is seen before it is used; where both happen at once, it is ambiguous.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

from msgspec import Struct

from buspass.ports.outbound import NotSent, Request, Response, Streamed, TimedOut
from buspass.ports.outbound_bodies import SENT, fits, named, readable, whole
from buspass.ports.outbound_deadlines import Deadlines
from buspass.ports.outbound_idle import Idle
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass_onprem.outbound_connection import Connection
from buspass_onprem.outbound_reach import Origin, authorities, origin, plain, reached
from buspass_onprem.outbound_turns import Turns

CONNECTIONS: Final = 256
CONNECT: Final = 5.0
"""Seconds to reach a server, within nine tenths of the request's own time: an address that swallows packets must not
eat a deadline that another target could use."""
IDLE: Final = 30.0
"""Seconds that an unused connection is kept: less than most servers do, so that reuse seldom meets a close."""
KNOWN: Final = 1024
"""Origins and names of headers that are remembered."""
HEADS: Final = 64
"""What requests to so many URLs began with: kept, credential and all, until another begins otherwise."""
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_PAYLOAD: Final = frozenset({"POST", "PUT", "PATCH"})
_FRAMING: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer", "keep-alive"}
)
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUES: Final = re.compile(r"[\t -~]*")


class _Head(Struct, frozen=True, kw_only=True):
    """What the last request to a URL began with: the next one's, where method and headers are the same."""

    where: Origin
    method: str
    headers: Mapping[str, str]
    text: bytes


class DirectOutbound:
    """HTTP/1.1 with TLS verified (by SSL_CERT_FILE's authorities, else the system's, else certifi's).

    An answer may come as it is or gzipped, nothing else; the limit counts bytes after unpacking.
    """

    def __init__(self) -> None:
        self._other = PyreqwestOutbound()
        self._turns = Turns(CONNECTIONS)
        self._deadlines = Deadlines()
        self._origins: dict[str, Origin | None] = {}
        self._names: dict[str, str | None] = {}
        self._heads: dict[str, _Head] = {}
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Send once. Raises NotSent, TimedOut, Ambiguous as the port says."""
        if (written := self._written(request)) is None:
            return await self._other.send(request)
        connection = await self._asked(request, written, "whole answer")
        body = connection.parts[0] if len(connection.parts) == 1 else b"".join(connection.parts)
        headers, status = connection.headers, connection.status
        self._done_with(written[0], connection)
        if "content-encoding" in headers:
            headers, encoding = named(headers.items())
            body = await whole(readable(_once(body), encoding), request.limit)
        return Response(status=status, headers=headers, body=body)

    async def open(self, request: Request) -> Streamed:
        """Send once, and give the answer when its headers are there. Raises NotSent, TimedOut, Ambiguous."""
        if (written := self._written(request)) is None:
            return await self._other.open(request)
        connection = await self._asked(request, written, "")
        done = partial(self._done_with, written[0], connection)
        try:
            headers, encoding = named(connection.headers.items())
            pieces = _Pieces(connection, encoding, request, done)
        except BaseException:
            done()
            raise
        return Streamed(status=connection.status, headers=headers, chunks=pieces)

    async def _asked(self, request: Request, written: tuple[Origin, bytes], whole: str) -> Connection:
        """Give a connection with the answer, or what begins it unless it has to be `whole`, in the request's time."""
        where, text = written
        connection: Connection | None = None
        try:
            with self._deadlines.within(request.timeout):
                if not self._turns.at_once():
                    await self._turns.wait()
                try:
                    connection = self._kept(where) or await self._reach(where, min(CONNECT, request.timeout * 0.9))
                    await connection.ask(text, limit=request.limit, streamed=not whole)
                    if connection.failure is not None:
                        raise connection.failure
                    return connection
                finally:
                    self._turns.done()
        except TimeoutError:
            if connection is None:
                raise NotSent(f"no connection within {request.timeout:g} s") from None
            self._done_with(where, connection)
            raise TimedOut(f"no {whole or 'beginning of an answer'} within {request.timeout:g} s") from None
        except BaseException:
            if connection is not None:
                self._done_with(where, connection)
            raise

    async def close(self) -> None:
        """Close every connection; requests under way fail. Idempotent, and nothing is sent after it."""
        self._closed = True
        self._deadlines.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._idle.clear()
        for connection in [*self._open]:
            connection.transport.abort()
        await self._other.close()

    def _written(self, request: Request) -> tuple[Origin, bytes] | None:
        """Write the request; None for one that is not plain. Raises NotSent."""
        if self._closed:
            raise NotSent("this host is shutting down")
        if request.timeout <= 0:
            raise NotSent("no time was left to begin")
        kept = self._heads.get(request.url)
        if kept is None or kept.method != request.method or kept.headers != request.headers:
            if (kept := self._headed(request)) is None:
                return None
            if kept.method in _PAYLOAD and "?" not in request.url:  # models'; what is asked for is not kept
                if len(self._heads) >= HEADS:
                    self._heads.clear()
                self._heads[request.url] = kept
        body = request.body
        if body or kept.method in _PAYLOAD:
            return kept.where, b"%bcontent-length: %d\r\n\r\n%b" % (kept.text, len(body), body)
        return kept.where, kept.text + b"\r\n"

    def _headed(self, request: Request) -> _Head | None:
        """Write what goes before a body's length; None where that is not plain. Raises NotSent."""
        at = request.url.find("/", 8)
        base, target = (request.url, "/") if at < 0 else (request.url[:at], request.url[at:])
        where = self._origins[base] if base in self._origins else self._learn_origin(base)
        if where is None or request.method not in _METHODS or not plain(target):
            return None
        names = self._names
        given = {
            names[name] if name in names else self._learn_name(name): text for name, text in request.headers.items()
        }
        if None in given:
            return None
        headers = SENT | given
        values = "".join(headers.values())
        if not values.isascii():
            raise NotSent("this can't be written as an HTTP request: a header is not ASCII")
        if _VALUES.fullmatch(values) is None:
            raise NotSent("this can't be written as an HTTP request")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        text = f"{request.method} {target} HTTP/1.1\r\nhost: {where.named}\r\n{lines}".encode("ascii")
        return _Head(where=where, method=request.method, headers={**request.headers}, text=text)

    def _learn_origin(self, base: str) -> Origin | None:
        if len(self._origins) >= KNOWN:
            self._origins.clear()
        found = self._origins[base] = origin(base)
        return found

    def _learn_name(self, name: str) -> str | None:
        """Give a header's name in lower case; None for one that is no name, or that frames a message."""
        if len(self._names) >= KNOWN:
            self._names.clear()
        lower = name.lower()
        found = self._names[name] = lower if _NAME.fullmatch(name) and lower not in _FRAMING else None
        return found

    def _kept(self, where: Origin) -> Connection | None:
        """Give a connection that stands, the last one used first."""
        waiting = self._idle.get(where)
        while waiting:
            connection = waiting.pop()
            if connection.fit():
                return connection
            connection.transport.abort()
        return None

    async def _reach(self, where: Origin, most: float) -> Connection:
        """Make a connection in so many seconds. Raises NotSent."""
        try:
            async with asyncio.timeout(most):
                if where.tls and self._tls is None:
                    self._tls = await asyncio.to_thread(authorities)
                secured: dict[str, Any] = {"ssl": self._tls, "server_hostname": where.host} if where.tls else {}
                sock = await reached(where.host, where.port)
                made = partial(Connection, sock, self._gone)
                _, connection = await asyncio.get_running_loop().create_connection(made, sock=sock, **secured)
        except TimeoutError:
            raise NotSent(f"no connection within {most:g} s") from None
        except Exception as error:
            raise NotSent(f"no connection: {error}") from error
        if self._closed:
            connection.transport.abort()
            raise NotSent("this host is shutting down")
        self._open.add(connection)
        return connection

    def _done_with(self, where: Origin, connection: Connection) -> None:
        """Keep the connection for the next request where it may have one."""
        if connection.over() and not self._closed:
            self._idle.setdefault(where, []).append(connection)
            if self._sweeping is None:
                self._sweeping = asyncio.get_running_loop().call_later(IDLE, self._sweep)

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        for waiting in self._idle.values():
            if connection in waiting:
                waiting.remove(connection)

    def _sweep(self) -> None:
        """Close what nobody used for so long."""
        loop = asyncio.get_running_loop()
        for connection in [each for waiting in self._idle.values() for each in waiting]:
            if connection.since <= loop.time() - IDLE:
                connection.transport.abort()
        self._idle = {where: waiting for where, waiting in self._idle.items() if waiting}
        self._sweeping = loop.call_later(IDLE / 2, self._sweep) if self._idle else None


class _Pieces(AsyncGenerator[bytes, None]):
    """A body piece by piece, unpacked; its connection is let go however it ends, though it was never begun."""

    def __init__(self, connection: Connection, encoding: str, request: Request, done: partial[None]) -> None:
        self._connection, self._done, self._limit, self._size = connection, done, request.limit, 0
        self._idle = Idle(request.idle)
        self._source = readable(self._read(), encoding)
        self._over = False

    async def asend(self, _: None) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            piece = await anext(self._source)
            self._size += len(piece)
            fits(self._size, self._limit)
        except BaseException:
            self._end()
            raise
        return piece

    async def athrow(self, kind: Any, value: Any = None, _traceback: Any = None) -> bytes:
        self._end()
        raise value or (kind if isinstance(kind, BaseException) else kind())

    async def aclose(self) -> None:
        self._end()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            with self._idle:
                piece = await self._connection.piece()
            if piece is None:
                return
            yield piece

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._idle.close()
            self._done()


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body
