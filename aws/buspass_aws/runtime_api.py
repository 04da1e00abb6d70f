"""The Lambda Runtime API from a runtime's side: one connection, one invocation after another, answers in chunks.

Owns the HTTP/1.1 of that conversation, on asyncio's streams, and what a lost connection means. Refuses to know events,
ASGI and what an answer holds.
Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and runtimes-custom.html (response streaming)
"""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

VERSION: Final = "/2018-06-01/runtime"
CONTENT_TYPE: Final = "application/vnd.awslambda.http-integration-response"
"""An HTTP answer: a JSON prelude, eight NULs, the body."""
_ERROR_TYPE: Final = "Lambda-Runtime-Function-Error-Type"
_ERROR_BODY: Final = "Lambda-Runtime-Function-Error-Body"
_EVENT_BYTES: Final = 2**16  # of a line or a head; a body is read by its length


class RuntimeApiError(Exception):
    """The Runtime API is out of reach, or says that this instance is beyond saving: the process must end."""


class AnswerLost(ConnectionError):  # noqa: N818 - says what happened
    """The service stopped taking an answer, as after the invocation's time-out. The next one can be asked for."""


class Invocation(Struct, frozen=True, kw_only=True):
    """What `next` gives. `deadline`: Unix time in seconds; `trace`: the X-Ray header, or empty; `event`: JSON."""

    id: str
    deadline: float
    trace: str
    event: bytes


class _Reply(Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


def to_error(error: BaseException) -> tuple[str, bytes]:
    """An error as the API wants it: its type (`Runtime.NAME`) and the JSON document."""
    kind = f"Runtime.{type(error).__name__}"
    lines = traceback.format_exception(error)
    return kind, json.dumps({"errorType": kind, "errorMessage": str(error), "stackTrace": lines}).encode("utf-8")


class RuntimeApi:
    """A client of one Runtime API. One call at a time."""

    def __init__(self, address: str) -> None:
        """`address`: HOST:PORT, the value of AWS_LAMBDA_RUNTIME_API."""
        self._address = address
        self._host, _, port = address.rpartition(":")
        self._port = int(port) if self._host else 80
        self._host = self._host or address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def next(self) -> Invocation:
        """Wait for an invocation, without a time-out: the instance may be frozen meanwhile. Raises RuntimeApiError."""
        try:
            reply = await self._call("GET", "/invocation/next")
        except AnswerLost:
            # A connection kept over a freeze may be dead; nothing was handed over on it.
            reply = await self._once_more("GET", "/invocation/next")
        if reply.status != 200:
            raise RuntimeApiError(f"invocation/next answered {reply.status}")
        return Invocation(
            id=reply.headers["lambda-runtime-aws-request-id"],
            deadline=int(reply.headers["lambda-runtime-deadline-ms"]) / 1000,
            trace=reply.headers.get("lambda-runtime-trace-id", ""),
            event=reply.body,
        )

    async def fail(self, invocation: str, error: BaseException) -> None:
        """End an invocation of which nothing was sent. Raises AnswerLost, RuntimeApiError."""
        kind, document = to_error(error)
        self._judge(await self._call("POST", f"/invocation/{invocation}/error", document, {_ERROR_TYPE: kind}))

    async def fail_init(self, error: BaseException) -> None:
        """Say why this instance does not come up. Raises AnswerLost, RuntimeApiError."""
        kind, document = to_error(error)
        self._judge(await self._call("POST", "/init/error", document, {_ERROR_TYPE: kind}))

    async def begin(self, invocation: str) -> None:
        """Begin a streamed answer. Raises RuntimeApiError where there is no connection to be had."""
        _, writer = await self._connection()
        writer.write(
            self._head(
                "POST",
                f"/invocation/{invocation}/response",
                {
                    "Content-Type": CONTENT_TYPE,
                    "Lambda-Runtime-Function-Response-Mode": "streaming",
                    "Transfer-Encoding": "chunked",
                    "Trailer": f"{_ERROR_TYPE}, {_ERROR_BODY}",
                },
            )
        )

    async def chunk(self, data: bytes) -> None:
        """Send some bytes now, and wait while the service takes no more. Raises AnswerLost."""
        assert self._writer is not None
        assert self._reader is not None
        if not data:
            return  # an empty chunk would end the answer
        if self._reader.at_eof():
            self._drop()
            raise AnswerLost("the Runtime API closed the connection")
        self._writer.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        try:
            await self._writer.drain()
        except ConnectionError as error:
            self._drop()
            raise AnswerLost(str(error)) from error

    async def end(self, error: BaseException | None = None) -> None:
        """End the answer; with an error, which cuts it, in its trailers. Raises AnswerLost, RuntimeApiError."""
        assert self._writer is not None
        trailers = ""
        if error is not None:
            kind, document = to_error(error)
            trailers = f"{_ERROR_TYPE}: {kind}\r\n{_ERROR_BODY}: {base64.b64encode(document).decode('ascii')}\r\n"
        self._writer.write(f"0\r\n{trailers}\r\n".encode("ascii"))
        self._judge(await self._reply())

    def close(self) -> None:
        """Close the connection."""
        self._drop()

    def _judge(self, reply: _Reply) -> None:
        if reply.status >= 500:
            raise RuntimeApiError(f"the Runtime API answered {reply.status}: {reply.body[:200]!r}")
        if reply.status >= 400:
            raise AnswerLost(f"the Runtime API answered {reply.status}: {reply.body[:200]!r}")

    async def _once_more(self, method: str, path: str) -> _Reply:
        try:
            return await self._call(method, path)
        except AnswerLost as error:
            raise RuntimeApiError(f"the Runtime API at {self._address} hangs up: {error}") from error

    async def _call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> _Reply:
        _, writer = await self._connection()
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))} if method == "POST" else {}
        writer.write(self._head(method, path, {**length, **(headers or {})}) + body)
        return await self._reply()

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        rows = {"Host": self._address, "User-Agent": "buspass", **headers}
        text = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        return f"{method} {VERSION}{path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is not None and self._reader.at_eof():
            self._drop()
        if self._reader is None or self._writer is None:
            try:
                opened = await asyncio.open_connection(self._host, self._port, limit=_EVENT_BYTES)
            except OSError as error:
                raise RuntimeApiError(f"the Runtime API at {self._address} is out of reach: {error}") from error
            self._reader, self._writer = opened
        return self._reader, self._writer

    async def _reply(self) -> _Reply:
        assert self._reader is not None
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *rows = head.splitlines()
            pairs = (row.partition(":") for row in rows if row)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await self._body(headers)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self._drop()
            raise AnswerLost(f"the Runtime API hung up: {error}") from error
        if headers.get("connection", "").lower() == "close":
            self._drop()
        return _Reply(status=int(status.split(" ", 2)[1]), headers=headers, body=body)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        assert self._reader is not None
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        chunks: list[bytes] = []
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunks.append((await self._reader.readexactly(size + 2))[:-2])
        while (await self._reader.readuntil(b"\r\n")).strip():
            pass  # trailers
        return b"".join(chunks)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def prelude(status: int, headers: Mapping[str, str], cookies: list[str]) -> bytes:
    """What comes before the body: the answer's head and its end mark."""
    head: dict[str, Any] = {"statusCode": status, "headers": dict(headers), "cookies": cookies}
    return json.dumps(head).encode("utf-8") + bytes(8)
