"""The HTTP front of a Lambda function: what a Function URL makes of a request, and of what the function answers.

Owns payload format 2.0 from the service's side, the head of a streamed answer, the size limits and the service's own
error answers. Refuses to know how a function is run: it hands an event over and gets an outcome.
Source: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

PAYLOAD_BYTES: Final = 6 * 1024 * 1024
"""The largest event, envelope and base64 included."""

_TEXT: Final = ("text/", "application/json", "application/javascript", "application/xml", "application/x-www-form")


_DELIMITER: Final = bytes(8)
"""Between the head of a streamed answer and its body."""
_AHEAD: Final = 8
"""Chunks that a function may be ahead of its client."""


class BrokenStream(Exception):  # noqa: N818 - says what happened
    """A streamed answer broke off. The message is the error's type."""


class AnswerStream:
    """A streamed answer on its way from a function to its client."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._broken: str | None = None

    async def put(self, chunk: bytes) -> None:
        """Pass a chunk on; waits while the client is behind."""
        while self._chunks.qsize() >= _AHEAD:
            self._taken.clear()
            await self._taken.wait()
        self._chunks.put_nowait(chunk)

    def end(self, *, broken: str = "") -> None:
        """Say that nothing more comes, and with `broken` that something is missing. Only the first end counts."""
        if self._broken is None:
            self._broken = broken
            self._chunks.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give each chunk as it comes. Raises BrokenStream."""
        while (chunk := await self._chunks.get()) is not None:
            self._taken.set()
            yield chunk
        if self._broken:
            raise BrokenStream(self._broken)


class Outcome(Struct, frozen=True, kw_only=True):
    """How an invocation ended. `payload`: the function's JSON, or its error's, in bytes; `stream` in its place."""

    kind: Literal["response", "stream", "error", "timeout"]
    payload: bytes
    stream: AnswerStream | None = None


class _Reply(Struct, frozen=True, kw_only=True):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class FunctionUrl:
    """An ASGI 3 application that turns each request into one invocation."""

    def __init__(self, invoke: Callable[[bytes], Awaitable[Outcome]]) -> None:
        self._invoke = invoke

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body = await _read(receive)
        reply = _message(413, "Request Entity Too Large") if body is None else await self._reply(scope, body)
        if isinstance(reply, AnswerStream):
            await _relay(reply, send)
            return
        headers = [(b"content-length", str(len(reply.body)).encode()), *reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Mapping[str, Any], body: bytes) -> _Reply | AnswerStream:
        event = json.dumps(to_event(scope, body), ensure_ascii=False).encode("utf-8")
        if len(event) > PAYLOAD_BYTES:
            return _message(413, "Request Entity Too Large")
        outcome = await self._invoke(event)
        if outcome.stream is not None:
            return outcome.stream
        if outcome.kind != "response":
            # The service shows a caller nothing of a function's error or time-out.
            return _Reply(status=502, headers=[(b"content-type", b"application/json")], body=b"Internal Server Error")
        return from_payload(outcome.payload)


async def _relay(stream: AnswerStream, send: Any) -> None:
    """Send a streamed answer on as it comes, to its end even where nobody listens any more: the function isn't told.

    Raises BrokenStream in mid-answer, which leaves the client without its end.
    """
    chunks = aiter(stream)
    received = b""
    try:
        while _DELIMITER not in received:
            received += await anext(chunks)
        head, _, first = received.partition(_DELIMITER)
        start = from_payload(head)
    except (BrokenStream, StopAsyncIteration):
        start, first = _message(502, "Internal Server Error"), b""
    await send({"type": "http.response.start", "status": start.status, "headers": start.headers})
    await send({"type": "http.response.body", "body": first or start.body, "more_body": True})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _read(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> bytes | None:
    """The whole body, or None where it alone is over the limit (read to its end all the same, to be answered)."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= PAYLOAD_BYTES:
            chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks) if size <= PAYLOAD_BYTES else None


def _message(status: int, text: str) -> _Reply:
    return _Reply(
        status=status,
        headers=[(b"content-type", b"application/json")],
        body=json.dumps({"Message": text}).encode("utf-8"),
    )


def to_event(scope: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """The payload 2.0 event of an ASGI request: names in lower case, repeated headers joined, cookies apart."""
    headers, cookies = _headers(scope)
    host = headers.get("host", "127.0.0.1").partition(":")[0]
    now = datetime.now(UTC)
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": scope["method"],
                "path": unquote(path),
                "protocol": f"HTTP/{scope['http_version']}",
                "sourceIp": scope["client"][0] if scope.get("client") else "127.0.0.1",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(time.time() * 1000),
        },
        **_encoded(body, headers.get("content-type", "")),
    }
    if query:
        event["queryStringParameters"] = _joined(parse_qsl(query, keep_blank_values=True))
    if cookies:
        event["cookies"] = cookies
    return event


def _headers(scope: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    cookies = [part for name, value in pairs if name == "cookie" for part in value.split("; ")]
    headers = _joined([pair for pair in pairs if pair[0] != "cookie"])
    client = scope.get("client") or ("127.0.0.1", 0)
    server = scope.get("server") or ("127.0.0.1", 80)
    # The service writes these itself, whatever the client sent.
    headers |= {
        "x-forwarded-for": client[0],
        "x-forwarded-port": str(server[1]),
        "x-forwarded-proto": "http",
        "x-amzn-trace-id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}",
    }
    return headers, cookies


def _joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _encoded(body: bytes, content_type: str) -> dict[str, Any]:
    """Text as it is, everything else in base64."""
    if not body:
        return {"isBase64Encoded": False}
    kind = content_type.lower().partition(";")[0].strip()
    if kind.startswith(_TEXT) or kind.endswith(("+json", "+xml")):
        try:
            return {"body": body.decode("utf-8"), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    return {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}


def from_payload(payload: bytes) -> _Reply:
    """A payload with a `statusCode` is an answer; any other JSON is the body of a 200. Malformed ones are a 502."""
    try:
        answer = json.loads(payload)
        if not isinstance(answer, dict) or "statusCode" not in answer:
            return _Reply(status=200, headers=[(b"content-type", b"application/json")], body=payload)
        headers = {str(name).lower(): str(value) for name, value in answer.get("headers", {}).items()}
        body = answer.get("body") or ""
        encoded = answer.get("isBase64Encoded")
        return _Reply(
            status=int(answer["statusCode"]),
            headers=[
                *(_pair(name, value) for name, value in _with_type(headers).items()),
                *(_pair("set-cookie", cookie) for cookie in answer.get("cookies", ())),
            ],
            body=base64.b64decode(body, validate=True) if encoded else body.encode("utf-8"),
        )
    except (AttributeError, TypeError, ValueError, binascii.Error):
        return _message(502, "Internal Server Error")


def _with_type(headers: dict[str, str]) -> dict[str, str]:
    """The service counts the bytes itself, and says JSON where the function says nothing."""
    return {"content-type": "application/json"} | {
        name: value for name, value in headers.items() if name != "content-length"
    }


def _pair(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode("latin-1"), value.encode("latin-1")
