"""What an on-prem host's own way out does with an upstream's bytes, on uvloop and on asyncio's loop.

What every adapter does alike is tested with the others, in tests/core/test_outbound_adapters.py.
"""

import asyncio
import contextlib
import inspect
import socket
import ssl
import subprocess
import threading
import time

import pytest
import uvloop

from buspass.ports.outbound import Ambiguous, NotSent, Request, TimedOut
from buspass_onprem import outbound as direct
from buspass_onprem import outbound_reach as reach
from buspass_onprem.outbound import DirectOutbound
from buspass_onprem.outbound_connection import HEAD
from buspass_onprem.outbound_turns import Turns

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = object()
"""The connection is closed."""
SECONDS = 60.0
"""For what comes at once: a busy machine may take its time."""


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def on_both(test):
    """Run a test on each event loop, with a way out that is closed afterwards."""

    def run(loop, **given):
        async def main():
            outbound = DirectOutbound()
            try:
                await test(outbound, **given)
            finally:
                await outbound.close()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())

    given = [each for name, each in inspect.signature(test).parameters.items() if name != "outbound"]
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__signature__ = test.__name__, inspect.Signature([loop, *given])
    return pytest.mark.parametrize("loop", LOOPS)(run)


class Upstream:
    """Says to the nth request over all connections the nth line of its script, a line being pieces; the last again."""

    def __init__(self, *script, tls=None):
        self.script, self.tls = script, tls
        self.requests, self.connections = [], 0
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _talk(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                line = self.script[min(len(self.requests), len(self.script)) - 1]
                for piece in line if isinstance(line, tuple) else (line,):
                    if piece is END:
                        writer.close()
                        return
                    if isinstance(piece, asyncio.Event):
                        await piece.wait()
                    else:
                        writer.write(piece)
                        await writer.drain()

    def asking(self, path="/", **options):
        scheme = "https" if self.tls else "http"
        url = f"{scheme}://127.0.0.1:{self.port}{path}"
        return Request(**{"method": "GET", "url": url, "timeout": SECONDS, **options})


async def settled():
    await asyncio.sleep(0.02)  # what was written on loopback has come


async def until(what):
    async with asyncio.timeout(SECONDS):
        while not what():
            await asyncio.sleep(0.005)


@on_both
async def test_one_connection_serves_one_request_after_the_other(outbound):
    async with Upstream(OK) as upstream:
        for _ in range(5):
            assert (await outbound.send(upstream.asking())).body == b"ok"
        streamed = await outbound.open(upstream.asking())
        assert [piece async for piece in streamed.chunks] == [b"ok"]
        assert (await outbound.send(upstream.asking())).body == b"ok"
    assert upstream.connections == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((END,), "closed before"),
        ((b"SMTP ready\r\n\r\n",), "Invalid|Expected"),
        ((b"HTTP/1.1 200 OK\r\ncontent-le", END), "closed before"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", END), "closed before"),
        ((CHUNKED + b"5\r\nab", END), "closed before"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",), "broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",), "broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx y: 1\r\n\r\nok",), "broke"),
        ((b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",), "broke"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"a" * HEAD,), "more than"),
        ((b"HTTP/1.1 102 Processing\r\n\r\n" * 4000,), "more than"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n",), "larger than the 1000"),
        ((CHUNKED + b"1388\r\n" + b"a" * 5000,), "larger than the 1000"),
        ((CHUNKED + b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n",), "larger than the 1000"),
    ],
)
@on_both
async def test_what_is_no_whole_answer_is_ambiguous_and_its_connection_is_not_used_again(outbound, answer, why):
    async with Upstream(answer, OK) as upstream:
        with pytest.raises(Ambiguous, match=why) as caught:
            await outbound.send(upstream.asking(limit=1000))
        assert not isinstance(caught.value, TimedOut)
        assert (await outbound.send(upstream.asking())).body == b"ok"
    assert upstream.connections == 2


@on_both
async def test_an_interim_answer_is_none(outbound):
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Made\r\ncontent-length: 2\r\nb: 2\r\n\r\nok"
    async with Upstream((answer[:30], answer[30:])) as upstream:
        response = await outbound.send(upstream.asking())
    assert (response.status, response.headers, response.body) == (201, {"content-length": "2", "b": "2"}, b"ok")


@on_both
async def test_an_answer_may_end_with_its_connection(outbound):
    async with Upstream((b"HTTP/1.0 200 OK\r\n\r\nhal", b"f", END)) as upstream:
        assert (await outbound.send(upstream.asking())).body == b"half"
        streamed = await outbound.open(upstream.asking())
        assert b"".join([piece async for piece in streamed.chunks]) == b"half"


@pytest.mark.parametrize("more", [OK, b"HTTP/1.1 200 OK\r\n", b"x"])
@on_both
async def test_what_comes_after_an_answer_is_not_taken_for_the_next(outbound, more):
    async with Upstream(OK + more, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext") as upstream:
        assert (await outbound.send(upstream.asking())).body == b"ok"
        await settled()
        assert (await outbound.send(upstream.asking())).body == b"next"
    assert upstream.connections == 2


@pytest.mark.parametrize("late", [OK, b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"])
@on_both
async def test_what_comes_between_two_requests_is_not_taken_for_an_answer(outbound, late):
    gate = asyncio.Event()
    async with Upstream((OK, gate, late), b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext") as upstream:
        assert (await outbound.send(upstream.asking())).body == b"ok"
        gate.set()
        await settled()
        assert (await outbound.send(upstream.asking())).body == b"next"
    assert upstream.connections == 2


@pytest.mark.parametrize("says", [b"", OK])
@on_both
async def test_a_connection_that_closed_or_spoke_while_the_loop_was_busy_is_not_used(outbound, says):
    """The loop has not heard of it, the socket has: a thread serves while this one's loop stands still."""
    heard = []

    def serve(listening):
        for _ in range(2):
            connection, _ = listening.accept()
            heard.append(connection.recv(65_536))
            connection.sendall(OK)
            if len(heard) == 1:
                told.wait(SECONDS)
                if says:
                    connection.sendall(says)
                else:
                    connection.close()
                done.set()
            kept.append(connection)

    told, done, kept = threading.Event(), threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        await outbound.send(Request(method="GET", url=url, timeout=SECONDS))
        told.set()
        assert done.wait(SECONDS)
        time.sleep(0.02)  # the loop stands still: that is the point
        assert (await outbound.send(Request(method="GET", url=url, timeout=SECONDS))).body == b"ok"
        serving.join(SECONDS)
    for connection in kept:
        connection.close()
    assert len(heard) == 2


@on_both
async def test_trailers_are_no_headers_and_none_of_the_next_answer(outbound):
    trailed = CHUNKED + b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"
    async with Upstream(trailed, OK) as upstream:
        for _ in range(2):
            response = await outbound.send(upstream.asking())
            assert (response.body, "x-trailer" in response.headers) == (b"ok", False)
    assert upstream.connections == 2


@on_both
async def test_a_server_that_says_close_or_has_not_read_all_gets_no_second_request(outbound):
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    async with Upstream(closing) as upstream:
        for _ in range(2):
            await outbound.send(upstream.asking())
    assert upstream.connections == 2
    early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"
    async with Upstream((early, asyncio.Event()), OK) as upstream:
        large = upstream.asking(method="POST", body=b"a" * 20_000_000)
        assert (await outbound.send(large)).status == 413
        assert (await outbound.send(upstream.asking())).status == 200
    assert upstream.connections == 2


@on_both
async def test_a_stream_gives_its_first_chunk_alone_and_then_together_what_came_together(outbound):
    gate = asyncio.Event()
    pieces = (CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n", gate, b"1\r\nd\r\n0\r\n\r\n")
    async with Upstream(pieces) as upstream:
        streamed = await outbound.open(upstream.asking())
        assert [await anext(streamed.chunks), await anext(streamed.chunks)] == [b"a", b"bc"]
        gate.set()
        assert [piece async for piece in streamed.chunks] == [b"d"]


@on_both
async def test_a_stream_that_nobody_reads_is_held_back_and_comes_whole_later(outbound):
    size = 30_000_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"a" * size
    async with Upstream(answer) as upstream:
        streamed = await outbound.open(upstream.asking(limit=size))
        await asyncio.sleep(0.2)
        first = await anext(streamed.chunks)
        assert len(first) < 2_000_000
        assert len(first) + sum([len(piece) async for piece in streamed.chunks]) == size
        assert (await outbound.send(upstream.asking(limit=size))).status == 200
    assert upstream.connections == 1


@pytest.mark.parametrize("begun", [False, True])
@on_both
async def test_a_stream_that_is_closed_lets_its_connection_go_though_nobody_began_to_read(outbound, begun):
    async with Upstream((CHUNKED + b"1\r\na\r\n", asyncio.Event()), OK) as upstream:
        streamed = await outbound.open(upstream.asking())
        if begun:
            await anext(streamed.chunks)
        await streamed.chunks.aclose()
        await until(lambda: not outbound._open)
        with pytest.raises(StopAsyncIteration):
            await anext(streamed.chunks)


@on_both
async def test_whoever_is_cancelled_or_late_leaves_no_connection_behind(outbound):
    silence = (asyncio.Event(),)
    async with Upstream(silence, OK, silence, OK, silence) as upstream:
        sending = asyncio.create_task(outbound.send(upstream.asking()))
        await until(lambda: upstream.requests)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await outbound.send(upstream.asking())  # leaves a connection: making one takes none of the next one's time
        with pytest.raises(TimedOut, match="no whole answer"):
            await outbound.send(upstream.asking(timeout=0.3))
        await until(lambda: len(upstream.requests) == 3)
        await outbound.send(upstream.asking())
        with pytest.raises(TimedOut, match="no beginning"):
            await outbound.open(upstream.asking(timeout=0.3))
        await until(lambda: not outbound._open)


@on_both
async def test_a_host_that_shuts_down_ends_what_is_under_way(outbound):
    async with Upstream((asyncio.Event(),)) as upstream:
        sending = asyncio.create_task(outbound.send(upstream.asking()))
        await until(lambda: upstream.requests)
        await outbound.close()
        with pytest.raises(Ambiguous, match="broke"):
            await sending
        with pytest.raises(NotSent, match="shutting down"):
            await outbound.send(upstream.asking())


@on_both
async def test_a_connection_that_is_made_while_the_host_shuts_down_is_not_used(outbound, monkeypatch):
    gate, real = asyncio.Event(), reach.resolved

    async def resolved(host, port):
        await gate.wait()
        return await real(host, port)

    monkeypatch.setattr(reach, "resolved", resolved)
    async with Upstream(OK) as upstream:
        sending = asyncio.create_task(outbound.send(upstream.asking()))
        await settled()
        await outbound.close()
        gate.set()
        with pytest.raises(NotSent, match="shutting down"):
            await sending
    assert not upstream.requests


@on_both
async def test_what_nobody_uses_is_closed_after_a_while(outbound, monkeypatch):
    monkeypatch.setattr(direct, "IDLE", 0.05)
    async with Upstream(OK) as upstream, asyncio.timeout(SECONDS):
        await outbound.send(upstream.asking())
        assert outbound._open
        while outbound._open:
            await asyncio.sleep(0.01)
        assert (await outbound.send(upstream.asking())).body == b"ok"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "HEAD"},
        {"headers": {"Host": "elsewhere"}},
        {"headers": {"transfer-encoding": "chunked"}},
        {"path": "/a/../b"},
        {"path": "/a/%2E%2e"},
        {"path": "/ü"},
        {"path": "/a b"},
        {"path": "/a#b"},
        {"url": "http://user:word@127.0.0.1:1/"},
        {"url": "http://127.1:1/"},
        {"url": "HTTP://127.0.0.1:1/"},
        {"url": "http://127.0.0.1:0/"},
        {"url": "http://127.0.0.1:99999/"},
        {"url": "http://bücher.example/"},
        {"url": "http://127.0.0.1?a=b"},
        {"url": "ftp://127.0.0.1/"},
    ],
)
@on_both
async def test_what_is_not_plain_goes_the_other_way(outbound, change):
    class Other:
        async def send(self, request):
            return request

        async def close(self):
            pass

    outbound._other = Other()
    request = Upstream()
    request.port = 1
    asked = request.asking(**change)
    assert await outbound.send(asked) is asked


@on_both
async def test_what_a_model_is_asked_with_is_written_once_and_what_else_is_asked_is_not_kept(outbound):
    async with Upstream(OK) as upstream:
        url = f"http://127.0.0.1:{upstream.port}/v1/chat"
        headers = {"authorization": "Bearer one"}
        for _ in range(2):
            await outbound.send(Request(method="POST", url=url, headers=headers, body=b"{}", timeout=SECONDS))
        (kept,) = outbound._heads.values()
        assert b"Bearer one" in kept.text
        headers["authorization"] = "Bearer two"
        await outbound.send(Request(method="POST", url=url, headers=headers, body=b"{}", timeout=SECONDS))
        (kept,) = outbound._heads.values()
        assert b"Bearer one" not in kept.text
        for method, asked in (("GET", url), ("DELETE", url), ("POST", f"{url}?q=private")):
            await outbound.send(Request(method=method, url=asked, timeout=SECONDS))
        assert [*outbound._heads] == [url]
        for number in range(direct.HEADS + 5):
            await outbound.send(Request(method="POST", url=f"{url}/{number}", timeout=SECONDS))
        assert len(outbound._heads) <= direct.HEADS


async def test_turns_are_taken_in_order_and_none_is_lost_with_whoever_is_cancelled():
    turns, taken = Turns(2), []
    assert turns.at_once()
    assert turns.at_once()
    assert not turns.at_once()

    async def one(number):
        await turns.wait()
        taken.append(number)

    waiting = [asyncio.create_task(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    turns.done()  # to the second, for the first is gone
    waiting[1].cancel()  # who has it by now, but has not run
    await asyncio.gather(*waiting[:3], return_exceptions=True)
    assert taken == [2]
    turns.done()
    turns.done()
    await asyncio.gather(*waiting[3:])
    assert taken == [2, 3, 4]
    turns.done()
    turns.done()
    assert [turns.at_once(), turns.at_once(), turns.at_once()] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "host", "port", "named"),
    [
        ("http://a.example", "a.example", 80, "a.example"),
        ("https://A.example:443", "A.example", 443, "a.example"),
        ("http://a-b.example:8080", "a-b.example", 8080, "a-b.example:8080"),
        ("http://[::1]:81", "::1", 81, "[::1]:81"),
        ("http://10.0.0.1", "10.0.0.1", 80, "10.0.0.1"),
    ],
)
def test_an_origin_is_where_to_connect_and_what_to_call_it(text, host, port, named):
    found = reach.origin(text)
    assert (found.tls, found.host, found.port, found.named) == (text.startswith("https"), host, port, named)


@pytest.mark.parametrize("target", ["/", "/a%2Fb?c=d&e=[1]", "/.well-known/x", "/a/..b/c.%2e", "/v1/models:x@y"])
def test_a_target_that_needs_no_rewriting_is_plain(target):
    assert reach.plain(target)


def test_families_take_turns():
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(six, ("a",)), (six, ("b",)), (four, ("c",)), (six, ("d",))]
    assert [where for _, (where,) in reach.in_turn(found)] == ["a", "c", "b", "d"]
    assert reach.in_turn([]) == []


@on_both
async def test_an_address_that_swallows_packets_does_not_keep_the_next_one_waiting(outbound, monkeypatch):
    real = reach._connected
    hanging, given_up = ("127.0.0.2", 1), asyncio.Event()

    async def connected(address):
        if address[1] != hanging:
            return await real(address)
        try:
            await asyncio.sleep(30)
        finally:
            given_up.set()

    async def both(_self, host, port, **_options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in (hanging, (host, port))]

    monkeypatch.setattr(reach, "_connected", connected)
    monkeypatch.setattr(reach, "resolved", lambda host, port: both(None, host, port))
    async with Upstream(OK) as upstream:
        assert (await outbound.send(upstream.asking(timeout=20.0))).body == b"ok"
        await asyncio.wait_for(given_up.wait(), 10)


@on_both
async def test_an_address_that_refuses_hands_on_to_the_next_at_once(outbound, monkeypatch):
    async def both(host, port):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in ((host, 1), (host, port))]

    monkeypatch.setattr(reach, "STAGGER", 30)
    monkeypatch.setattr(reach, "resolved", both)
    async with Upstream(OK) as upstream:
        assert (await outbound.send(upstream.asking())).body == b"ok"
    with pytest.raises(NotSent, match="no connection"):
        await outbound.send(upstream.asking(timeout=2.0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def tls(pair, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(pair / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
    return context


@on_both
async def test_over_tls_one_connection_serves_many_and_is_the_host_s_that_was_asked(outbound, tls):
    async with Upstream(OK, tls=tls) as upstream:
        for _ in range(3):
            assert (await outbound.send(upstream.asking())).body == b"ok"
        other = upstream.asking(url=f"https://localhost:{upstream.port}/")
        with pytest.raises(NotSent, match=r"(?i)certificate|hostname"):
            await outbound.send(other)
    assert upstream.connections == 1


def test_only_the_authorities_that_are_named_are_believed(monkeypatch, pair):
    monkeypatch.setenv("SSL_CERT_FILE", str(pair / "cert.pem"))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert len(reach.authorities().get_ca_certs()) == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(pair / "none"))
    assert len(reach.authorities().get_ca_certs()) > 50  # certifi's


@pytest.mark.parametrize("cut", [False, True])
@on_both
async def test_an_answer_that_ends_with_its_connection_is_whole_over_tls_only_where_tls_says_so(outbound, tls, cut):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await writer.drain()
        if cut:
            await asyncio.sleep(0.05)
            with socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno())) as raw:
                raw.shutdown(socket.SHUT_RDWR)
            writer.transport.abort()
        else:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    asked = Request(method="GET", url=f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/", timeout=SECONDS)
    if cut:
        with pytest.raises(Ambiguous, match="broke"):
            await outbound.send(asked)
    else:
        assert (await outbound.send(asked)).body == b"half"
    listening.close()
    await settled()
