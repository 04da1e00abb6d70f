"""What the on-prem host's HTTP/1.1 does with bytes that clients and applications may send."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import uvicorn
from uvicorn.server import ServerState

from buspass_onprem.http1 import HIGH, Connection

DATE = (b"date", b"Fri, 27 Nov 2026 04:33:46 GMT")


@asynccontextmanager
async def served(app, *, idle=75):
    """The application on a loopback port: what is asked and told there, and uvicorn's state."""
    config, state = uvicorn.Config(app, lifespan="off", timeout_keep_alive=idle, log_config=None), ServerState()
    config.load()
    state.default_headers = [DATE]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(config, state, {}, loop), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], state
    finally:
        server.close()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def told(port, data, *, end=True):
    """Send bytes, and give all that comes until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if end:
        writer.write(b"GET /end HTTP/1.1\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        got = await reader.read()
    writer.close()
    return got


async def body_of(receive):
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


async def echo(scope, receive, send):
    """Say what was asked."""
    said = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} ".encode() + (await body_of(receive))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


def post(path, body, *headers):
    head = [b"POST " + path + b" HTTP/1.1", b"content-length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(head)


async def test_requests_in_one_packet_are_answered_in_their_order():
    slow = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/1":
            asyncio.get_running_loop().call_later(0.05, slow.set)
            await slow.wait()
        await echo(scope, receive, send)

    async with served(app) as (port, state):
        got = await told(port, post(b"/1", b"one") + post(b"/2?q=%20", b"two") + post(b"/%c3%a4", b""))
        assert state.total_requests == 4
    answers = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert answers == [b"POST /1  one", b"POST /2 q=%20 two", "POST /ä  ".encode(), b"GET /end  "]
    assert got.count(b"date: Fri, 27 Nov 2026 04:33:46 GMT\r\n") == 4
    assert got.count(b"connection: close\r\n") == 1


async def test_a_repeated_header_is_one_and_names_are_lower():
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["headers"]))
        await echo(scope, receive, send)

    async with served(app) as (port, _):
        await told(port, b"GET / HTTP/1.1\r\nX-A: 1\r\nCookie: a\r\nx-a: 2\r\ncookie: b\r\n\r\n")
    assert seen[0] == {b"x-a": b"1,2", b"cookie": b"a; b"}


async def test_an_answer_of_unknown_length_comes_in_chunks_and_to_http_1_0_until_the_end():
    async def app(scope, receive, send):
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"ab", b"", b"cde"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with served(app) as (port, _):
        new = await told(port, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", end=False)
        old = await told(port, b"GET / HTTP/1.0\r\n\r\n", end=False)
    assert new.endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
    assert old.endswith(b"connection: close\r\n\r\nabcde")


async def test_head_gets_the_head_alone_and_the_connection_goes_on():
    async with served(echo) as (port, _):
        got = await told(port, b"HEAD /h HTTP/1.1\r\n\r\n")
    first, _, rest = got.partition(b"\r\n\r\n")
    assert b"content-length: 9" in first
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_what_is_no_http_is_refused_and_closed():
    async with served(echo) as (port, _):
        for wrong in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
            got = await told(port, wrong, end=False)
            assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n"), wrong
            assert got.endswith(b"connection: close\r\n\r\nInvalid HTTP request received.")
        two = b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        assert (await told(port, two, end=False)).startswith(b"HTTP/1.1 400 ")


async def test_no_header_of_an_answer_can_become_two():
    given = {}

    async def app(scope, receive, send):
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [tuple(given["header"])]})
        await send({"type": "http.response.body", "body": b"never"})

    async with served(app) as (port, _):
        for header in (
            (b"a", b"1\r\nx: 2"),
            (b"a", b"1\n"),
            (b"a", b"\x00"),
            (b"a: b", b"1"),
            (b"", b"1"),
            (b"a\r", b"1"),
        ):
            given["header"] = header
            got = await told(port, b"GET / HTTP/1.1\r\n\r\n", end=False)
            assert got == b"", header
        given["header"] = (b"A", "ä\t".encode())
        got = await told(port, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", end=False)
        assert "\r\na: ä\t\r\n".encode() in got


async def test_an_application_that_fails_says_500_once_and_cuts_what_it_began():
    async def app(scope, receive, send):
        if scope["path"] != "/before":
            size = {"/short": b"9", "/long": b"2"}.get(scope["path"], b"3")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
            await send({"type": "http.response.body", "body": b"abc", "more_body": scope["path"] == "/midway"})
        if scope["path"] != "/silent":
            raise ValueError("a secret")

    async with served(app) as (port, _):
        before = await told(port, post(b"/before", b""), end=False)
        assert before.startswith(b"HTTP/1.1 500 ")
        assert before.endswith(b"connection: close\r\n\r\nInternal Server Error")
        assert (await told(port, post(b"/midway", b""), end=False)).endswith(b"\r\n\r\nabc")
        assert (await told(port, post(b"/short", b""), end=False)).endswith(b"\r\n\r\nabc")
        assert (await told(port, post(b"/long", b""), end=False)).endswith(b"\r\n\r\n")


async def test_a_client_that_waits_for_100_gets_it_when_the_body_is_asked_for():
    async with served(echo) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /e HTTP/1.1\r\ncontent-length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.readuntil(b"POST /e  ab")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_an_upgrade_is_answered_as_if_none_had_been_asked_for_and_nothing_after_it_is_a_request():
    wanted = b"connection: upgrade", b"upgrade: websocket"
    async with served(echo) as (port, state):
        got = await told(port, post(b"/u", b"GET /smuggled HTTP/1.1\r\n\r\n", *wanted))
        assert state.total_requests == 1
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert got.endswith(b"connection: close\r\n\r\nPOST /u  ")


async def test_an_unused_connection_is_closed_and_a_used_one_is_not():
    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        await echo(scope, receive, send)

    async with served(app, idle=0.1) as (port, _):
        got = await told(port, post(b"/quick", b"") + post(b"/slow", b""), end=False)
    assert b"POST /slow" in got


async def test_whoever_reads_is_told_that_the_client_has_gone():
    told_of = asyncio.Queue()

    async def app(scope, receive, send):
        if scope["path"] == "/whole":
            await body_of(receive)
        told_of.put_nowait(await body_of(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})  # nobody is there, and none minds
        await send({"type": "http.response.body", "body": b"x"})

    async with served(app) as (port, state):
        for request in (post(b"/whole", b"ab"), post(b"/part", b"ab")[:-1]):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            while not state.tasks:
                await asyncio.sleep(0.001)
            writer.close()
            async with asyncio.timeout(20):
                assert await told_of.get() is None
        assert not state.connections


async def test_a_large_body_waits_for_the_application_and_a_large_answer_for_the_client():
    size, begun, go = 20 * HIGH, asyncio.Event(), asyncio.Event()
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        begun.set()
        await go.wait()
        body = await body_of(receive)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (50 * size))]}
        )
        for number in range(50):
            await send({"type": "http.response.body", "body": body, "more_body": number < 49})
            sent += 1

    async with served(app) as (port, state):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"/", bytes(size)))
        await begun.wait()
        (connection,) = state.connections
        async with asyncio.timeout(20):
            while connection.transport.is_reading():
                await asyncio.sleep(0.001)
        go.set()
        async with asyncio.timeout(20):
            while not connection.full:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert sent < 50
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(50 * size)) == 50 * size
        writer.close()


async def test_a_stop_lets_an_answer_end_and_closes_what_waits():
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await echo(scope, receive, send)

    async with served(app) as (port, state):
        idle, other = await asyncio.open_connection("127.0.0.1", port)
        busy = asyncio.create_task(told(port, post(b"/b", b""), end=False))
        async with asyncio.timeout(20):
            while not state.tasks or len(state.connections) < 2:
                await asyncio.sleep(0.001)
            for connection in list(state.connections):
                connection.shutdown()
            assert await idle.read() == b""
            go.set()
            got = await busy
        assert b"connection: close\r\n" in got
        assert got.endswith(b"POST /b  ")
        other.close()
