"""HTTP/1.1 as a Lambda Runtime API speaks it: a runtime client's requests in, answers out, streams by the chunk.

Owns the bytes. Refuses to know invocations and instances.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from msgspec import Struct

_REASONS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 413: "Payload Too Large", 500: "Container Error",
}  # fmt: skip


class Head(Struct, frozen=True, kw_only=True):
    """A request line and its headers, names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def streamed(self) -> bool:
        """Whether the body is an answer in streaming mode."""
        return self.headers.get("lambda-runtime-function-response-mode", "").lower() == "streaming"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next request, or None where the client closed the connection between two."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    line, *rest = text.splitlines()
    method, path, _ = line.split(" ", 2)
    return Head(method=method, path=path, headers=_fields(rest))


def _fields(rows: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows if row)}


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """A whole body, however it is framed."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        return b"".join([chunk async for chunk in read_chunks(reader, {})])
    return await reader.readexactly(int(head.headers.get("content-length", "0")))


async def read_chunks(reader: asyncio.StreamReader, trailers: dict[str, str]) -> AsyncIterator[bytes]:
    """Each chunk as it comes; `trailers` is filled after the last."""
    while size := int((await _line(reader)).split(b";")[0], 16):
        chunk = await reader.readexactly(size + 2)
        yield chunk[:-2]
    rows = []
    while row := (await _line(reader)).strip():
        rows.append(row.decode("latin-1"))
    trailers.update(_fields(rows))


async def _line(reader: asyncio.StreamReader) -> bytes:
    # Not readline: what is cut off by the end of the connection must not pass for a line.
    return await reader.readuntil(b"\n")


def response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer in JSON."""
    rows = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{head}\r\n".encode("latin-1") + body
