"""The part of a Functions host that forwards a request to the worker's own HTTP server, and its answer back.

Owns what the host's reverse proxy (YARP) makes of paths and headers, the retries while the server is not up yet and the
silence after which Azure's load balancer hangs up. Refuses to know routes and invocations.
Source: https://github.com/Azure/azure-functions-host, src/WebJobs.Script/Http
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import httpx

SILENT_SECONDS: Final = 230.0
"""When Azure's load balancer gives up on an answer in which nothing moves; each byte begins it anew."""
ATTEMPTS: Final = 10
_HOP: Final = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"}

type Headers = list[tuple[bytes, bytes]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]


class Forwarder:
    """Forwards requests to one worker's server at `uri`."""

    def __init__(self, uri: str, *, seconds: float = SILENT_SECONDS) -> None:
        self._uri = uri.rstrip("/")
        self._seconds = seconds
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
        # The transport alone: a client would add headers of its own.
        self._transport = httpx.AsyncHTTPTransport(limits=limits)

    async def close(self) -> None:
        """Close the pool."""
        await self._transport.aclose()

    async def forward(self, method: str, target: str, headers: Headers, body: bytes, send: Send) -> None:
        """Send a request on and its answer back as it comes; 502 where none begins in time.

        Cancelling hangs up on the worker. Raises httpx.HTTPError where an answer breaks off.
        """
        request = httpx.Request(
            method,
            self._uri + target,
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": 5.0, "read": self._seconds, "write": self._seconds}},
        )
        try:
            response = await self._begin(request)
        except httpx.ReadTimeout:
            await _whole(send, 502, b"The service did not answer in time.")
            return
        except httpx.HTTPError:
            await _whole(send, 502, b"")
            return
        try:
            kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await response.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, request: httpx.Request) -> httpx.Response:
        """The worker is asked to serve and to answer at once: its server may not listen yet."""
        delay = 0.05
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._transport.handle_async_request(request)
            except httpx.ConnectError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.25)
        return await self._transport.handle_async_request(request)


async def _whole(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def kestrel_path(raw: str) -> str:
    """The path as ASP.NET hands it on: decoded, but for an encoded slash, as one text."""
    return "%2F".join(unquote(part) for part in re.split("%2[Ff]", raw))


def _url_path(path: str) -> str:
    """And as it writes it into a URL again: encoded anew, where what looks encoded is left."""
    kept = "/!$&'()*+,;=:@-._~"
    return "".join(
        part if re.fullmatch("%[0-9A-Fa-f]{2}", part) else quote(part, safe=kept)
        for part in re.split("(%[0-9A-Fa-f]{2})", path)
    )


def to_target(path: str, query: bytes) -> str:
    """Path and query of the forwarded request."""
    return _url_path(path) + (f"?{query.decode('latin-1')}" if query else "")


def to_headers(scope: Mapping[str, Any], invocation: str) -> Headers:
    """Names in lower case, repeated ones joined; the front end's own, and our invocation's id whatever was sent."""
    joined: dict[bytes, bytes] = {}
    for raw_name, value in scope["headers"]:
        name = raw_name.lower()
        if name in _HOP:
            continue
        separator = b"; " if name == b"cookie" else b", "
        joined[name] = joined[name] + separator + value if name in joined else value
    client = scope.get("client") or ("127.0.0.1", 0)
    earlier = joined[b"x-forwarded-for"] + b", " if b"x-forwarded-for" in joined else b""
    joined |= {
        b"x-forwarded-for": earlier + f"{client[0]}:{client[1]}".encode(),
        b"x-forwarded-proto": scope["scheme"].encode(),
        b"x-ms-invocation-id": invocation.encode(),
    }
    return list(joined.items())
