"""One HTTP exchange: what is read of a request, and how a problem is said.

Owns headers, sizes and envelopes. Refuses to know what a route does.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from buspass.errors import Problem
from buspass.ports.state import OutcomeUnknown, Unavailable
from buspass.surfaces import openai_chat
from buspass.tools.schema import parse_json

type Handler = Callable[[Request], Awaitable[Response]]
type Envelope = Literal["problem", "openai"]

BODY_BYTES: Final = 1_000_000
KEY_CHARACTERS: Final = 255
LEVELS: Final = ("none", "metadata", "redacted", "full")
log = logging.getLogger("buspass")


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
            "no token: send Authorization: Bearer with the task token (agents) or an OIDC token (workloads)",
        )
    return found


async def body(request: Request, most: int = BODY_BYTES) -> bytes:
    """Read the body, at most `most` bytes. Raises Problem request_too_large before more is taken in."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise too_large(most)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large(most)
            parts.append(part)
    except ClientDisconnect as error:
        raise Problem("invalid_request", "the request broke off") from error
    return b"".join(parts)


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


def log_level(request: Request) -> Literal["none", "metadata", "full"] | None:
    """Give `Buspass-Log`: it may only lower what the workflow logs. Raises Problem invalid_request, unsupported."""
    level = request.headers.get("buspass-log")
    if level is None:
        return None
    if level not in LEVELS:
        raise Problem("invalid_request", f"Buspass-Log is one of {', '.join(LEVELS)}")
    if level == "redacted":
        raise Problem("unsupported", "Buspass-Log: redacted is not available yet: content is not inspected")
    return cast("Literal['none', 'metadata', 'full']", level)


def labels(request: Request) -> Mapping[str, Any]:
    """Give `Buspass-Metadata`, a flat JSON object that labels the spend. Raises Problem invalid_request."""
    text = request.headers.get("buspass-metadata")
    if text is None:
        return {}
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
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    response = Response(data, status_code=status, media_type="application/json", headers=dict(headers or {}))
    response.headers["cache-control"] = "no-store"
    return response


def refusal(problem: Problem, envelope: Envelope) -> Response:
    """Say a problem: RFC 9457, or the same in OpenAI's envelope so that its SDKs raise the right exception."""
    if envelope == "openai":
        status, headers, value = openai_chat.problem(problem)
    else:
        status, value = problem.status, problem.document()
        headers = {"content-type": "application/problem+json"}
        if problem.retryable:
            headers["retry-after"] = str(max(1, math.ceil(problem.retry_after or 1)))
        else:
            headers["x-should-retry"] = "false"
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="buspass"'
    response = Response(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
        status_code=status,
        headers={**headers, **problem.headers},
    )
    response.headers["cache-control"] = "no-store"
    return response


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
