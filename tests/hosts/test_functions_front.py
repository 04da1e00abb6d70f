"""The local Functions host: routes, methods and the platform's limits, on the real runtime library (Python 3.13)."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from buspass_azure import local_host
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
    scope = {
        "method": "GET", "scheme": "http", "headers": [], "query_string": b"a=1&a=2", "client": ("127.0.0.1", 5),
    }  # fmt: skip
    datum = local_host.to_datum(scope, local_host._kestrel_path(sent), {}, b"")
    assert datum.value["url"].value == f"http://127.0.0.1{seen}?a=1&a=2"
    assert datum.value["query"]["a"].value == "1,2"


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


@pytest.fixture
def host(tmp_path, monkeypatch):
    async def invoke(invocation, name, inputs, metadata):
        if name == "slow":
            await asyncio.sleep(30)
        if name == "broken":
            return False, None, [], "ValueError('x')", "trace"
        value = {
            "status_code": SimpleNamespace(value="200"),
            "headers": {},
            "cookies": None,
            "body": SimpleNamespace(value=name.encode()),
        }
        return True, SimpleNamespace(type="http", value=value), [], None, None

    monkeypatch.setattr(local_host.native_invocation, "invocation_request_native", invoke)
    host = FunctionsHost(tmp_path, seconds=0.05)
    host._functions = [function("slow"), function("broken"), function("only", methods=["POST"]), function("v1/{*rest}")]
    yield host
    for task in host._running:
        task.cancel()


async def test_an_answer_that_takes_too_long_is_a_502_of_the_platform(host):
    assert (await ask(host, "/slow")).status_code == 502


async def test_a_failed_invocation_is_an_empty_500(host):
    response = await ask(host, "/broken")
    assert (response.status_code, response.content) == (500, b"")


async def test_routes_and_methods_are_the_platforms(host):
    assert (await ask(host, "/v1/a/b")).text == "v1/{*rest}"
    assert (await ask(host, "/elsewhere")).status_code == 404
    assert (await ask(host, "/only")).status_code == 405
    assert (await ask(host, "/only", "POST")).text == "only"


def test_an_app_that_cannot_be_indexed_says_so_and_listens_nowhere(launch, tmp_path):
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text("import nothing_here\n")
    front = launch(["-m", "buspass_azure.local_host", "--app", str(tmp_path)])
    assert front.process.stdout.read() == ""
    front.process.stdout.close()
    assert front.process.wait(10) == 1


async def test_invocations_run_at_the_same_time(fronts):
    async with httpx.AsyncClient(timeout=10) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(client.get(fronts["functions"] + "/slow/0.2") for _ in range(20)))
    assert loop.time() - began < 20 * 0.2 / 2
