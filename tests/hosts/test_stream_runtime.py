"""The streaming runtime for Lambda against a Runtime API that writes down every byte: the wire, errors, and its end."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from buspass.testing import lambda_runtime
from buspass.testing.function_url import AnswerStream, BrokenStream, FunctionUrl, Outcome
from buspass.testing.runtime_wire import read_body, read_chunks, read_head, response

HERE = Path(__file__).parent
BOOTSTRAP = HERE.parent.parent / "aws" / "bootstrap"
EVENT = {
    "version": "2.0",
    "rawPath": "/stream/s",
    "rawQueryString": "events=2&free=1",
    "headers": {},
    "requestContext": {"domainName": "x", "http": {"method": "POST", "path": "/", "sourceIp": "203.0.113.7"}},
    "isBase64Encoded": False,
}


def event(path="/stream/s", query="events=2&free=1"):
    return json.dumps({**EVENT, "rawPath": path, "rawQueryString": query}).encode()


class RuntimeApi:
    """Hands events out, keeps what it gets; `connections` counts how many were made."""

    def __init__(self, events, status=202):
        self.events = list(events)
        self.status = status
        self.posts = []
        self.connections = 0
        self.serving = []
        self.polls = 0
        self.polled = asyncio.Event()
        self.first_chunk = asyncio.Event()

    async def connected(self, reader, writer):
        self.connections += 1
        self.serving.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while head := await read_head(reader):
                    writer.write(await self.answer(head, reader))
        finally:
            writer.close()  # also when cancelled: Python 3.12's server waits for every connection's end

    async def answer(self, head, reader):
        if head.method == "GET":
            self.polls += 1
            self.polled.set()
            while not self.events:
                await asyncio.sleep(3600)
            return response(
                200,
                self.events.pop(0),
                {
                    "Lambda-Runtime-Aws-Request-Id": f"i-{self.polls}",
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + 30) * 1000)),
                },
            )
        chunks, trailers = [], {}
        if head.streamed:
            async for chunk in read_chunks(reader, trailers):
                chunks.append(chunk)
                self.first_chunk.set()
        else:
            chunks.append(await read_body(reader, head))
        self.posts.append((head, chunks, trailers))
        return response(self.status, b"{}")


@contextlib.asynccontextmanager
async def running(api, handler="sse.start", **environ):
    """The runtime started as Lambda starts it, by the wrapper."""
    async with await asyncio.start_server(api.connected, "127.0.0.1", 0) as server:
        variables = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "_HANDLER": handler,
            "POWERTOOLS_METRICS_NAMESPACE": "Buspass",
            **environ,
        }
        process = await asyncio.create_subprocess_exec(
            BOOTSTRAP, sys.executable, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            for task in api.serving:
                task.cancel()  # one that holds a poll would hold the server, too


async def ended(process):
    """Its exit status, standard output as JSON lines and standard error, after SIGTERM."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_streamed_answer_is_a_prelude_and_a_chunk_for_each_message(tmp_path):
    api = RuntimeApi([event(), event()])
    async with running(api, SSE_FOLDER=str(tmp_path)) as process:
        await until(lambda: api.polls == 3)
        status, said, _ = await ended(process)
    assert (status, api.connections) == (0, 1)
    head, chunks, trailers = api.posts[0]
    assert head.path == "/2018-06-01/runtime/invocation/i-1/response"
    assert head.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert head.headers["transfer-encoding"] == "chunked"
    assert "Lambda-Runtime-Function-Error-Type" in head.headers["trailer"]
    prelude, _, first = chunks[0].partition(bytes(8))
    assert json.loads(prelude) == {
        "statusCode": 200,
        "headers": {"content-type": "text/event-stream"},
        "cookies": ["a=1", "b=2"],
    }
    assert [chunk[:11] for chunk in (first, *chunks[1:])] == [b'data: {"n":', b'data: {"n":', b"data: [DONE"]
    assert trailers == {}
    lines = [line for line in said if line.get("message") == "request"]
    assert [(line["status"], line["function_request_id"], line["cold_start"]) for line in lines] == [
        (200, "i-1", True),
        (200, "i-2", False),
    ]
    assert [line["ColdStart"] for line in said if "ColdStart" in line] == [[1.0]]
    assert (tmp_path / f"closed-{process.pid}").exists()


async def test_an_error_in_mid_stream_stands_in_the_trailers():
    api = RuntimeApi([event(query="events=2&free=1&break=2"), event()])
    async with running(api) as process:
        await until(lambda: api.polls == 3)
        assert (await ended(process))[0] == 0
    _, chunks, trailers = api.posts[0]
    assert len(chunks) == 1
    assert trailers["lambda-runtime-function-error-type"] == "Runtime.ValueError"
    error = json.loads(base64.b64decode(trailers["lambda-runtime-function-error-body"]))
    assert error["errorMessage"] == "broken in mid-stream"


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (event("/early/raise"), "Runtime.ValueError"),
        (event("/early/none"), "Runtime.BrokenAnswer"),
        (b'{"version": "1.0"}', "Runtime.EventError"),
        (b"[]", "Runtime.EventError"),
    ],
)
async def test_an_error_before_the_first_byte_is_posted_as_one(sent, kind):
    api = RuntimeApi([sent, event()])
    async with running(api) as process:
        await until(lambda: api.polls == 3)
        assert (await ended(process))[0] == 0
    head, chunks, _ = api.posts[0]
    assert head.path == "/2018-06-01/runtime/invocation/i-1/error"
    assert head.headers["lambda-runtime-function-error-type"] == kind
    assert json.loads(chunks[0])["errorType"] == kind
    assert api.posts[1][0].path.endswith("/i-2/response")


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        ("sse.broken_start", "Runtime.OSError"),
        ("nothing_here.start", "Runtime.ModuleNotFoundError"),
        ("sse.EVENT_STREAM", "Runtime.HandlerError"),
        ("", "Runtime.HandlerError"),
    ],
)
async def test_an_application_that_does_not_start_is_an_init_error(handler, kind):
    api = RuntimeApi([])
    async with running(api, handler) as process:
        status, _, err = await asyncio.wait_for(_finished(process), 60)
    assert (status, api.polls) == (1, 0)
    assert "the function did not start" in err
    ((head, chunks, _),) = api.posts
    assert head.path == "/2018-06-01/runtime/init/error"
    assert json.loads(chunks[0])["errorType"] == head.headers["lambda-runtime-function-error-type"] == kind


async def _finished(process):
    out, err = await process.communicate()
    return process.returncode, out, err.decode()


async def test_sigterm_in_mid_stream_lets_it_end_and_then_nothing_is_polled(tmp_path):
    api = RuntimeApi([event(query="events=2"), event()])
    (tmp_path / "s-1").touch()
    async with running(api, SSE_FOLDER=str(tmp_path)) as process:
        await asyncio.wait_for(api.first_chunk.wait(), 60)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert process.returncode is None
        (tmp_path / "s-2").touch()
        status, _, err = await asyncio.wait_for(_finished(process), 60)
    assert (status, api.polls, err) == (0, 1, "")
    assert api.posts[0][1][-1] == b"data: [DONE]\n\n"


async def test_a_service_beyond_recovery_ends_the_process(tmp_path):
    api = RuntimeApi([event(), event()], status=500)
    async with running(api, SSE_FOLDER=str(tmp_path)) as process:
        status, _, err = await asyncio.wait_for(_finished(process), 60)
    assert (status, api.polls) == (1, 1)
    assert "the Runtime API answered 500" in err


async def test_a_service_out_of_reach_ends_the_process():
    api = RuntimeApi([])
    async with running(api, AWS_LAMBDA_RUNTIME_API="127.0.0.1:1") as process:
        status, _, err = await asyncio.wait_for(_finished(process), 60)
    assert status == 1
    assert "out of reach" in err


async def test_an_answer_that_is_refused_costs_only_itself(tmp_path):
    api = RuntimeApi([event(), event()], status=413)
    async with running(api, SSE_FOLDER=str(tmp_path)) as process:
        await until(lambda: api.polls == 3)
        status, said, _ = await ended(process)
    assert status == 0
    assert "the service did not take the answer" in [line.get("message") for line in said]


# ── the local service's own side ────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_longer_than_the_service_carries_is_cut_off(monkeypatch):
    monkeypatch.setattr(lambda_runtime, "STREAM_BYTES", 100_000)
    variables = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    function = lambda_runtime.Function(handler="sse.start", streaming=True, task_root=HERE, environ=variables)
    runtime = lambda_runtime.LambdaRuntime(function, instances=1)
    await runtime.start()
    try:
        outcome = await runtime.invoke(event("/big/300000"))
        received = []
        with pytest.raises(BrokenStream, match="longer than 100000 bytes"):
            await _collect(outcome.stream, received)
        assert 0 < sum(map(len, received)) <= 100_000
        assert (await runtime.invoke(event("/plain/x"))).kind == "stream"
    finally:
        await runtime.stop()


async def _collect(stream, received):
    async for chunk in stream:
        received.append(chunk)


async def test_a_function_is_no_more_than_eight_chunks_ahead_of_its_client():
    stream = AnswerStream()
    for _ in range(8):
        await asyncio.wait_for(stream.put(b"x"), 60)
    ninth = asyncio.create_task(stream.put(b"y"))
    await asyncio.sleep(0)
    assert not ninth.done()
    chunks = aiter(stream)
    assert await anext(chunks) == b"x"
    await asyncio.wait_for(ninth, 60)


async def test_a_stream_without_a_head_is_the_services_own_error():
    stream = AnswerStream()
    await stream.put(b'{"statusCode": 200')
    stream.end()
    sent = []

    async def invoke(event):
        return Outcome(kind="stream", payload=b"", stream=stream)

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    scope = {"method": "GET", "raw_path": b"/", "query_string": b"", "headers": [], "http_version": "1.1"}
    await FunctionUrl(invoke)(scope, receive, send)
    assert sent[0]["status"] == 502
