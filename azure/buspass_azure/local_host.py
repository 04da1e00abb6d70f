"""A Functions host on loopback: an HTTP front, and behind it the real Python runtime library of Azure Functions.

Owns the routes of the functions that the runtime has indexed, methods, and an invocation for each request that is
forwarded (`local_proxy`) to the worker's own HTTP server, which the runtime runs in this process. Refuses to know the
function app. Needs Python 3.13 and `azure-functions-runtime`.

    python -m buspass_azure.local_host --app azure --port 8702
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from azure_functions_runtime import handle_event
from azure_functions_runtime.utils import threadpool
from msgspec import Struct

from buspass.testing.loopback import serve
from buspass_azure.local_proxy import SILENT_SECONDS, Forwarder, kestrel_path, to_headers, to_target

REQUEST_BYTES: Final = 100 * 1024 * 1024
"""What the Functions host takes."""


class IndexingError(Exception):
    """The function app could not be indexed. The message is the runtime's."""


class _Message(SimpleNamespace):
    """A protocol message: the runtime makes them by keyword and reads them by attribute, as it does protobuf's."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: ARG002, N802 - protobuf's own name
        """The one field that is set."""
        return next(iter(vars(self)), None)


class _StatusResult(_Message):
    Failure, Success = 0, 1


class _BindingInfo(_Message):
    in_, out, inout = 0, 1, 2
    undefined, string, binary, stream = 0, 1, 2, 3


class _Protocol:
    """Stands where the worker process has its generated messages."""

    StatusResult = _StatusResult
    BindingInfo = _BindingInfo

    def __getattr__(self, name: str) -> type[_Message]:
        return _Message


class HttpFunction(Struct, frozen=True, kw_only=True):
    """A function with an HTTP trigger. `methods` in upper case, empty for all; `parameter` is the trigger's."""

    id: str
    parameter: str
    pattern: re.Pattern[str]
    methods: frozenset[str]
    catch_all: bool


def _pattern(template: str) -> re.Pattern[str]:
    """A route template as an expression over the path without its first slash: `{name}`, `{name?}`, `{*name}`."""
    parts = re.split(r"\{(\*?\w+)(?::\w+)?(\??)\}", template.strip("/"))
    text = re.escape(parts[0])
    for name, optional, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        inside = ".*" if name.startswith("*") else "[^/]+"
        text += f"(?P<{name.lstrip('*')}>{inside}){optional}{re.escape(literal)}"
    return re.compile(text, re.IGNORECASE | re.DOTALL)


class FunctionsHost:
    """An ASGI 3 application in front of one function app. The runtime is global: one host per process."""

    def __init__(self, directory: Path, *, seconds: float = SILENT_SECONDS) -> None:
        self._directory = directory.resolve()
        self._seconds = seconds
        self._functions: list[HttpFunction] = []
        self._forwarder: Forwarder | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Import and index the function app on this loop. Raises IndexingError."""
        sys.path.insert(0, str(self._directory))
        os.chdir(self._directory)
        settings = json.loads((self._directory / "host.json").read_text("utf-8"))
        prefix = settings.get("extensions", {}).get("http", {}).get("routePrefix", "api")
        request = _Message(
            request=_Message(
                worker_init_request=_Message(capabilities={}, function_app_directory=str(self._directory))
            ),
            properties={"host": "127.0.0.1", "protos": _Protocol()},
        )
        answer = await handle_event.worker_init_request(request)
        if answer.result.status != _StatusResult.Success:
            raise IndexingError(answer.result.exception.message)
        if "HttpUri" not in answer.capabilities:
            raise IndexingError("the function app registers no HTTP streams (buspass_azure.http_stream)")
        self._forwarder = Forwarder(answer.capabilities["HttpUri"], seconds=self._seconds)
        threadpool.start_threadpool_executor()
        metadata = await handle_event.functions_metadata_request(None)
        for function in metadata.function_metadata_results or ():
            self._functions.extend(_http_functions(function, prefix))
        if not self._functions:
            raise IndexingError(f"no function with an HTTP trigger in {self._directory}")
        # As ASP.NET does: a literal route goes before one that takes everything.
        self._functions.sort(key=lambda function: function.catch_all)

    async def close(self) -> None:
        """Let go of the connections to the worker's server."""
        if self._forwarder is not None:
            await self._forwarder.close()
        threadpool.stop_threadpool_executor()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body = await _read(receive)
        path = kestrel_path(scope["raw_path"].decode("latin-1"))
        routes = [(function, match) for function in self._functions if (match := function.pattern.fullmatch(path[1:]))]
        allowed = [route for route in routes if not route[0].methods or scope["method"] in route[0].methods]
        if body is None or not allowed:
            status = 413 if body is None else 405 if routes else 404
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        function, match = allowed[0]
        await self._forward(
            scope, to_target(path, scope["query_string"]), body, function, match.groupdict(""), receive, send
        )

    async def _forward(
        self,
        scope: Mapping[str, Any],
        target: str,
        body: bytes,
        function: HttpFunction,
        parameters: Mapping[str, str],
        receive: Any,
        send: Any,
    ) -> None:
        """Invoke and forward at the same time, as the host does. A client that goes away ends the forwarding alone."""
        assert self._forwarder is not None
        identity = str(uuid.uuid4())
        invocation = asyncio.create_task(_invoke(identity, function, parameters))
        self._running.add(invocation)
        invocation.add_done_callback(self._running.discard)
        headers = to_headers(scope, identity)
        forwarding = asyncio.create_task(self._forwarder.forward(scope["method"], target, headers, body, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({forwarding, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if forwarding.done():
                await forwarding
        finally:
            leaving.cancel()
            forwarding.cancel()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _invoke(identity: str, function: HttpFunction, parameters: Mapping[str, str]) -> None:
    """Ask the worker for an invocation. With HTTP streams its message carries the route's parameters alone."""
    http = _Message(method="", url="", headers={}, query={}, params=dict(parameters), body=_Message())
    trigger = _Message(data=_Message(http=http))
    trigger.name = function.parameter
    request = _Message(
        invocation_request=_Message(
            invocation_id=identity,
            function_id=function.id,
            input_data=[trigger],
            trigger_metadata={},
            trace_context=_Message(trace_parent="", trace_state="", attributes={}),
            retry_context=_Message(retry_count=0, max_retry_count=0, exception=None),
        )
    )
    answer = await handle_event.invocation_request(_Message(request=request))
    if answer.result.status != _StatusResult.Success:
        sys.stderr.write(f"invocation {identity} failed: {answer.result.exception.message}\n")


def _http_functions(metadata: Any, prefix: str) -> list[HttpFunction]:
    found = []
    for binding in map(json.loads, metadata.raw_bindings):
        if binding["type"] == "httpTrigger":
            route = f"{prefix}/{binding.get('route', metadata.name)}".strip("/")
            methods = frozenset(str(method).upper() for method in binding.get("methods") or ())
            found.append(
                HttpFunction(
                    id=metadata.function_id,
                    parameter=binding["name"],
                    pattern=_pattern(route),
                    methods=methods,
                    catch_all="{*" in route,
                )
            )
    return found


async def _read(receive: Any) -> bytes | None:
    """The whole body, or None where it is over the limit (read to its end all the same, to be answered)."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= REQUEST_BYTES:
            chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks) if size <= REQUEST_BYTES else None


async def run(directory: Path, *, port: int) -> None:
    """Serve a function app at 127.0.0.1 until SIGTERM or SIGINT. Raises IndexingError."""
    host = FunctionsHost(directory)
    try:
        await host.start()
        await serve(host, port=port)
    finally:
        await host.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 with the reason where the function app does not come up."""
    parser = argparse.ArgumentParser(prog="python -m buspass_azure.local_host", description="A local Functions host.")
    parser.add_argument("--app", type=Path, default=Path("azure"), help="the folder of function_app.py and host.json")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(run(options.app, port=options.port))
    except IndexingError as error:
        sys.stderr.write(f"the function app did not start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
