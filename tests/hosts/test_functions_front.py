"""The local Functions host: routes, methods and the platform's limits, on the real runtime library (Python 3.13)."""

import asyncio
import socket
from types import SimpleNamespace

import httpx
import pytest

from buspass_azure import local_host, local_proxy
from buspass_azure.local_host import FunctionsHost, HttpFunction

URLS = [
    ("/plain", "/plain"),
    ("/a%20b", "/a%20b"),
    ("/a%2fb", "/a%2Fb"),
    ("/%c3%bc", "/%C3%BC"),
    ("/%7Euser", "/~user"),
    ("/a+b", "/a+b"),
]


@pytest.mark.parametrize(("sent", "seen"), URLS)
def test_a_path_is_rewritten_as_the_platform_does(sent, seen):
    assert local_proxy.to_target(local_proxy.kestrel_path(sent), b"a=1&a=2") == seen + "?a=1&a=2"


def test_the_front_end_writes_where_a_request_came_from_and_the_host_its_invocation():
    sent = [(b"X-Forwarded-For", b"1.2.3.4"), (b"x-ms-invocation-id", b"forged"), (b"x-a", b"1"), (b"X-A", b"2")]
    sent += [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"connection", b"keep-alive")]
    headers = local_proxy.to_headers({"headers": sent, "client": ("203.0.113.7", 5), "scheme": "http"}, "i-1")
    assert dict(headers) == {
        b"x-forwarded-for": b"1.2.3.4, 203.0.113.7:5",
        b"x-forwarded-proto": b"http",
        b"x-ms-invocation-id": b"i-1",
        b"x-a": b"1, 2",
        b"cookie": b"a=1; b=2",
    }


def function(route, *, methods=()):
    return HttpFunction(
        id=route,
        parameter="req",
        pattern=local_host._pattern(route),
        methods=frozenset(methods),
        catch_all="{*" in route,
    )


@pytest.mark.parametrize(
    ("route", "path", "parameters"),
    [
        ("{*path}", "", {"path": ""}),
        ("{*path}", "v1/tasks", {"path": "v1/tasks"}),
        ("v1/tasks/{id}", "v1/tasks/7", {"id": "7"}),
        ("v1/tasks/{id}", "v1/tasks/7/8", None),
        ("v1/tasks/{id:int}", "V1/Tasks/7", {"id": "7"}),
    ],
)
def test_route_templates(route, path, parameters):
    match = function(route).pattern.fullmatch(path)
    assert (match and match.groupdict()) == parameters


async def ask(host, path, method="GET"):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://127.0.0.1") as client:
        return await client.request(method, path)


async def worker(reader, writer):
    """A worker's server that answers by the path."""
    with_head = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
    if with_head == b"/slow":
        await reader.read()
    elif with_head != b"/broken":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(with_head), with_head))
    writer.close()


@pytest.fixture
async def host(tmp_path, monkeypatch):
    async def invoke(request):
        return SimpleNamespace(result=SimpleNamespace(status=1))

    monkeypatch.setattr(local_host.handle_event, "invocation_request", invoke)
    server = await asyncio.start_server(worker, "127.0.0.1", 0)
    host = FunctionsHost(tmp_path)
    port = server.sockets[0].getsockname()[1]
    host._forwarder = local_proxy.Forwarder(f"http://127.0.0.1:{port}")
    host._functions = [function("slow"), function("broken"), function("only", methods=["POST"]), function("v1/{*rest}")]
    async with server:
        yield host
        await host._forwarder.close()


async def test_an_answer_that_takes_too_long_is_a_502_of_the_platform(host):
    host._forwarder._seconds = 0.1
    answer = await ask(host, "/slow")
    assert (answer.status_code, answer.text) == (502, "The service did not answer in time.")


async def test_a_worker_that_hangs_up_is_an_empty_502(host):
    response = await ask(host, "/broken")
    assert (response.status_code, response.content) == (502, b"")


async def test_a_worker_that_does_not_listen_yet_is_asked_again(host, unused_port, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(local_proxy.asyncio, "sleep", sleep)
    host._forwarder = local_proxy.Forwarder(f"http://127.0.0.1:{unused_port}")
    assert (await ask(host, "/v1/a")).status_code == 502
    assert waited == [0.05, 0.1, 0.2, *[0.25] * 6]


async def test_routes_and_methods_are_the_platforms(host):
    assert (await ask(host, "/v1/a/b?c=d")).text == "/v1/a/b?c=d"
    assert (await ask(host, "/elsewhere")).status_code == 404
    assert (await ask(host, "/only")).status_code == 405
    assert (await ask(host, "/only", "POST")).text == "/only"


@pytest.fixture
def unused_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]  # bound, but nobody listens


def test_an_app_that_cannot_be_indexed_says_so_and_listens_nowhere(launch, tmp_path):
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text("import nothing_here\n")
    front = launch(["-m", "buspass_azure.local_host", "--app", str(tmp_path)])
    assert front.process.stdout.read() == ""
    front.process.stdout.close()
    assert front.process.wait(60) == 1


async def test_invocations_run_at_the_same_time(fronts):
    async with httpx.AsyncClient(timeout=60) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(client.get(fronts["functions"] + "/slow/1") for _ in range(40)))
    assert loop.time() - began < 40 / 2
