"""The outbound port over httpx's transport: what issuers are asked by, off the path of governed calls.

Owns which failure means what: the table in `_translated`. Refuses to know who is called and why; it neither
repeats, follows, remembers nor takes a proxy, and so uses the transport below httpx's client, which would.

What decides between "surely not sent" and "ambiguous" is a fact, not an exception's name: whether the first
byte of the request began to leave (httpcore's trace event `send_request_headers.started`). So a keep-alive
connection that the server closes while we reuse it is Ambiguous, although most often the server saw nothing:
the bytes were handed to the kernel, and a server that read them and died looks exactly alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, Streamed, TimedOut
from buspass.ports.outbound_bodies import SENT, announced, fits, named, readable, whole

if TYPE_CHECKING:
    import httpx

CONNECTIONS: Final = 256
CONNECT: Final = 5.0
"""Seconds to reach a server, within the request's own time: an address that swallows packets must not eat a
deadline that another target could use."""
_IDLE: Final = 30.0
"""Seconds that an unused connection is kept: less than most servers do, so that reuse seldom meets a close."""


class HttpxOutbound:
    """HTTP/1.1 with TLS verified (certifi's authorities, or SSL_CERT_FILE's). httpx is loaded at the first send.

    An answer may come as it is or gzipped, nothing else; the limit counts bytes after unpacking.
    """

    def __init__(self) -> None:
        self._transport: httpx.AsyncHTTPTransport | None = None
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Send once. Raises NotSent, TimedOut, Ambiguous as the port says."""
        transport, progress = self._ready(request), _Progress()
        async with _in_time(request, progress, "whole answer"):
            return await _exchange(transport, request, progress)

    async def open(self, request: Request) -> Streamed:
        """Send once, and give the answer when its headers are there. Raises NotSent, TimedOut, Ambiguous."""
        transport, progress = self._ready(request), _Progress()
        async with _in_time(request, progress, "beginning of an answer"):
            try:
                answer = await transport.handle_async_request(_outgoing(request, progress))
            except NotSent:
                raise
            except Exception as error:  # see _exchange
                raise _translated(error, progress) from error
        headers, encoding = _headers(answer)
        return Streamed(status=answer.status_code, headers=headers, chunks=_chunks(answer, encoding, request, progress))

    def _ready(self, request: Request) -> httpx.AsyncHTTPTransport:
        if self._closed:
            raise NotSent("this host is shutting down")
        if request.timeout <= 0:
            raise NotSent("no time was left to begin")
        return self._transport_now()  # before the time runs: loading it is slow once, and no server's fault

    async def close(self) -> None:
        """Close every connection; requests under way fail. Idempotent, and nothing is sent after it."""
        self._closed = True
        if self._transport is not None:
            await self._transport.aclose()

    def _transport_now(self) -> httpx.AsyncHTTPTransport:
        if self._transport is None:
            import httpx  # noqa: PLC0415  (160 ms at a cold start, for hosts that may never call out)

            limits = httpx.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=_IDLE
            )
            self._transport = httpx.AsyncHTTPTransport(limits=limits, retries=0, http2=False)
        return self._transport


class _Progress:
    """How far a request has come, told by httpcore."""

    __slots__ = ("_reached", "_shaking_hands", "headers_left", "started")

    def __init__(self) -> None:
        self.started = self.headers_left = self._shaking_hands = False
        self._reached: Any = None

    async def trace(self, event: str, info: Any) -> None:
        if event.endswith(".connect_tcp.complete"):
            self._reached = info["return_value"]
        elif event.endswith((".start_tls.started", ".start_tls.complete")):
            self._shaking_hands = event.endswith("started")
        elif event.endswith(".send_request_headers.started"):
            self.started = True
        elif event.endswith(".send_request_headers.complete"):
            self.headers_left = True

    async def close(self) -> None:
        """Close what a TLS handshake was called off on: httpcore leaves it to the garbage collector."""
        if self._shaking_hands:
            await self._reached.aclose()


@asynccontextmanager
async def _in_time(request: Request, progress: _Progress, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(request.timeout):
            yield
    except TimeoutError:
        if progress.started:
            raise TimedOut(f"no {what} within {request.timeout:g} s") from None
        raise NotSent(f"no connection within {request.timeout:g} s") from None
    finally:
        await progress.close()


async def _chunks(
    answer: httpx.Response, encoding: str, request: Request, progress: _Progress
) -> AsyncGenerator[bytes, None]:
    """Give the body piece by piece, unpacked; the connection is let go however it ends."""
    size = 0
    try:
        source = readable(_stream(answer), encoding)
        while (chunk := await _next(source, request.idle)) is not None:
            size += len(chunk)
            fits(size, request.limit)
            yield chunk
    except (NotSent, Ambiguous):
        raise
    except Exception as error:  # see _exchange
        raise _translated(error, progress) from error
    finally:
        await answer.aclose()


async def _next(source: AsyncIterator[bytes], idle: float) -> bytes | None:
    try:
        async with asyncio.timeout(idle):
            return await anext(source, None)
    except TimeoutError:
        raise TimedOut(f"the answer stood still for {idle:g} s") from None


async def _exchange(transport: httpx.AsyncHTTPTransport, request: Request, progress: _Progress) -> Response:
    try:
        outgoing = _outgoing(request, progress)
        answer = await transport.handle_async_request(outgoing)
        try:
            headers, encoding = _headers(answer)
            body = await _body(answer, encoding, request.limit)
        finally:
            await answer.aclose()
    except (NotSent, Ambiguous):
        raise
    except Exception as error:
        # Below httpx lie httpcore, anyio, h11 and ssl, which let an OverflowError or a group of them through:
        # what is known of the request does not depend on the name, and a driver's error never leaves here.
        raise _translated(error, progress) from error
    return Response(status=answer.status_code, headers=headers, body=body)


def _outgoing(request: Request, progress: _Progress) -> httpx.Request:
    import httpx  # noqa: PLC0415  (see _transport_now)

    headers = SENT | {name.lower(): value for name, value in request.headers.items()}
    waits = {"connect": min(CONNECT, request.timeout), "pool": None, "read": None, "write": None}
    try:
        return httpx.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.body or None,
            extensions={"timeout": waits, "trace": progress.trace},
        )
    except (httpx.InvalidURL, ValueError, TypeError) as error:  # a header that is not ASCII, a URL that is no URL
        raise NotSent("this can't be written as an HTTP request") from error


def _translated(error: Exception, progress: _Progress) -> NotSent | Ambiguous:
    """The one table: what a failure of the transport means to the port.

    | failure                                                              | means     |
    |----------------------------------------------------------------------|-----------|
    | any before the first byte left: no such scheme or address, refused,  | NotSent   |
    |   unreachable, TLS failed, no free connection                        |           |
    | a request that HTTP forbids, found before its head was written       | NotSent   |
    | any after that: reset, closed, garbage, cut short                    | Ambiguous |
    """
    import httpx  # noqa: PLC0415  (see _transport_now)

    said = str(error) or type(error).__name__
    if not progress.started:
        return NotSent(f"no connection: {said}")
    if isinstance(error, httpx.LocalProtocolError) and not progress.headers_left:
        return NotSent(f"this is not a valid HTTP request: {said}")
    return Ambiguous(f"the connection broke: {said}")


def _headers(answer: httpx.Response) -> tuple[dict[str, str], str]:
    return named((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw)


async def _body(answer: httpx.Response, encoding: str, limit: int) -> bytes:
    announced(answer.headers.get("content-length", ""), limit)
    return await whole(readable(_stream(answer), encoding), limit)


def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    return aiter(answer.stream)  # type: ignore[arg-type]  # an async transport's is one
