"""How core reaches other servers: one request, one answer, whole or as it comes. Knows no provider and no retry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from msgspec import Struct, field


class Request(Struct, frozen=True, kw_only=True):
    """One HTTP request. `timeout` bounds all of it, in seconds; `limit` is the largest body taken, in bytes.

    Of a stream, `timeout` bounds the time until its headers, and `idle` that between two of its pieces.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float
    limit: int = 20_000_000
    idle: float = 60.0


class Response(Struct, frozen=True, kw_only=True):
    """The whole answer; header names in lower case, the last of a repeated header wins."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Streamed(Struct, frozen=True, kw_only=True):
    """An answer that has begun. `chunks` raises `TimedOut` or `Ambiguous`; `aclose()` it to let the connection go."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes, None]


class NotSent(Exception):  # noqa: N818 - says what is known, not what went wrong
    """The request surely never reached the server: no address, refused, TLS failed, no time left to begin."""


class Ambiguous(Exception):  # noqa: N818
    """The request may have reached the server and may have been billed: broken, truncated or too large an answer."""


class TimedOut(Ambiguous):
    """The time was over after the request began to leave."""


class TooLarge(Ambiguous):
    """The answer is larger than the request's limit: it was cut off."""


class Outbound(Protocol):
    """Sends a request once: no retry, no redirect followed (a 3xx is an answer), no cookie kept, no proxy taken.

    Raises `NotSent`, `TimedOut` or `Ambiguous`; never a driver's exception.
    """

    async def send(self, request: Request) -> Response: ...

    async def open(self, request: Request) -> Streamed: ...

    async def close(self) -> None: ...
