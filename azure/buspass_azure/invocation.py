"""The function app around the application: one function that takes every route.

Owns the application's start, once, on the worker's own loop, and the last line of defence. Refuses to know how requests
arrive (`http_stream`), what the platform writes into them (`asgi`) and what the application does. Not reachable here:
`/admin` and `/runtime`, which the Functions host keeps for itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import azure.functions as func

from buspass.errors import Problem
from buspass.model import Limits
from buspass_azure import asgi
from buspass_azure.http_stream import Answered, Exchange

LIMITS: Final = Limits(
    request_bytes=20 * 1024 * 1024,
    response_bytes=100 * 1024 * 1024,
    first_byte=225.0,
    total=590.0,
)
"""Bytes and seconds. The load balancer hangs up after 230 silent seconds. An invocation lasts as long as its answer;
when one outlives `functionTimeout` of host.json (600 s), the host kills the worker with all that it does."""


class Application(Protocol):
    """An ASGI 3 `http` callable that was started."""

    async def __call__(self, scope: Any, receive: Any, send: Any, /) -> None: ...

    async def tick(self, seconds: float) -> int: ...

    async def close(self) -> None: ...


SCHEDULE: Final = "0 * * * * *"
"""Each minute (NCRONTAB: seconds first): when the timer looks after what is due."""
TICK: Final = 40.0
"""Seconds after which a tick begins nothing more."""

type Start = Callable[[Mapping[str, str], Limits], Awaitable[Application]]

_log = logging.getLogger(__name__)


class Worker:
    """The application of this worker process. A start that fails is tried again by the next invocation."""

    def __init__(self, start: Start, environ: Mapping[str, str]) -> None:
        self._start = start
        self._environ = environ
        self._starting = asyncio.Lock()
        self._application: Application | None = None

    async def __call__(self, exchange: Exchange) -> Answered:
        """Answer a request. A fault of one call is a problem (RFC 9457); once an answer has begun it is cut instead."""
        try:
            application = await self._started()
            await application(asgi.to_scope(exchange.scope), exchange.receive, exchange.send)
        except Exception:
            # The last line of defence: whatever it was, it is logged and the caller told so.
            _log.exception("the application failed")
            if exchange.begun:
                raise
            await _send_problem(exchange, "internal", "the gateway failed; its log says why")
        return Answered()

    async def tick(self) -> None:
        """Look after what is due. What fails is logged by the platform, and due again at the next schedule."""
        await (await self._started()).tick(TICK)

    async def close(self) -> None:
        """Close the application, if it ever started. The Functions host itself never does."""
        if self._application is not None:
            await self._application.close()

    async def _started(self) -> Application:
        if self._application is None:
            async with self._starting:
                if self._application is None:
                    self._application = await self._start(self._environ, LIMITS)
        return self._application


async def _send_problem(exchange: Exchange, code: str, detail: str) -> None:
    document = Problem(code, detail).document()
    body = json.dumps(document).encode("utf-8")
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await exchange.send({"type": "http.response.start", "status": document["status"], "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})


def make_function_app(start: Start, environ: Mapping[str, str] = os.environ) -> func.FunctionApp:
    """A function app that serves an application on every path and method. It authenticates by itself: anonymous."""
    worker = Worker(start, environ)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

    @app.route(route="{*path}")
    async def gateway(req: Exchange) -> Answered:
        return await worker(req)

    @app.timer_trigger(arg_name="timer", schedule=SCHEDULE, run_on_startup=False)
    async def tick(timer: func.TimerRequest) -> None:  # noqa: ARG001 - the platform calls it by this name
        await worker.tick()

    return app
