"""HTTP/1.1 on a loopback port for simulated services, down to closing a connection instead of answering.

Owns bytes and connections. Refuses to know what is asked. An ASGI server always answers something; a lost answer needs
the socket itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from msgspec import Struct

_LOOPBACK: Final = "127.0.0.1"


class Asked(Struct, frozen=True):
    """A request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""


class Answer(Struct, frozen=True):
    """An answer; its length is said for it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


type Service = Callable[[Asked], Awaitable[Answer | None]]


@contextlib.asynccontextmanager
async def listening(service: Service) -> AsyncIterator[str]:
    """Serve on a free port while the block runs; yields `http://127.0.0.1:PORT`. None closes the connection."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while (asked := await _asked(reader)) is not None:
                answer = await service(asked)
                if answer is None:
                    break
                writer.write(_bytes(answer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the block ended
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, _LOOPBACK, 0)
    try:
        yield f"http://{_LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in [*connections]:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


async def _asked(reader: asyncio.StreamReader) -> Asked | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    return Asked(method, path, headers, body, query)


def _bytes(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"content-length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode() + answer.body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Retry With" if status == 449 else "Other"
