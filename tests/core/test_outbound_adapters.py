"""What each failure of a real connection means to the port: surely not sent, or ambiguous. By every adapter alike."""

import asyncio
import contextlib
import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import struct
import threading
import time
import tracemalloc

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from buspass.ports import outbound_httpx, outbound_pyreqwest
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, TimedOut
from buspass.ports.outbound_httpx import HttpxOutbound
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass_onprem import outbound as outbound_direct
from buspass_onprem.outbound import DirectOutbound

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SECONDS = 60.0
"""For what comes at once: a busy machine may take its time."""


@contextlib.asynccontextmanager
async def server(talk, **options):
    """A TCP server on loopback; `talk(reader, writer)` has each connection. Yields its port."""
    talks = set()

    async def connected(reader, writer):
        talks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, **options)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def says(*answers, keep=False):
    """Answers each request on a connection with the next bytes, then closes; None resets the connection."""

    async def talk(reader, writer):
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].split(b":")[1]))
            if answer is None:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            writer.write(answer)
            await writer.drain()
        if keep:
            await asyncio.sleep(3600)

    return talk


@contextlib.contextmanager
def elsewhere(*answer):
    """A server in a thread of its own, which answers while this one's event loop stands still. Yields its port."""

    def talk(connection):
        with connection, contextlib.suppress(OSError):
            while connection.recv(65_536):
                for piece in answer:
                    connection.sendall(piece)
                    time.sleep(0.0005)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


PEM = serialization.Encoding.PEM
ADAPTERS = [HttpxOutbound, PyreqwestOutbound, DirectOutbound]


@pytest.fixture(params=ADAPTERS)
async def outbound(request):
    mine = request.param()
    yield mine
    await mine.close()


def asking(port, path="/", **options):
    return Request(**{"method": "GET", "url": f"http://127.0.0.1:{port}{path}", "timeout": SECONDS, **options})


async def test_an_answer_comes_whole_with_lower_case_names_and_the_last_of_a_repeated_header(outbound):
    answer = b"HTTP/1.1 201 Made\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nok"
    async with server(says(answer)) as port:
        response = await outbound.send(asking(port, method="POST", body=b"{}"))
    assert response == Response(status=201, headers={"x-a": "2", "content-length": "2"}, body=b"ok")


async def test_the_request_goes_out_as_it_was_given_and_names_no_driver(outbound):
    seen = []

    async def talk(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        seen.append(await reader.readexactly(4))
        writer.write(OK)

    async with server(talk) as port:
        await outbound.send(
            asking(port, "/a%2Fb?c=d", method="POST", body=b"body", headers={"Authorization": "Bearer x"})
        )
    head = seen[0].decode().lower()
    assert head.startswith("post /a%2fb?c=d http/1.1\r\n")
    assert "authorization: bearer x\r\n" in head
    assert "accept-encoding: gzip, identity\r\n" in head
    assert "content-length: 4\r\n" in head
    assert "httpx" not in head
    assert seen[1] == b"body"


async def test_a_redirect_is_an_answer_and_a_cookie_is_not_kept(outbound):
    heads = []
    moved = b"HTTP/1.1 302 F\r\nlocation: /elsewhere\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"

    async def talk(reader, writer):
        for _ in range(2):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(moved)

    async with server(talk) as port:
        first = await outbound.send(asking(port))
        await outbound.send(asking(port))
    assert (first.status, first.headers["location"]) == (302, "/elsewhere")
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


async def test_no_proxy_is_taken_from_the_environment(outbound, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with server(says(OK)) as port:
        assert (await outbound.send(asking(port))).body == b"ok"


async def test_refused_is_not_sent(outbound):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(NotSent, match="no connection"):
            await outbound.send(asking(free.getsockname()[1]))


@pytest.mark.parametrize(
    ("change", "says_so"),
    [
        ({"url": "ftp://127.0.0.1/"}, "no connection: .*(protocol|scheme)"),
        ({"url": "/no/host"}, "can't be written|no connection: .*protocol"),
        ({"url": "http://127.0.0.1:99999/"}, "can't be written|no connection"),
        ({"url": "http://[::1"}, "can't be written|no connection"),
        ({"url": "http://no-such-host.invalid/", "timeout": 5.0}, "no connection"),
        ({"headers": {"x": "ü"}}, "can't be written"),
        ({"headers": {"x": "a\r\nb: c"}}, "not a valid HTTP request|can't be written"),
        ({"timeout": 0}, "no time"),
        ({"timeout": -1.0}, "no time"),
    ],
)
async def test_what_can_not_be_asked_is_not_sent(outbound, change, says_so):
    connections = []

    async def talk(reader, _writer):
        connections.append(await reader.read(1))

    async with server(talk) as port:
        with pytest.raises(NotSent, match=says_so):
            await outbound.send(asking(port, **change))
    assert connections in ([], [b""])


async def test_a_failed_tls_handshake_is_not_sent(outbound):
    async def talk(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 this is no TLS\r\n\r\n")

    async with server(talk) as port:
        with pytest.raises(NotSent, match="no connection"):
            await outbound.send(asking(port, url=f"https://127.0.0.1:{port}/"))


async def test_a_tls_handshake_that_never_ends_is_not_sent_and_leaves_no_socket_behind(outbound):
    async with server(says(OK)) as port:
        with pytest.raises(NotSent, match="no connection"):
            await outbound.send(asking(port, url=f"https://127.0.0.1:{port}/", timeout=1.5))


async def test_who_is_called_off_in_a_tls_handshake_leaves_no_socket_behind_either(outbound):
    hello, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader, _writer):
        await reader.read(1)
        hello.set()
        while await reader.read(65_536):
            pass
        gone.set()

    async with server(talk) as port, asyncio.timeout(SECONDS):
        sending = asyncio.create_task(outbound.send(asking(port, url=f"https://127.0.0.1:{port}/")))
        await hello.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await gone.wait()


async def test_a_server_whose_certificate_nobody_signed_gets_nothing(outbound, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    async with server(says(OK), ssl=context) as port:
        with pytest.raises(NotSent, match=r"(?i)certificate"):
            await outbound.send(asking(port, url=f"https://127.0.0.1:{port}/"))


async def test_an_address_that_swallows_packets_is_not_sent(outbound, monkeypatch):
    monkeypatch.setattr(outbound_httpx, "CONNECT", 0.1)
    monkeypatch.setattr(outbound_pyreqwest, "CONNECT", (0.1, 0.05))
    monkeypatch.setattr(outbound_direct, "CONNECT", 0.1)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with contextlib.ExitStack() as held:
            for _ in range(3):  # fill the backlog: from now on the kernel drops what knocks
                knocking = held.enter_context(socket.socket())
                knocking.setblocking(False)
                knocking.connect_ex(full.getsockname())
            with pytest.raises(NotSent):
                await outbound.send(asking(full.getsockname()[1]))
            monkeypatch.undo()  # within the request's own time, and so long before that a busy machine hears of it
            monkeypatch.setattr(outbound_pyreqwest, "CONNECT", (5.0, 0.2))
            with pytest.raises(NotSent, match="no connection"):
                await outbound.send(asking(full.getsockname()[1], timeout=1.0))


AFTER_SENDING = {
    "closed without an answer": (says(b""), "connection broke"),
    "reset": (says(None), "connection broke"),
    "garbage": (says(b"SMTP ready\r\n\r\n"), "connection broke"),
    "cut in the head": (says(b"HTTP/1.1 200 OK\r\ncontent-le"), "connection broke"),
    "cut in the body": (says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"), "connection broke"),
    "cut in a chunk": (
        says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"),
        "connection broke",
    ),
    "too large, said": (
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"a" * 5000, keep=True),
        "larger than the 1000 bytes",
    ),
    "too large, unsaid": (
        says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n" + b"a" * 5000 + b"\r\n", keep=True),
        "larger than the 1000 bytes",
    ),
    "an encoding nobody asked for": (
        says(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nok"),
        "not asked for",
    ),
    "no gzip": (
        says(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok"),
        "says gzip and is not",
    ),
}


@pytest.mark.parametrize("row", AFTER_SENDING)
async def test_a_failure_after_the_request_began_to_leave_is_ambiguous(outbound, row):
    talk, says_so = AFTER_SENDING[row]
    async with server(talk) as port:
        with pytest.raises(Ambiguous, match=says_so) as caught:
            await outbound.send(asking(port, limit=1000))
        assert not isinstance(caught.value, TimedOut)
    async with server(says(OK)) as port:  # and the pool is none the worse
        assert (await outbound.send(asking(port))).body == b"ok"


async def connected(outbound, port, *, timeout):
    """Leave a connection to a server that says OK first, for requests of this time-out: to make one takes of it."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(NotSent, TimedOut):
                assert (await outbound.send(asking(port, timeout=timeout))).body == b"ok"
                return


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"])
async def test_a_slow_answer_is_timed_out_by_one_deadline_over_all(outbound, answer):
    async with server(says(OK, answer, keep=True)) as port:
        await connected(outbound, port, timeout=0.4)
        with pytest.raises(TimedOut, match=r"within 0\.4 s|the driver's time was over"):
            await outbound.send(asking(port, timeout=0.4))


async def test_a_dripping_answer_does_not_renew_the_deadline(outbound):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with server(talk) as port:
        await connected(outbound, port, timeout=0.4)
        with pytest.raises(TimedOut):
            await outbound.send(asking(port, timeout=0.4))


async def test_a_reused_connection_that_the_server_closes_is_ambiguous_and_not_repeated(outbound):
    requests = []

    async def talk(reader, writer):
        while True:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if len(requests) == 2:
                return
            writer.write(OK)

    async with server(talk) as port:
        await outbound.send(asking(port))
        with pytest.raises(Ambiguous, match="connection broke"):
            await outbound.send(asking(port))
    assert len(requests) == 2


def packed(body):
    data = gzip.compress(body)
    return b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(data) + data


async def test_gzip_is_unpacked_and_the_limit_counts_what_comes_out(outbound):
    async with server(says(packed(b"a" * 100_000), packed(b"b" * 50_000_000))) as port:
        response = await outbound.send(asking(port, limit=100_000))
        assert response.body == b"a" * 100_000
        assert "content-encoding" not in response.headers
        assert "content-length" not in response.headers
        with pytest.raises(Ambiguous, match="larger"):
            await outbound.send(asking(port, limit=1_000_000))


async def test_a_small_body_that_unpacks_to_a_huge_one_takes_no_memory(outbound):
    answer = packed(b"b" * 50_000_000)
    async with server(says(answer)) as port:
        tracemalloc.start()
        try:
            with pytest.raises(Ambiguous, match="larger"):
                await outbound.send(asking(port, limit=1_000_000))
            assert tracemalloc.get_traced_memory()[1] < 15_000_000
        finally:
            tracemalloc.stop()


async def test_gzip_cut_short_inside_a_whole_answer_is_ambiguous(outbound):
    data = gzip.compress(b"a" * 1000)[:-6]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(data)
    async with server(says(head + data)) as port:
        with pytest.raises(Ambiguous, match="cut short"):
            await outbound.send(asking(port))


async def test_an_answer_without_a_body_may_say_gzip(outbound):
    async with server(says(b"HTTP/1.1 304 N\r\ncontent-encoding: gzip\r\n\r\n")) as port:
        assert (await outbound.send(asking(port))).body == b""


async def test_many_requests_at_once_do_not_wait_for_each_other(outbound):
    waiting, gate = [], asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        waiting.append(1)
        if len(waiting) == 100:
            gate.set()
        await gate.wait()
        writer.write(OK)

    async with server(talk, backlog=200) as port:
        answers = await asyncio.gather(*(outbound.send(asking(port)) for _ in range(100)))
    assert {answer.body for answer in answers} == {b"ok"}


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_after_close_nothing_is_sent(adapter):
    outbound = adapter()
    await outbound.close()
    await outbound.close()
    with pytest.raises(NotSent, match="shutting down"):
        await outbound.send(asking(1))


async def test_a_streamed_answer_comes_piece_by_piece_however_short(outbound):
    gate = asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await gate.wait()
        writer.write(b"1\r\nb\r\n0\r\n\r\n")

    async with server(talk) as port:
        streamed = await outbound.open(asking(port))
        assert await anext(streamed.chunks) == b"a"
        gate.set()
        assert [piece async for piece in streamed.chunks] == [b"b"]


async def test_a_streamed_answer_may_be_gzipped(outbound):
    async with server(says(packed(b"a" * 100_000))) as port:
        streamed = await outbound.open(asking(port))
        assert b"".join([piece async for piece in streamed.chunks]) == b"a" * 100_000


async def test_a_stream_that_stands_still_is_timed_out_and_one_that_breaks_is_ambiguous(outbound):
    begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"
    async with server(says(begun, keep=True)) as port:
        streamed = await outbound.open(asking(port, idle=0.2))
        with pytest.raises(TimedOut, match="stood still"):
            [piece async for piece in streamed.chunks]
    async with server(says(begun)) as port:
        streamed = await outbound.open(asking(port))
        with pytest.raises(Ambiguous, match="connection broke"):
            [piece async for piece in streamed.chunks]


async def test_a_stream_above_its_limit_is_cut(outbound):
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n" + b"a" * 5000 + b"\r\n"
    async with server(says(answer, keep=True)) as port:
        streamed = await outbound.open(asking(port, limit=1000))
        with pytest.raises(Ambiguous, match="larger"):
            [piece async for piece in streamed.chunks]


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_whoever_does_not_want_the_answer_any_more_lets_the_connection_go(outbound, how):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if how == "closed":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with server(talk) as port, asyncio.timeout(SECONDS):
        if how == "cancelled":
            sending = asyncio.create_task(outbound.send(asking(port, timeout=10.0)))  # then at the latest
            await asked.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        else:
            streamed = await outbound.open(asking(port))
            await anext(streamed.chunks)
            await streamed.chunks.aclose()
        await gone.wait()


@pytest.mark.parametrize("waiting", ["for an answer", "for a stream", "for a chunk"])
async def test_a_cancellation_is_heeded_though_it_comes_together_with_what_was_waited_for(waiting):
    outbound = PyreqwestOutbound()  # whose driver forgets about one in a hundred of these
    chunked = (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 3)
    cancelled = forgotten = 0
    with elsewhere(*([OK] if waiting == "for an answer" else chunked)) as port:
        for n in range(300):
            streamed = await outbound.open(asking(port)) if waiting == "for a chunk" else None
            if streamed:
                task = asyncio.ensure_future(anext(streamed.chunks))
            else:
                task = asyncio.ensure_future(
                    (outbound.send if waiting == "for an answer" else outbound.open)(asking(port))
                )
            await asyncio.sleep(0)
            time.sleep(n % 30 / 20_000)
            took = task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            cancelled += took
            forgotten += took and not isinstance(done, asyncio.CancelledError)
            if streamed or not isinstance(done, (asyncio.CancelledError, Response)):
                await (streamed or done).chunks.aclose()
    assert cancelled > 20
    assert not forgotten
    await outbound.close()


async def test_with_every_connection_in_use_a_request_that_gets_none_in_time_is_not_sent(monkeypatch):
    monkeypatch.setattr(outbound_pyreqwest, "CONNECTIONS", 1)
    monkeypatch.setattr(outbound_httpx, "CONNECTIONS", 1)
    monkeypatch.setattr(outbound_direct, "CONNECTIONS", 1)
    for adapter in ADAPTERS:
        outbound = adapter()
        asked, gate = asyncio.Event(), asyncio.Event()

        async def talk(reader, writer, asked=asked, gate=gate):
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await gate.wait()
            writer.write(OK)

        async with server(talk) as port, asyncio.timeout(SECONDS):
            first = asyncio.create_task(outbound.send(asking(port)))
            await asked.wait()
            with pytest.raises(NotSent, match="no connection within"):
                await outbound.send(asking(port, timeout=0.1))
            gate.set()
            assert (await first).body == b"ok"
        await outbound.close()


async def test_on_a_machine_without_authorities_of_its_own_the_bundled_ones_are_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    outbound = PyreqwestOutbound()
    async with server(says(OK)) as port:
        assert (await outbound.send(asking(port))).body == b"ok"
    await outbound.close()


async def test_an_authority_that_the_host_names_is_believed(tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = _self_signed(tmp_path)
    context.load_cert_chain(pair)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair))
    for adapter in ADAPTERS:
        outbound = adapter()
        async with server(says(OK), ssl=context) as port:
            assert (await outbound.send(asking(port, url=f"https://127.0.0.1:{port}/"))).body == b"ok"
        await outbound.close()


async def test_a_private_authority_that_says_no_more_than_that_it_is_one_is_believed(tmp_path, monkeypatch):
    own, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("ours", own, "ours").add_extension(x509.BasicConstraints(True, None), critical=True)
    (tmp_path / "authority.pem").write_bytes(authority.sign(own, hashes.SHA256()).public_bytes(PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_paired(tmp_path, key, _certificate("127.0.0.1", key, "ours").sign(own, hashes.SHA256())))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    for adapter in (PyreqwestOutbound, DirectOutbound):  # what governed calls go out by
        outbound = adapter()
        async with server(says(OK), ssl=context) as port:
            assert (await outbound.send(asking(port, url=f"https://127.0.0.1:{port}/"))).body == b"ok"
        await outbound.close()


def _self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    return _paired(folder, key, _certificate("127.0.0.1", key, "127.0.0.1").sign(key, hashes.SHA256()))


def _certificate(subject, key, issuer):
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1 if subject == issuer else 2)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )


def _paired(folder, key, certificate):
    path = folder / "pair.pem"
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(PEM))
    return path
