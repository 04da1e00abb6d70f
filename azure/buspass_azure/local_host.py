"""A Functions host on loopback: an HTTP front, and behind it the real Python runtime library of Azure Functions.

Owns what the host does between the two: routes of the functions that the runtime has indexed, methods, the 230
seconds, and requests and answers as the runtime's typed data. Refuses to know the function app. Needs Python 3.13
and `azure-functions-runtime`.

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
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

from azure_functions_runtime import handle_event, native_invocation
from azure_functions_runtime.bindings.datumdef import Datum
from azure_functions_runtime.utils import threadpool

from buspass.testing.loopback import serve

REQUEST_BYTES: Final = 100 * 1024 * 1024
"""What the Functions host takes."""
ANSWER_SECONDS: Final = 230.0
"""When Azure's load balancer gives up; the function itself goes on."""

type Headers = list[tuple[bytes, bytes]]


class IndexingError(Exception):
    """The function app could not be indexed. The message is the runtime's."""


class _Message(SimpleNamespace):
    """A protocol message: the runtime makes them by keyword and reads them by attribute, as it does protobuf's."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFunction:
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

    def __init__(self, directory: Path, *, seconds: float = ANSWER_SECONDS) -> None:
        self._directory = directory.resolve()
        self._seconds = seconds
        self._functions: list[HttpFunction] = []
        self._running: set[asyncio.Task[Any]] = set()

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
        threadpool.start_threadpool_executor()
        metadata = await handle_event.functions_metadata_request(None)
        for function in metadata.function_metadata_results or ():
            self._functions.extend(_http_functions(function, prefix))
        if not self._functions:
            raise IndexingError(f"no function with an HTTP trigger in {self._directory}")
        # As ASP.NET does: a literal route goes before one that takes everything.
        self._functions.sort(key=lambda function: function.catch_all)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body = await _read(receive)
        status, headers, answer = (413, [], b"") if body is None else await self._answer(scope, body)
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, scope: Mapping[str, Any], body: bytes) -> tuple[int, Headers, bytes]:
        path = _kestrel_path(scope["raw_path"].decode("latin-1"))
        routes = [(function, match) for function in self._functions if (match := function.pattern.fullmatch(path[1:]))]
        if not routes:
            return 404, [], b""
        for function, match in routes:
            if not function.methods or scope["method"] in function.methods:
                return await self._invoke(function, to_datum(scope, path, match.groupdict(""), body))
        return 405, [], b""

    async def _invoke(self, function: HttpFunction, request: Any) -> tuple[int, Headers, bytes]:
        invocation = asyncio.create_task(
            native_invocation.invocation_request_native(
                str(uuid.uuid4()), function.id, [(function.parameter, request)], {}
            )
        )
        self._running.add(invocation)
        invocation.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait({invocation}, timeout=self._seconds)
        if not done:
            return 502, [(b"content-type", b"text/plain")], b"The service did not answer in time."
        succeeded, answer, _outputs, error, trace = invocation.result()
        if not succeeded:
            sys.stderr.write(f"{error}\n{trace}\n")
            return 500, [], b""
        return from_datum(answer)


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


def _kestrel_path(raw: str) -> str:
    """The path as ASP.NET hands it on: decoded, but for an encoded slash, as one text."""
    return "%2F".join(unquote(part) for part in re.split("%2[Ff]", raw))


def _url_path(path: str) -> str:
    """And as it writes it into a URL again: encoded anew, where what looks encoded is left."""
    kept = "/!$&'()*+,;=:@-._~"
    return "".join(
        part if re.fullmatch("%[0-9A-Fa-f]{2}", part) else quote(part, safe=kept)
        for part in re.split("(%[0-9A-Fa-f]{2})", path)
    )


def to_datum(scope: Mapping[str, Any], path: str, parameters: Mapping[str, str], body: bytes) -> Any:
    """A request as the runtime's typed data: names in lower case, repeated headers and query values joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        separator = "; " if name == "cookie" else ","
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    client = scope.get("client") or ("127.0.0.1", 0)
    earlier = f"{headers['x-forwarded-for']}, " if "x-forwarded-for" in headers else ""
    headers |= {"x-forwarded-for": f"{earlier}{client[0]}:{client[1]}", "x-forwarded-proto": scope["scheme"]}
    raw_query = scope["query_string"].decode("latin-1")
    query: dict[str, str] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    host = headers.get("host", "127.0.0.1")
    url = f"{scope['scheme']}://{host}{_url_path(path)}" + (f"?{raw_query}" if raw_query else "")
    return Datum(
        {
            "method": Datum(scope["method"], "string"),
            "url": Datum(url, "string"),
            "headers": _strings(headers),
            "query": _strings(query),
            "params": _strings(parameters),
            "body": Datum(body, "bytes"),
        },
        "http",
    )


def _strings(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: Datum(value, "string") for name, value in values.items()}


def from_datum(answer: Any) -> tuple[int, Headers, bytes]:
    """Status, headers and body of what the runtime returned; no HTTP answer at all is a 200 or 204 of the host."""
    if answer is None:
        return 204, [], b""
    if answer.type != "http":
        body = answer.value if isinstance(answer.value, bytes) else str(answer.value).encode("utf-8")
        return 200, [(b"content-type", b"text/plain; charset=utf-8")], body
    value = answer.value
    headers = [(name.encode("latin-1"), item.value.encode("latin-1")) for name, item in value["headers"].items()]
    for cookie in value.get("cookies") or ():
        headers.extend((b"set-cookie", text.encode("latin-1")) for text in _cookies(cookie))
    body = value["body"].value
    return int(value["status_code"].value), headers, body


def _cookies(cookie: SimpleCookie) -> list[str]:
    """ASP.NET writes a cookie itself, from its parts, in this order, and gives it a path if it has none."""
    written = []
    for name, morsel in cookie.items():
        parts = [f"{name}={quote(morsel.value, safe='')}"]
        parts += [f"{key}={morsel[key]}" for key in ("expires", "max-age", "domain") if morsel[key]]
        parts.append(f"path={morsel['path'] or '/'}")
        parts += ["secure"] if morsel["secure"] else []
        parts += [f"samesite={morsel['samesite'].lower()}"] if morsel["samesite"] else []
        parts += ["httponly"] if morsel["httponly"] else []
        written.append("; ".join(parts))
    return written


async def run(directory: Path, *, port: int) -> None:
    """Serve a function app at 127.0.0.1 until SIGTERM or SIGINT. Raises IndexingError."""
    host = FunctionsHost(directory)
    await host.start()
    try:
        await serve(host, port=port)
    finally:
        threadpool.stop_threadpool_executor()


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
