"""One HTTP exchange: what is read of a request, and how a problem is said.

Owns headers, sizes and envelopes. Refuses to know what a route does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from buspass.callers import recognised
from buspass.errors import Problem
from buspass.http.asgi import AT_HAND, OWN, Receive, Request, Response, Send, Told, encoded
from buspass.jsontext import written
from buspass.ports.state import OutcomeUnknown, Unavailable
from buspass.surfaces import anthropic_messages, framing, openai_chat
from buspass.tools.schema import parse_json

type Handler = Callable[[Request], Awaitable[Told]]
type Envelope = Literal["problem", "openai", "anthropic"]

JSON: Final = b"application/json"
UNLABELLED: Final[Mapping[str, Any]] = MappingProxyType({})
BODY_BYTES: Final = 1_000_000
LONGEST: Final = 15
"""Digits of a length: more are no number that any host takes, and no time is spent on reading them."""
KEY_CHARACTERS: Final = 255
SESSION_CHARACTERS: Final = 128
LEVELS: Final = ("none", "metadata", "redacted", "full")
log = logging.getLogger("buspass")


def bearer(request: Request) -> str:
    """Give the credential: `Authorization: Bearer`, or an SDK's API key. Raises Problem unauthenticated."""
    headers = request.headers
    said = headers.get(b"authorization", b"")
    if said[:7] == b"Bearer " and b"x-api-key" not in headers and b"api-key" not in headers:  # nearly always
        shown = said[7:].strip()
        if shown and len(headers) == len(request.scope["headers"]):
            return shown.decode("latin-1")
    return _one_of(_credentials(request))


def _credentials(request: Request) -> Iterator[tuple[str, str]]:
    """Give each header that holds a credential, with that. Raises Problem unauthenticated."""
    for header in request.fields(b"authorization"):
        scheme, _, token = header.partition(" ")
        if header and scheme.lower() != "bearer":
            raise Problem(
                "unauthenticated", f"the Authorization scheme {scheme[:20]!r} is not taken; send Bearer TOKEN"
            )
        yield "Authorization", token.strip()
    for name in ("x-api-key", "api-key"):
        for token in request.fields(name.encode()):
            yield name, token.strip()


def _one_of(found: Iterable[tuple[str, str]]) -> str:
    """Give the one credential among these. Raises Problem unauthenticated.

    SDKs send a provider's key beside it where both of their variables are set. That opens nothing here and is passed
    over; which of two tokens of ours is meant is not guessed.
    """
    shown: dict[str, str] = {}
    for name, token in found:
        shown.setdefault(token, name)
    shown.pop("", None)
    ours = {token: name for token, name in shown.items() if recognised(token)}
    if len(ours) > 1:
        places = " and ".join(dict.fromkeys(ours.values()))
        raise Problem("unauthenticated", f"two different tokens, in {places}: send one, or the same one in each")
    if not shown:
        raise Problem(
            "unauthenticated",
            "no token: send Authorization: Bearer with the task token or key (agents) or an OIDC token (workloads)",
        )
    return next(iter(ours or shown))


def session(request: Request) -> str:
    """Give `Buspass-Session`, which divides a key's calls into standing tasks. Raises Problem invalid_request."""
    name = request.header(b"buspass-session")
    if len(name) > SESSION_CHARACTERS or not name.isprintable():
        raise Problem("invalid_request", f"Buspass-Session has at most {SESSION_CHARACTERS} printable characters")
    return name


def plain(request: Request) -> None:
    """See that a body comes as it is. Raises Problem unsupported for one that is compressed or otherwise encoded."""
    if b"content-encoding" not in request.headers:  # nearly always
        return
    coding = request.header(b"content-encoding").strip()
    if coding.lower() not in {"", "identity"}:
        detail = f"a body in Content-Encoding {coding[:40]!r} is not taken: send it as it is, without that header"
        problem = Problem("unsupported", detail)
        problem.headers = {"accept-encoding": "identity"}
        raise problem


def at_hand(request: Request, most: int) -> bytes | None:
    """Give the body where the server has it whole, as `body` would; else None. Raises Problem request_too_large."""
    plain(request)
    scope = request.scope
    data: bytes | None = scope[AT_HAND].fetch() if AT_HAND in scope else None
    if data is not None and len(data) > most:
        raise too_large(most)
    return data


async def body(request: Request, most: int = BODY_BYTES) -> bytes:
    """Read the body, at most `most` bytes. Raises Problem request_too_large before more is taken in."""
    plain(request)
    declared = request.headers.get(b"content-length", b"")
    if declared.isdigit() and (len(declared) > LONGEST or int(declared) > most):
        raise too_large(most)
    message = await request.receive()
    data: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] == "http.request" and len(data) <= most:
        return data  # nearly always
    parts, size = [data], len(data)
    while size <= most:
        if message["type"] == "http.disconnect":
            raise Problem("invalid_request", "the request broke off")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await request.receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    raise too_large(most)


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
    if b"idempotency-key" not in request.headers:
        return None
    key = request.header(b"idempotency-key")
    if not (0 < len(key) <= KEY_CHARACTERS and key.isprintable()):
        raise Problem("invalid_request", f"Idempotency-Key has 1 to {KEY_CHARACTERS} printable characters")
    return key


def log_level(request: Request) -> Literal["none", "metadata", "redacted", "full"] | None:
    """Give `Buspass-Log`: it may only lower what the workflow logs. Raises Problem invalid_request."""
    if b"buspass-log" not in request.headers:
        return None
    level = request.header(b"buspass-log")
    if level not in LEVELS:
        raise Problem("invalid_request", f"Buspass-Log is one of {', '.join(LEVELS)}")
    return cast("Literal['none', 'metadata', 'redacted', 'full']", level)


def labels(request: Request) -> Mapping[str, Any]:
    """Give `Buspass-Metadata`, a flat JSON object that labels the spend. Raises Problem invalid_request."""
    if b"buspass-metadata" not in request.headers:
        return UNLABELLED
    text = request.header(b"buspass-metadata")
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
    return Response(written(value), status, JSON, headers or UNLABELLED)


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
    kind = headers.pop("content-type").encode()
    return Response(written(value), status, kind, {**headers, **problem.headers})


FLOWING: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # proxies that would wait for the whole
)


class Flowing:
    """A stream of server-sent events. A client that hangs up ends it at once, and it is closed however it ends."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._head = [*FLOWING, *OWN, *encoded(headers)]
        self._pieces = pieces

    async def __call__(self, receive: Receive, send: Send, /) -> None:
        gone = _Gone(receive)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._head})
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # what ASGI servers raise where the client has gone meanwhile
            pass
        except asyncio.CancelledError:
            if not gone.ended_it():
                raise
        finally:
            await gone.over()
            await self._pieces.aclose()


class _Gone:
    """Watches for a client that hangs up while its answer flows, and cancels the task that sends it.

    So the first piece leaves with the head: another task for it would wait for its turn.
    """

    def __init__(self, receive: Receive) -> None:
        self._sending = asyncio.current_task()
        self._left = False
        self._watching = asyncio.ensure_future(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        with suppress(Exception):  # a server that can't say any more has no client any more
            while (await receive())["type"] != "http.disconnect":
                pass
        if self._sending is not None:
            self._left = True
            self._sending.cancel()

    def ended_it(self) -> bool:
        """Say whether it was this that cancelled the task, and nothing else did."""
        return self._left and self._sending is not None and not self._sending.uncancel()

    async def over(self) -> None:
        """Watch no more."""
        self._sending = None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)


def failed(request: Request, error: Exception, envelope: Envelope) -> Response:
    """Give the response that an error is, and of everything unforeseen `internal`, which tells nothing."""
    path = request.path.encode("unicode_escape").decode()  # whatever it holds, a line of the log stays one
    match error:
        case Problem():
            if error.status >= 500:
                which = f" (call {error.call} of task {error.task})" if error.call else ""
                log.warning("%s %s: %s%s", request.method, path, error, which)
            return refusal(error, envelope)
        case Unavailable() | OutcomeUnknown():  # where a room had nothing to add
            log.warning("%s %s: %s", request.method, path, error)
            away = Problem("state_unavailable", "the task's state could not be reached; retry", retry_after=1)
            return refusal(away, envelope)
        case _:  # the last line of defence: a stack trace goes to the log, never to a client
            log.error("%s %s failed", request.method, path, exc_info=error)
            return refusal(Problem("internal", "Buspass failed; its log says how"), envelope)
