"""One HTTP exchange: what is read of a request, and how a problem is said.

Owns headers, sizes and envelopes. Refuses to know what a route does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from buspass.errors import Problem
from buspass.jsontext import written
from buspass.ports.state import OutcomeUnknown, Unavailable
from buspass.surfaces import anthropic_messages, framing, openai_chat
from buspass.tools.schema import parse_json

type Handler = Callable[[Request], Awaitable[Response]]
type Envelope = Literal["problem", "openai", "anthropic"]

OWN: Final = ((b"cache-control", b"no-store"), (b"content-type", b"application/json"))
UNLABELLED: Final[Mapping[str, Any]] = MappingProxyType({})
BODY_BYTES: Final = 1_000_000
KEY_CHARACTERS: Final = 255
SESSION_CHARACTERS: Final = 128
LEVELS: Final = ("none", "metadata", "redacted", "full")
log = logging.getLogger("buspass")


class _Named(Headers):
    """Headers that are looked up in a map: a call asks for eight, and each time the list would be walked."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._list = raw
        self._first = dict(reversed(raw))

    def __getitem__(self, key: str) -> str:
        return self._first[key.lower().encode("latin-1")].decode("latin-1")

    def get(self, key: str, default: Any = None) -> Any:
        found = self._first.get(key.lower().encode("latin-1"))
        return default if found is None else found.decode("latin-1")


class Asked(Request):
    """A request whose headers are found at once."""

    __slots__ = ("headers",)
    headers: Headers  # in place of a property that would look whether they are made

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.headers = _Named(list(scope["headers"]))


class _Told(Response):
    """A JSON answer, its headers written once."""

    def __init__(self, data: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.status_code, self.body, self.background = status, data, None
        self.raw_headers = [
            *[(_lower(name), value.encode("latin-1")) for name, value in headers.items()],
            (b"content-length", b"%d" % len(data)),
            *OWN,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


@lru_cache(maxsize=64)
def _lower(name: str) -> bytes:
    """Give a header's name as ASGI wants it; there are not many."""
    return name.lower().encode("latin-1")


def bearer(request: Request) -> str:
    """Give the credential: `Authorization: Bearer`, or an SDK's API key. Raises Problem unauthenticated."""
    header = request.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    if header and scheme.lower() != "bearer":
        raise Problem("unauthenticated", f"the Authorization scheme {scheme[:20]!r} is not taken; send Bearer TOKEN")
    found = token.strip() or request.headers.get("x-api-key", "") or request.headers.get("api-key", "")
    if not found:
        raise Problem(
            "unauthenticated",
            "no token: send Authorization: Bearer with the task token or key (agents) or an OIDC token (workloads)",
        )
    return found


def session(request: Request) -> str:
    """Give `Buspass-Session`, which divides a key's calls into standing tasks. Raises Problem invalid_request."""
    name = request.headers.get("buspass-session", "")
    if len(name) > SESSION_CHARACTERS or not name.isprintable():
        raise Problem("invalid_request", f"Buspass-Session has at most {SESSION_CHARACTERS} printable characters")
    return name


async def body(request: Request, most: int = BODY_BYTES) -> bytes:
    """Read the body, at most `most` bytes. Raises Problem request_too_large before more is taken in."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise too_large(most)
    receive = request.receive
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("invalid_request", "the request broke off")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > most:
            raise too_large(most)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(most: int) -> Problem:
    """Give the problem for a body above a bound."""
    return Problem("request_too_large", f"the body is larger than {most} bytes, which is what this route takes")


async def document(request: Request, *, optional: bool = False) -> Mapping[str, Any]:
    """Read a JSON object. Raises Problem invalid_request, request_too_large."""
    data = await body(request)
    if not data and optional:
        return {}
    value = parse_json(data, limit=BODY_BYTES)
    if not isinstance(value, Mapping):
        raise Problem("invalid_request", "the body must be a JSON object")
    return value


def idempotency_key(request: Request) -> str | None:
    """Give the Idempotency-Key header. Raises Problem invalid_request."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= KEY_CHARACTERS and key.isprintable()):
        raise Problem("invalid_request", f"Idempotency-Key has 1 to {KEY_CHARACTERS} printable characters")
    return key


def log_level(request: Request) -> Literal["none", "metadata", "redacted", "full"] | None:
    """Give `Buspass-Log`: it may only lower what the workflow logs. Raises Problem invalid_request."""
    level = request.headers.get("buspass-log")
    if level is None:
        return None
    if level not in LEVELS:
        raise Problem("invalid_request", f"Buspass-Log is one of {', '.join(LEVELS)}")
    return cast("Literal['none', 'metadata', 'redacted', 'full']", level)


def labels(request: Request) -> Mapping[str, Any]:
    """Give `Buspass-Metadata`, a flat JSON object that labels the spend. Raises Problem invalid_request."""
    text = request.headers.get("buspass-metadata")
    if text is None:
        return UNLABELLED
    wrong = Problem("invalid_request", "Buspass-Metadata is a JSON object of at most 16 scalars and 1,024 characters")
    if len(text) > 1024:
        raise wrong
    try:
        value = parse_json(text.encode())
    except Problem:
        raise wrong from None
    if not isinstance(value, Mapping) or len(value) > 16:
        raise wrong
    if any(not isinstance(part, str | int | float | bool) for part in value.values()):
        raise wrong
    return value


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Give a JSON response; nothing of it may be cached on the way."""
    return _Told(written(value), status, headers or {})


ENVELOPES: Final[Mapping[Envelope, Callable[[Problem], tuple[int, dict[str, str], dict[str, Any]]]]] = {
    "openai": openai_chat.problem,
    "anthropic": anthropic_messages.problem,
}
"""A surface says a problem so that its SDKs raise the right exception; every other route says it in RFC 9457."""


def refusal(problem: Problem, envelope: Envelope) -> Response:
    """Say a problem in this envelope."""
    if envelope in ENVELOPES:
        status, headers, value = ENVELOPES[envelope](problem)
    else:
        status, value = problem.status, problem.document()
        headers = {"content-type": "application/problem+json", **framing.retry_headers(problem)}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="buspass"'
    response = Response(
        written(value),
        status_code=status,
        headers={**headers, **problem.headers},
    )
    response.headers["cache-control"] = "no-store"
    return response


class Flowing(Response):
    """A stream of server-sent events. A client that hangs up ends it at once, and it is closed however it ends."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # proxies that would wait for the whole
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            with suppress(OSError):  # what ASGI servers raise where the client has gone meanwhile
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._until_gone(receive, send)
        finally:
            await self._pieces.aclose()

    async def _until_gone(self, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not pump.done():
                pump.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)
        if not pump.cancelled():
            pump.result()

    async def _pump(self, send: Send) -> None:
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def guarded(handler: Handler, envelope: Envelope) -> Handler:
    """Turn every problem into its response, and everything unforeseen into `internal`, which tells nothing."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            if problem.status >= 500:
                log.warning("%s %s: %s", request.method, request.url.path, problem)
            return refusal(problem, envelope)
        except (Unavailable, OutcomeUnknown) as error:  # where a room had nothing to add
            log.warning("%s %s: %s", request.method, request.url.path, error)
            away = Problem("state_unavailable", "the task's state could not be reached; retry", retry_after=1)
            return refusal(away, envelope)
        except Exception:  # the last line of defence: a stack trace goes to the log, never to a client
            log.exception("%s %s failed", request.method, request.url.path)
            return refusal(Problem("internal", "Buspass failed; its log says how"), envelope)

    return run
