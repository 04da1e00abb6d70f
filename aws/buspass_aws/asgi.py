"""Function URL events and ASGI: one event in, one scope out; one answer in, one payload out.

Owns payload format 2.0 of Lambda Function URLs (API Gateway's HTTP APIs send the same with a stage) and the size
that a buffered answer may have. Refuses to know the event loop, the Lambda context and what the application does.
Source: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from buspass.errors import Problem
from buspass.http.buffered import Answer

PAYLOAD_BYTES: Final = 6 * 1024 * 1024
"""What one buffered invocation may carry each way, as JSON. The service's own limit for answers is 100 bytes more."""

_TEXT: Final = frozenset({
    "application/javascript",
    "application/json",
    "application/x-www-form-urlencoded",
    "application/xml",
})  # fmt: skip


class EventError(ValueError):
    """The event is not an HTTP request in payload format 2.0. The message says what is wrong and what to do."""


class Request(Struct, frozen=True, kw_only=True):
    """An ASGI `http` scope and the whole body, in bytes."""

    scope: dict[str, Any]
    body: bytes


def scheduled(event: Mapping[str, Any]) -> bool:
    """Say whether EventBridge sent this by a schedule: then the timer's work is due, and nobody asks for an answer.

    Source: https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
    """
    if not isinstance(event, Mapping):
        return False
    return event.get("source") == "aws.events" and event.get("detail-type") == "Scheduled Event"


def to_request(event: Mapping[str, Any], *, deadline: float | None = None) -> Request:
    """Read an event. `deadline`: seconds that the application has left. Raises EventError."""
    context = event.get("requestContext") if isinstance(event, Mapping) else None
    http = context.get("http") if isinstance(context, Mapping) else None
    if not isinstance(context, Mapping) or not isinstance(http, Mapping) or event.get("version") != "2.0":
        raise EventError(
            "not an HTTP event in payload format 2.0 (no version 2.0 with requestContext.http): "
            "invoke this function through its Function URL or an HTTP API"
        )
    try:
        headers = _headers(event)
        path = _path(event["rawPath"], context.get("stage"))
        names = dict(headers)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": http.get("protocol", "HTTP/1.1").removeprefix("HTTP/"),
            "method": http["method"].upper(),
            "scheme": names.get(b"x-forwarded-proto", b"https").decode("ascii"),
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("utf-8"),
            "query_string": event.get("rawQueryString", "").encode("utf-8"),
            "root_path": "",
            "headers": headers,
            "client": (http["sourceIp"], 0) if http.get("sourceIp") else None,
            "server": (context.get("domainName", ""), int(names.get(b"x-forwarded-port", b"443"))),
            "extensions": {} if deadline is None else {"buspass.deadline": deadline},
        }
        return Request(scope=scope, body=_body(event))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EventError(f"malformed event in payload format 2.0: {type(error).__name__}: {error}") from error


def _path(raw: str, stage: str | None) -> str:
    """An HTTP API puts its stage before the path, unless it is `$default`."""
    prefix = f"/{stage}"
    if stage not in {None, "$default"} and (raw == prefix or raw.startswith(prefix + "/")):
        raw = raw[len(prefix) :]
    return raw or "/"


def _headers(event: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Names in lower case; repeated ones come comma-joined and stay so; cookies come apart from the others."""
    cookies = event.get("cookies") or []
    pairs = [(name.lower(), value) for name, value in (event.get("headers") or {}).items()]
    if cookies:
        pairs = [(name, value) for name, value in pairs if name != "cookie"]
        pairs.append(("cookie", "; ".join(cookies)))
    return [(name.encode("latin-1"), _header_value(value)) for name, value in pairs]


def _header_value(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return bytes(body.encode("utf-8"))
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"body is not base64 ({error})") from error


def to_payload(answer: Answer) -> dict[str, Any]:
    """The payload of an answer; one that Lambda could not carry becomes a 502 problem in its place."""
    headers, cookies = split(answer.headers)
    text = _text(answer.body, headers)
    payload = {"statusCode": answer.status, "headers": headers, "cookies": cookies, **_encoded(answer.body, text)}
    if text is not None and not _fits(payload, answer.body):
        # Escapes can make text longer than base64 does.
        payload |= _encoded(answer.body, None)
    if _fits(payload, answer.body):
        return payload
    return to_payload(problem(
        "upstream_error",
        f"the answer has {len(answer.body)} bytes and Lambda carries {PAYLOAD_BYTES} with its envelope: "
        "ask for less, or call at a host that carries more",
    ))  # fmt: skip


def problem(code: str, detail: str) -> Answer:
    """A problem (RFC 9457) that the application itself can't send any more."""
    document = Problem(code, detail).document()
    return Answer(
        status=document["status"],
        headers=[(b"content-type", b"application/problem+json")],
        body=json.dumps(document).encode("utf-8"),
    )


def split(pairs: Sequence[tuple[bytes, bytes]]) -> tuple[dict[str, str], list[str]]:
    """Headers by name, repeated ones comma-joined (RFC 9110 §5.3); Set-Cookie, which can't be joined, apart."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        else:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers, cookies


def _text(body: bytes, headers: Mapping[str, str]) -> str | None:
    """The body as text if its type says that it is text and its bytes agree, else None."""
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    textual = kind.startswith("text/") or kind in _TEXT or kind.endswith(("+json", "+xml"))
    foreign = "charset=" in parameters and "utf-8" not in parameters
    if (body and not textual) or foreign or headers.get("content-encoding", "identity") != "identity":
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _encoded(body: bytes, text: str | None) -> dict[str, Any]:
    if text is None:
        return {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}
    return {"body": text, "isBase64Encoded": False}


def _fits(payload: Mapping[str, Any], body: bytes) -> bool:
    # JSON makes at most six bytes of one: only large answers need measuring.
    if len(body) < PAYLOAD_BYTES // 8:
        return True
    return len(json.dumps(payload, ensure_ascii=False).encode("utf-8")) <= PAYLOAD_BYTES
