"""What a connection may send before anybody knows who it is, and leave lying: so much, not for ever. Over real sockets."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn

from buspass_onprem import intake
from buspass_onprem.intake import HEAD, TOO_LARGE, Intake

PIECE = b"a" * 16_000


async def application(scope, receive, send):
    """Tell how long the body was; `/refuse` reads nothing, `/slow` takes its time, two paths tell more than that."""
    if scope["path"] in LONG:
        await LONG[scope["path"]](receive, send)
        return
    size, more = 0, scope["path"] != "/refuse"
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(2)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def endless(receive, send):
    """Send until the client is gone."""
    await receive()
    gone = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await asyncio.sleep(0)


async def long(_receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % 20_000_000)]})
    await send({"type": "http.response.body", "body": bytes(20_000_000)})


LONG = {"/endless": endless, "/long": long}


@pytest.fixture
async def server():
    """A server of uvicorn's with our protocol, on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, http=Intake, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
def port(server):
    return server.servers[0].sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def connected(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader, writer
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def flood(writer, first, piece, *, most):
    """Send, and go on until nobody takes it any more; say how much that was."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        while sent < most:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            await asyncio.sleep(0)
    return sent


async def rest(reader):
    """Give all that comes until the server hangs up; it must."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(65_536), 60):
            got += part
    return got


async def answer(reader):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
    return head.split(b" ", 2)[1], await asyncio.wait_for(reader.readexactly(length), 60)


HEADS = {
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: " + b"a" * 995 + b"\r\n"),
    "one long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", PIECE),
    "a long name": (b"GET / HTTP/1.1\r\nHost: x\r\n", PIECE),
    "a long address": (b"GET /", PIECE),
}


@pytest.mark.parametrize(("first", "piece"), HEADS.values(), ids=HEADS)
async def test_a_head_without_end_is_refused(port, first, piece):
    async with connected(port) as (reader, writer):
        sent = await flood(writer, first, piece, most=50_000_000)
        assert sent < 50_000_000
        assert await rest(reader) in {TOO_LARGE, b""}, "said where it still arrives, and hung up in any case"


@pytest.mark.parametrize("path", [b"/", b"/refuse"])
async def test_trailers_without_end_are_refused(port, monkeypatch, path):
    monkeypatch.setattr(intake, "REFUSED", 10 * HEAD)
    start = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: "
    async with connected(port) as (reader, writer):
        assert await flood(writer, start, PIECE, most=50_000_000) < 50_000_000
        await rest(reader)


async def test_what_is_sent_on_after_an_answer_is_not_taken_for_ever(port, monkeypatch):
    monkeypatch.setattr(intake, "REFUSED", 10 * HEAD)
    start = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
    async with connected(port) as (reader, writer):
        writer.write(start)
        assert await answer(reader) == (b"200", b"0")
        assert await flood(writer, b"", PIECE, most=50_000_000) < 50_000_000
        assert not await rest(reader)


async def test_a_long_head_in_pieces_is_taken_again_and_again(port):
    async with connected(port) as (reader, writer):
        for _ in range(4):
            for piece in (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: " + PIECE + b"\r\n", b"X-B: " + PIECE, b"\r\n\r\n"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            assert await answer(reader) == (b"200", b"0")


async def test_a_body_may_be_long_and_come_in_small_chunks(port):
    async with connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(20_000):
            writer.write(b"a\r\n0123456789\r\n")
            if number % 100 == 0:
                await writer.drain()
        writer.write(b"0\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n")
        assert await answer(reader) == (b"200", b"200000")
        for _ in range(500):
            writer.write(b"a" * 10_000)
            await writer.drain()
        assert await answer(reader) == (b"200", b"5000000")


UNFINISHED = {
    "nothing": b"",
    "a part of a head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "a part of a body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\na",
    "a part of the next head": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /",
}


@pytest.mark.parametrize("begun", UNFINISHED.values(), ids=UNFINISHED)
async def test_who_does_not_finish_a_request_is_hung_up_on(port, monkeypatch, begun):
    monkeypatch.setattr(intake, "HEAD_TIME", 0.2)
    monkeypatch.setattr(intake, "BODY_TIME", 0.2)
    async with connected(port) as (reader, writer):
        writer.write(begun)
        await writer.drain()
        got = await rest(reader)
        assert got.count(b" 200 OK") == begun.count(b"\r\n\r\n") - begun.count(b"POST")


async def test_an_answer_may_take_longer_than_its_question(port, monkeypatch):
    monkeypatch.setattr(intake, "HEAD_TIME", 1.5)
    monkeypatch.setattr(intake, "BODY_TIME", 1.5)

    async def asked(*pieces):
        async with connected(port) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.05)
            assert (await answer(reader))[0] == b"200"

    await asyncio.gather(
        asked(b"GET /slow HTTP/1.1\r\nHost: x\r\n", b"\r\n"),
        asked(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n", b"\r\na", b"b"),
    )


@pytest.mark.parametrize("path", LONG)
async def test_an_answer_that_nobody_takes_does_not_wait_for_ever(server, port, monkeypatch, path):
    monkeypatch.setattr(intake, "TAKE_TIME", 0.2)
    monkeypatch.setattr(server.config, "timeout_keep_alive", 0.2)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(60):
            while not server.server_state.connections:
                await asyncio.sleep(0.01)
            while server.server_state.connections or server.server_state.tasks:
                await asyncio.sleep(0.01)
