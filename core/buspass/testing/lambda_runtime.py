"""A Lambda service on loopback: a Function URL in front, real runtime clients behind, a Runtime API between them.

Owns the execution environments: each has its own Runtime API and its own process, `awslambdaric` or the streaming
`buspass_aws.runtime`, which serves one invocation at a time; one that crashes or overruns is replaced. Refuses to know
HTTP requests (`function_url`), the Runtime API's bytes (`runtime_wire`) and the handler that it runs.
Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

    python -m buspass.testing.lambda_runtime --port 8701 --instances 2 --env BUSPASS_HOST=aws --env BUSPASS_CONFIG
    python -m buspass.testing.lambda_runtime --streaming --port 8701 …
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from buspass.testing.function_url import AnswerStream, FunctionUrl, Outcome
from buspass.testing.loopback import serve
from buspass.testing.runtime_wire import Head, read_body, read_chunks, read_head, response

ANSWER_BYTES: Final = 6 * 1024 * 1024 + 100
STREAM_BYTES: Final = 200 * 1024 * 1024
"""The longest streamed answer; more of it is cut off."""
STREAMING_HANDLER: Final = "buspass.http.start"
_VERSION: Final = "/2018-06-01/runtime/"
_INHERITED: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONSAFEPATH",
    "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG",
)  # fmt: skip


class InitError(Exception):
    """The function never became ready. The message is what its runtime client reported."""


class Function(Struct, frozen=True, kw_only=True):
    """What is run, and how. `timeout` in seconds, `memory` in MB, which is told, not enforced.

    `streaming`: by `buspass_aws.runtime`, for which the handler is an application's start, in place of `awslambdaric`;
    the `bootstrap` of a bundle starts it where there is one, as Lambda's AWS_LAMBDA_EXEC_WRAPPER does.
    """

    handler: str = "buspass_aws.handler.handler"
    streaming: bool = False
    task_root: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=dict)
    name: str = "buspass"
    region: str = "eu-central-1"
    memory: int = 512
    timeout: float = 60.0
    python: str = sys.executable

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:000000000000:function:{self.name}"

    @property
    def command(self) -> list[str]:
        """What an instance executes."""
        if not self.streaming:
            return [self.python, "-m", "awslambdaric", self.handler]
        bootstrap = self.task_root / "bootstrap"
        return [str(bootstrap), self.python] if bootstrap.is_file() else [self.python, "-m", "buspass_aws.runtime"]

    def environment(self, runtime_api: str) -> dict[str, str]:
        """The variables of an instance: the service's own over the function's over a few of this process."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "POWERTOOLS_SERVICE_NAME": self.name,
            "POWERTOOLS_METRICS_NAMESPACE": "Buspass",
            "POWERTOOLS_LOG_LEVEL": "WARNING",
            **self.environ,
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": uuid.uuid4().hex,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "LAMBDA_TASK_ROOT": str(self.task_root),
            "_HANDLER": self.handler,
            "TZ": ":UTC",
        }


class _Invocation(Struct, frozen=True, kw_only=True):
    event: bytes
    outcome: asyncio.Future[Outcome]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode("utf-8")


class _Instance:
    """One execution environment."""

    def __init__(self, function: Function, queue: asyncio.Queue[_Invocation]) -> None:
        self._function = function
        self._queue = queue
        self._connections: set[asyncio.Task[None]] = set()
        self._current: _Invocation | None = None
        self._stream: AnswerStream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._failure = b""
        self._stopping = asyncio.Event()
        self.polled = asyncio.Event()

    async def run(self, failed: asyncio.Future[str]) -> None:
        """Keep a process up until `stop`. An init that fails ends one waiting invocation, and is told to `failed`."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        delay = 0.1
        async with server:
            while not self._stopping.is_set():
                await self._live(address)
                if self.polled.is_set() or self._stopping.is_set():
                    delay = 0.1
                    continue
                message = self._failure or _error("Runtime.ExitError", "exited before its first poll")
                if not failed.done():
                    failed.set_result(message.decode("utf-8", "replace"))
                with contextlib.suppress(asyncio.QueueEmpty):
                    self._queue.get_nowait().end(Outcome(kind="error", payload=message))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                delay = min(delay * 2, 5.0)

    async def _live(self, address: str) -> None:
        """One process, from its start to its end, whatever ends it."""
        self.polled.clear()
        self._failure = b""
        # A function's standard output is its log: ours holds the listening line alone.
        self._process = await asyncio.create_subprocess_exec(
            *self._function.command,
            cwd=self._function.task_root,
            env=self._function.environment(address),
            stdout=sys.stderr.fileno(),
        )  # fmt: skip
        if self._stopping.is_set():
            self._process.kill()  # `stop` came while it was being started, and saw none
        code = await self._process.wait()
        self._drop_connections()
        self._end(Outcome(kind="error", payload=_error("Runtime.ExitError", f"exited with status {code}")))

    async def stop(self) -> None:
        """End the process: by SIGTERM, then SIGKILL after two seconds.

        `awslambdaric` hears no SIGTERM while it polls: it loses its Runtime API at once.
        """
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        if not self._function.streaming:
            self._drop_connections()
        try:
            await asyncio.wait_for(process.wait(), 2)
        except TimeoutError:
            process.kill()

    def _drop_connections(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while head := await read_head(reader):
                if head.streamed:
                    writer.write(await self._pass_on(head, reader))
                else:
                    writer.write(await self._route(head.method, head.path, await read_body(reader, head)))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the process went away: whoever waits for it sees that
        finally:
            self._connections.discard(task)
            writer.close()

    async def _route(self, method: str, path: str, body: bytes) -> bytes:
        match method, path.removeprefix(_VERSION).split("/"):
            case "GET", ["invocation", "next"]:
                return await self._next()
            case "POST", ["invocation", name, "response"] if len(body) > ANSWER_BYTES:
                text = f"Exceeded maximum allowed payload size ({ANSWER_BYTES} bytes)."
                error = _error("RequestEntityTooLarge", text)
                return self._finish(name, Outcome(kind="error", payload=error)) and response(413, error)
            case "POST", ["invocation", name, "response"]:
                return self._finish(name, Outcome(kind="response", payload=body))
            case "POST", ["invocation", name, "error"]:
                return self._finish(name, Outcome(kind="error", payload=body))
            case "POST", ["init", "error"]:
                self._failure = body
                return response(202, b'{"status":"OK"}')
        return response(404, _error("NotFound", path))

    async def _next(self) -> bytes:
        self.polled.set()
        invocation = self._current = await self._queue.get()
        timeout = self._function.timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self._overrun, timeout)
        return response(
            200,
            invocation.event,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + timeout) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self._function.arn,
                "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
            },
        )

    async def _pass_on(self, head: Head, reader: asyncio.StreamReader) -> bytes:
        """Hand a streamed answer on by the chunk, at the pace of who takes it. One that is too long is cut off."""
        name = head.path.removeprefix(_VERSION).split("/")[1]
        if self._current is None or self._current.id != name:
            raise ConnectionAbortedError(name)
        stream = self._stream = AnswerStream()
        self._current.end(Outcome(kind="stream", payload=b"", stream=stream))
        trailers: dict[str, str] = {}
        size = 0
        async for chunk in read_chunks(reader, trailers):
            size += len(chunk)
            if size > STREAM_BYTES:
                stream.end(broken=f"longer than {STREAM_BYTES} bytes")
                raise ConnectionAbortedError(name)
            await stream.put(chunk)
        stream.end(broken=trailers.get("lambda-runtime-function-error-type", ""))
        self._end(Outcome(kind="stream", payload=b"", stream=stream))
        return response(202, b'{"status":"OK"}')

    def _finish(self, invocation: str, outcome: Outcome) -> bytes:
        if self._current is None or self._current.id != invocation:
            return response(400, _error("InvalidRequestID", "Invalid request ID"))
        self._end(outcome)
        return response(202, b'{"status":"OK"}')

    def _overrun(self, timeout: float) -> None:
        text = f"Task timed out after {timeout:.2f} seconds"
        self._end(Outcome(kind="timeout", payload=_error("Sandbox.Timedout", text)))
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _end(self, outcome: Outcome) -> None:
        if self._timer is not None:
            self._timer.cancel()
        invocation, self._current, self._timer = self._current, None, None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end(broken=outcome.kind)  # of no effect on one that has ended
        if invocation is not None:
            invocation.end(outcome)


class LambdaRuntime:
    """A function with a fixed number of instances. More invocations than instances wait for one to come free."""

    def __init__(self, function: Function, *, instances: int = 2) -> None:
        self._queue: asyncio.Queue[_Invocation] = asyncio.Queue()
        self._instances = [_Instance(function, self._queue) for _ in range(instances)]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when an instance polls. Raises InitError where one ends before that, with what it reported."""
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(instance.run(failed)) for instance in self._instances]
        polls = [asyncio.create_task(instance.polled.wait()) for instance in self._instances]
        either: list[asyncio.Future[Any]] = [failed, *polls]
        done, _ = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for poll in polls:
            poll.cancel()
        if failed in done:
            await self.stop()
            raise InitError(failed.result())

    async def stop(self) -> None:
        """End every instance, by its process id. Invocations in flight end as errors."""
        await asyncio.gather(*(instance.stop() for instance in self._instances))
        await asyncio.gather(*self._tasks)

    async def invoke(self, event: bytes) -> Outcome:
        """Hand an event (JSON, in bytes) to the next free instance and wait for its outcome."""
        invocation = _Invocation(event=event, outcome=asyncio.get_running_loop().create_future())
        self._queue.put_nowait(invocation)
        return await invocation.outcome


async def run(function: Function, *, port: int, instances: int = 2) -> None:
    """Serve a function at 127.0.0.1 until SIGTERM or SIGINT. Raises InitError."""
    runtime = LambdaRuntime(function, instances=instances)
    await runtime.start()
    try:
        await serve(FunctionUrl(runtime.invoke), port=port)
    finally:
        await runtime.stop()


def _variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or `NAME` alone for this process's own value, which then shows in no process list."""
    name, given, value = text.partition("=")
    if not given and name not in os.environ:
        raise argparse.ArgumentTypeError(f"{name} has no value here: say {name}=VALUE")
    return name, value if given else os.environ[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 with the reason where the function does not come up."""
    defaults = Function()
    parser = argparse.ArgumentParser(
        prog="python -m buspass.testing.lambda_runtime", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--streaming", action="store_true", help="answers as they come: InvokeMode RESPONSE_STREAM")
    parser.add_argument("--handler", help="by default the gateway's, for either mode")
    parser.add_argument("--task-root", type=Path, default=defaults.task_root)
    parser.add_argument("--python", default=defaults.python, help="the interpreter that an instance runs")
    parser.add_argument("--timeout", type=float, default=defaults.timeout, help="seconds")
    parser.add_argument("--env", type=_variable, action="append", default=[], metavar="NAME[=VALUE]")
    options = parser.parse_args(arguments)
    function = Function(
        handler=options.handler or (STREAMING_HANDLER if options.streaming else defaults.handler),
        streaming=options.streaming,
        task_root=options.task_root.resolve(),
        environ=dict(options.env),
        timeout=options.timeout,
        python=options.python,
    )
    try:
        asyncio.run(run(function, port=options.port, instances=options.instances))
    except InitError as error:
        sys.stderr.write(f"the function did not start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
