"""The outbound port over pyreqwest (hyper and rustls, in a thread of their own): what governed calls go out by.

Owns which failure means what: the table in `_translated`. Refuses to know who is called and why; it neither repeats,
follows, remembers nor takes a proxy.

What decides between "surely not sent" and "ambiguous" is where hyper was, as its own error says: `client error
(Connect)` is raised before a connection is had (address, TCP, TLS), everything else once the request was handed to one.
The driver's exception classes say less: its ConnectError also comes when a connection is closed instead of an answer.
hyper sends a request once more by itself only where it never began to write it, on a connection found closed.

The driver goes on with a request whose caller was cancelled. So each has a time of its own there too, after which its
connection is let go: the request's whole time, and of a stream the longest that may pass between two reads.
It also forgets a cancellation that comes together with what was waited for: `_heed` does not.

A deadline that passes while a connection is being made is kept apart in the same way: connecting has a time of its own,
below the request's, so that whatever is still under way at the deadline was handed over. In doubt it is ambiguous.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, Streamed, TimedOut
from buspass.ports.outbound_bodies import CHUNK, SENT, announced, fits, named, readable, whole
from buspass.ports.outbound_deadlines import Deadlines
from buspass.ports.outbound_idle import Idle

if TYPE_CHECKING:
    from pyreqwest.client import Client, ClientBuilder
    from pyreqwest.request import RequestBuilder, StreamRequest
    from pyreqwest.response import Response as Answer

CONNECTIONS: Final = 256
CONNECT: Final = (5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Seconds that reaching a server may take: the longest that leaves a tenth of the request's own time. An address that
swallows packets must not eat a deadline that another target could use. The driver has one such time a client."""
READ: Final = (60.0, 120.0, 300.0, 900.0)
"""Seconds between two reads of a stream, for the driver alone: the port's own times are shorter."""
LATER: Final = 0.5
"""Seconds after the request's own time that the driver lets go: it must not be first."""
_IDLE: Final = timedelta(seconds=30)
"""How long an unused connection is kept: less than most servers do, so that reuse seldom meets a close."""
_PAYLOAD: Final = frozenset({"POST", "PUT", "PATCH"})
_CONNECTING: Final = "client error (Connect)"
"""hyper-util's words for a failure before there was a connection."""


class PyreqwestOutbound:
    """HTTP/1.1 with TLS verified (by the system's authorities, or SSL_CERT_FILE's, else certifi's).

    An answer may come as it is or gzipped, nothing else; the limit counts bytes after unpacking.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[float, float], Client] = {}
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._deadlines = Deadlines()
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Send once. Raises NotSent, TimedOut, Ambiguous as the port says."""
        outgoing = self._written(request).timeout(timedelta(seconds=request.timeout + LATER))
        reading = outgoing.streamed_read_buffer_limit(min(CHUNK, request.limit + 1)).build_streamed()
        return await self._in_turn(request, "whole answer", _exchange(reading, request))

    async def open(self, request: Request) -> Streamed:
        """Send once, and give the answer when its headers are there. Raises NotSent, TimedOut, Ambiguous."""
        written = self._written(request, _least(READ, max(request.timeout, request.idle)))
        outgoing = written.streamed_read_buffer_limit(0).build_streamed()  # else a short one is held until it is whole
        answer = await self._in_turn(request, "beginning of an answer", _begun(outgoing))
        headers, encoding = named(answer.headers.items())
        return Streamed(status=answer.status, headers=headers, chunks=_chunks(outgoing, answer, encoding, request))

    async def close(self) -> None:
        """Close every connection; requests under way fail. Idempotent, and nothing is sent after it."""
        self._closed = True
        self._deadlines.close()
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    async def _in_turn[T](self, request: Request, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Wait for one of CONNECTIONS, then do the work, all within the request's time."""
        handed_over = False
        try:
            with self._deadlines.within(request.timeout):
                await self._free.acquire()
                handed_over = True
                try:
                    return await work
                except (NotSent, Ambiguous):
                    raise
                except Exception as error:  # a driver's error never leaves here, whatever its name
                    raise _translated(error) from error
                finally:
                    self._free.release()
        except TimeoutError:
            if handed_over:
                raise TimedOut(f"no {what} within {request.timeout:g} s") from None
            raise NotSent(f"no connection within {request.timeout:g} s") from None
        finally:
            work.close()  # where it was never begun

    def _written(self, request: Request, read: float = 0) -> RequestBuilder:
        """Write the request, of a stream that may stand still for `read` seconds. Raises NotSent."""
        if self._closed:
            raise NotSent("this host is shutting down")
        if request.timeout <= 0:
            raise NotSent("no time was left to begin")
        client = self._client(request.timeout, read)  # before the time runs: it is slow once, and no server's fault
        headers = SENT | {name.lower(): value for name, value in request.headers.items()}
        if not "".join(headers.values()).isascii():
            raise NotSent("this can't be written as an HTTP request: a header is not ASCII")
        try:
            written = client.request(request.method, request.url).headers(headers)
        except (ValueError, TypeError) as error:
            raise NotSent("this can't be written as an HTTP request") from error
        return written.body_bytes(request.body) if request.body or request.method in _PAYLOAD else written

    def _client(self, timeout: float, read: float) -> Client:
        most = timeout * 0.9
        connect = CONNECT[0] if most >= CONNECT[0] else next((each for each in CONNECT if each <= most), CONNECT[-1])
        client = self._clients.get((connect, read))
        if client is None:
            client = self._clients[connect, read] = _client(connect, read)
        return client


def _least(of: tuple[float, ...], wanted: float) -> float:
    return next((each for each in of if each >= wanted), of[-1])


def _client(connect: float, read: float) -> Client:
    from pyreqwest.exceptions import BuilderError  # noqa: PLC0415 - hosts may never call out

    try:
        return _builder(connect, read).build()
    except BuilderError:  # a machine without authorities of its own: a bare container
        import certifi  # noqa: PLC0415 - read only there

        return _builder(connect, read).add_root_certificate_pem(Path(certifi.where()).read_bytes()).build()


def _builder(connect: float, read: float) -> ClientBuilder:
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415 - see _client

    builder = (
        ClientBuilder()
        .connect_timeout(timedelta(seconds=connect))
        .pool_idle_timeout(_IDLE)
        .pool_max_idle_per_host(CONNECTIONS)
        .follow_redirects(False)
        .referer(False)
        .no_proxy()
        .http2(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
    )
    return builder.read_timeout(timedelta(seconds=read)) if read else builder


async def _exchange(reading: StreamRequest, request: Request) -> Response:
    before = _cancellations()
    async with reading as answer:
        got = await _whole(answer, request)
        _heed(before)
        return got


async def _begun(outgoing: StreamRequest) -> Answer:
    before = _cancellations()
    answer = await outgoing.__aenter__()
    try:
        _heed(before)
    except asyncio.CancelledError:
        await outgoing.__aexit__(None, None, None)
        raise
    return answer


async def _whole(answer: Answer, request: Request) -> Response:
    headers = dict(answer.headers.items())
    length = headers.get("content-length", "")
    announced(length, request.limit)
    if length.isdecimal() and "content-encoding" not in headers:  # hyper takes exactly so many
        return Response(status=answer.status, headers=headers, body=(await answer.bytes()).to_bytes())
    headers, encoding = named(headers.items())
    body = await whole(readable(_pieces(answer, nullcontext()), encoding), request.limit)
    return Response(status=answer.status, headers=headers, body=body)


async def _pieces(answer: Answer, around_each: AbstractContextManager[None]) -> AsyncIterator[bytes]:
    reader = answer.body_reader
    while True:
        with around_each:
            piece = await reader.read_chunk()
        if piece is None:
            return
        yield piece.to_bytes()


async def _chunks(
    outgoing: StreamRequest, answer: Answer, encoding: str, request: Request
) -> AsyncGenerator[bytes, None]:
    """Give the body piece by piece, unpacked; the connection is let go however it ends."""
    size, idle = 0, Idle(request.idle)
    try:
        async for chunk in readable(_pieces(answer, idle), encoding):
            size += len(chunk)
            fits(size, request.limit)
            yield chunk
    except (NotSent, Ambiguous):
        raise
    except Exception as error:  # see _in_turn
        raise _translated(error) from error
    finally:
        idle.close()
        await outgoing.__aexit__(None, None, None)


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _heed(before: int) -> None:
    if _cancellations() > before:
        raise asyncio.CancelledError


def _translated(error: Exception) -> NotSent | Ambiguous:
    """The one table: what a failure of the driver means to the port.

    | failure                                                              | means     |
    |----------------------------------------------------------------------|-----------|
    | before there was a connection, as hyper says: no such address,       | NotSent   |
    |   refused, unreachable, TLS failed, no connection in time            |           |
    | a request that can't be built: no such scheme, no URL                | NotSent   |
    | the driver's own time, after the port's                              | TimedOut  |
    | any other: reset, closed, garbage, cut short, and what is new to us  | Ambiguous |
    """
    from pyreqwest.exceptions import BuilderError  # noqa: PLC0415 - see _client

    if isinstance(error, BuilderError) or _CONNECTING in _causes(error):
        return NotSent(f"no connection: {_said(error)}")
    if isinstance(error, TimeoutError):
        return TimedOut(f"the driver's time was over: {_said(error)}")
    return Ambiguous(f"the connection broke: {_said(error)}")


def _causes(error: Exception) -> list[str]:
    details: Any = getattr(error, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None
    return [str(cause.get("message", "")) for cause in causes or ()]


def _said(error: Exception) -> str:
    """The innermost cause: the outer ones name the URL, which may hold what no log should."""
    causes = _causes(error)
    return causes[-1] if causes else str(error) or type(error).__name__
