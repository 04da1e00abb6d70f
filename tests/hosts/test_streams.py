"""Streaming through each host's real runtime: an event leaves when the application sends it, and what ends a stream."""

import asyncio
import contextlib
import json
import sys
import time

import httpx
import pytest
from started import SECONDS, Front

LAMBDA = ["-m", "buspass.testing.lambda_runtime", "--streaming", "--handler", "sse.start"]
ONE_LOOP = {"onprem": ["uvicorn_sse.py"], "functions": ["-m", "buspass_azure.local_host", "--app", "functions_sse"]}
if sys.version_info < (3, 13):
    del ONE_LOOP["functions"]  # the runtime library of Azure Functions needs 3.13
HOSTS = [*ONE_LOOP, "lambda"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tests and the application leave word for each other."""
    return tmp_path_factory.mktemp("sse")


@pytest.fixture(scope="module")
def streams(folder):
    """The URL of each host's front by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSE_FOLDER", str(folder))
        commands = {**ONE_LOOP, "lambda": [*LAMBDA, "--instances", "4", "--env", "SSE_FOLDER"]}
        fronts = {name: Front(command) for name, command in commands.items()}
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(front).url for name, front in fronts.items()}
    assert {name: front.status for name, front in fronts.items()} == dict.fromkeys(fronts, 0)


@pytest.fixture(params=HOSTS)
def url(request, streams):
    return streams[request.param]


@pytest.fixture(params=list(ONE_LOOP))
def telling_url(request, streams):
    """A host whose platform tells it when a client goes away."""
    return streams[request.param]


@pytest.fixture
def name(request):
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


@pytest.fixture
async def client():
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits) as client:
        yield client


class Stream:
    """A client's side of one stream."""

    def __init__(self, response):
        self.response = response
        self.lines = response.aiter_lines()

    async def event(self):
        async for line in self.lines:
            if line:
                data = line.removeprefix("data: ")
                return data if data == "[DONE]" else json.loads(data)
        return None


@contextlib.asynccontextmanager
async def opened(client, url, name, events=3, **query):
    async with client.stream("POST", f"{url}/stream/{name}", params={"events": events, **query}, content=b"{}") as got:
        yield Stream(got)


async def left(path):
    """Wait for word of the application."""
    ends = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < ends, f"no {path.name}"
        await asyncio.sleep(0.005)


# ── on every host ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_event_arrives_before_the_application_goes_on(url, folder, name, client):
    (folder / f"{name}-1").touch()
    async with opened(client, url, name) as stream:
        for number in (1, 2, 3):
            assert (await stream.event())["n"] == number
            # Only now may the application send the next one.
            (folder / f"{name}-{number + 1}").touch()
        assert await stream.event() == "[DONE]"
        assert await stream.event() is None


async def test_status_headers_and_cookies_come_before_the_body(url, folder, name, client):
    (folder / f"{name}-1").touch()
    async with opened(client, url, name) as stream:
        headers = stream.response.headers
        assert (stream.response.status_code, headers["content-type"]) == (200, "text/event-stream")
        assert [cookie.split(";")[0] for cookie in headers.get_list("set-cookie")] == ["a=1", "b=2"]
        assert "content-length" not in headers
        assert len(headers.get_list("date")) == 1
        for number in (2, 3):
            (folder / f"{name}-{number}").touch()


async def test_a_whole_answer_comes_through_the_same_front(url, client):
    answer = await client.get(url + "/plain/x")
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    assert answer.json()["response_bytes"] >= 100 * 1024 * 1024


async def test_an_error_in_mid_stream_leaves_the_client_without_an_end(url, folder, name, client):
    (folder / f"{name}-1").touch()
    async with opened(client, url, name, **{"break": 2}) as stream:
        assert (await stream.event())["n"] == 1
        (folder / f"{name}-2").touch()
        with pytest.raises(httpx.RemoteProtocolError):
            await stream.event()
    async with opened(client, url, name + "after", free=1) as stream:
        assert [(await stream.event())["n"] for _ in range(3)] == [1, 2, 3]


async def test_twenty_megabytes_arrive_whole(url, client):
    received = 0
    async with client.stream("GET", f"{url}/big/20000000") as answer:
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    assert received == 20_000_000


# ── where the platform tells that a client has gone ─────────────────────────────────────────────────────────────────


async def test_the_application_sees_its_client_go_in_mid_stream(telling_url, folder, name, client):
    async with opened(client, telling_url, name) as stream:
        (folder / f"{name}-1").touch()
        assert (await stream.event())["n"] == 1
    await left(folder / f"{name}-gone")


async def test_forty_streams_are_open_at_once_and_a_quarter_of_the_clients_hang_up(telling_url, folder, name, client):
    async with contextlib.AsyncExitStack() as stack:
        opening = (
            stack.enter_async_context(opened(client, telling_url, f"{name}-{one}", events=2)) for one in range(30)
        )
        for one in range(40):
            (folder / f"{name}-{one}-1").touch()
        streams = await asyncio.gather(*opening)
        async with contextlib.AsyncExitStack() as leaving:
            going = (
                leaving.enter_async_context(opened(client, telling_url, f"{name}-{one}", events=2))
                for one in range(30, 40)
            )
            streams += await asyncio.gather(*going)
            # All forty have begun, none can have ended.
            assert [(await stream.event())["n"] for stream in streams] == [1] * 40
        for one in range(30):
            (folder / f"{name}-{one}-2").touch()
        assert [(await stream.event())["n"] for stream in streams[:30]] == [2] * 30
        assert [await stream.event() for stream in streams[:30]] == ["[DONE]"] * 30
    for one in range(30, 40):
        await left(folder / f"{name}-{one}-gone")


# ── Lambda ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lambda_does_not_tell_and_the_stream_goes_on_to_its_end(streams, folder, name, client):
    (folder / f"{name}-1").touch()
    async with opened(client, streams["lambda"], name) as stream:
        assert (await stream.event())["n"] == 1
    for number in (2, 3):
        (folder / f"{name}-{number}").touch()
    await left(folder / f"{name}-done")
    assert not (folder / f"{name}-gone").exists()


async def test_four_instances_serve_four_streams_and_a_fifth_waits(streams, folder, name, client):
    async with contextlib.AsyncExitStack() as stack:
        for one in range(5):
            (folder / f"{name}-{one}-1").touch()
        opening = [opened(client, streams["lambda"], f"{name}-{one}", events=2) for one in range(4)]
        running = await asyncio.gather(*(stack.enter_async_context(one) for one in opening))
        assert len({(await stream.event())["pid"] for stream in running}) == 4
        fifth = asyncio.create_task(stack.enter_async_context(opened(client, streams["lambda"], f"{name}-4", events=2)))
        await asyncio.sleep(0.05)
        assert not fifth.done()
        (folder / f"{name}-0-2").touch()
        assert (await (await fifth).event())["n"] == 1
        for one in range(5):
            (folder / f"{name}-{one}-2").touch()


async def test_the_function_is_told_its_deadline_trace_and_limits(streams, client):
    shown = (await client.get(streams["lambda"] + "/plain/x")).json()
    assert 30 < shown["deadline"] < 60, "what is left of a minute: a busy machine takes of it"
    assert shown["trace"].startswith("Root=1-")
    assert shown["response_bytes"] == 200 * 1024 * 1024


@pytest.mark.parametrize("kind", ["raise", "none"])
async def test_an_error_before_the_first_byte_is_the_services_own_answer(streams, client, kind):
    answer = await client.get(f"{streams['lambda']}/early/{kind}")
    assert (answer.status_code, answer.text) == (502, "Internal Server Error")


def test_a_crash_a_late_answer_and_the_next_one(launch, folder, monkeypatch):
    monkeypatch.setenv("SSE_FOLDER", str(folder))
    with launch([*LAMBDA, "--instances", "1", "--timeout", "2", "--env", "SSE_FOLDER"]) as front:
        assert httpx.get(front.url + "/early/exit", timeout=SECONDS).status_code == 502
        for _ in range(3):  # it has a quarter of a second to say so, which a busy machine may keep from it
            late = httpx.get(front.url + "/early/late", timeout=SECONDS)
            if late.status_code != 502:
                break
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        (folder / "cut-1").touch()
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(front.url + "/stream/cut", timeout=SECONDS, content=b"")
        assert httpx.get(front.url + "/plain/x", timeout=SECONDS).status_code == 201
    assert front.status == 0


@pytest.mark.verify
def test_a_stopped_front_lets_its_functions_close(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("SSE_FOLDER", str(tmp_path))
    with launch([*LAMBDA, "--instances", "2", "--env", "SSE_FOLDER"]) as front:
        assert httpx.get(front.url + "/plain/x", timeout=SECONDS).status_code == 201
    assert 1 <= len(list(tmp_path.glob("closed-*"))) <= 2
