"""HTTP streams of Azure Functions: the worker's own HTTP server, as its runtime wants it registered.

Owns the extension points of `azurefunctions-extensions-base`. Importing this module is what switches them on: from then
on the Functions host forwards each request to the server here, under an invocation's id, and asks the worker for an
invocation without a body. Refuses to know what answers a request, routes (the application has its own) and frameworks.
Source: https://learn.microsoft.com/azure/azure-functions/functions-reference-python#http-streams
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

import uvicorn
from azurefunctions.extensions import base  # type: ignore[import-untyped] # the package carries no types

INVOCATION_HEADER: Final = "x-ms-invocation-id"
IDLE: Final = 300
"""Seconds that an idle connection of the Functions host is kept: longer than its own pool keeps one, so that none is
closed under a request."""

type Message = MutableMapping[str, Any]


class Exchange:
    """One HTTP request and its answer, as ASGI has them. A function gets it in place of a request, and answers in it.

    The invocation lasts until the answer has been sent. The runtime itself reads `headers` alone.
    """

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.begun = False
        """Whether anything of the answer was sent."""
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a message of the answer, at once."""
        self.begun = True
        await self._send(message)


class Answered:
    """What a function returns: its exchange has been answered, nothing is left to send."""


class _Synchronizer(base.RequestSynchronizer):  # type: ignore[misc] # an untyped base, as the next ones
    def sync_route_params(self, request: Exchange, path_params: Any) -> None:
        """Take the route's parameters: there is one route, and the application has its own."""


# A class of theirs registers by being made: here one for the type of a request, and one for that of an answer.
base.RequestTrackerMeta("ExchangeType", (), {"request_type": Exchange, "synchronizer": _Synchronizer()})
base.ResponseTrackerMeta("AnsweredType", (), {"label": base.ResponseLabels.STREAMING, "response_type": Answered})


class WebApp(base.WebApp):  # type: ignore[misc]
    """The ASGI application behind the worker's server. The runtime finds it by its name in this module."""

    def __init__(self) -> None:
        self._take: Callable[[Exchange], Awaitable[Answered]] | None = None

    def route(self, func: Callable[[Exchange], Awaitable[Answered]]) -> Callable[[Exchange], Awaitable[Answered]]:
        """Register the runtime's own function, which hands an exchange to its invocation and waits for its end."""
        self._take = func
        return func

    def get_app(self) -> Callable[..., Awaitable[None]]:
        return self._answer

    async def _answer(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        # What the function raised is raised here: the server cuts the answer, or sends a 500 if none has begun.
        assert self._take is not None
        exchange = Exchange(scope, receive, send)
        try:
            await self._take(exchange)
        finally:
            _forget(self._take, exchange.headers.get(INVOCATION_HEADER, ""))


def _forget(take: Callable[..., Any], invocation: str) -> None:
    """Drop what the runtime would keep of an invocation for ever: 2 kB each (azure-functions-runtime 1.3.0).

    It has no call for that, so its table is reached for by name; where there is none by that name, nothing is done.
    """
    coordinator = getattr(take, "__globals__", {}).get("http_coordinator")
    references = getattr(coordinator, "_context_references", None)
    if isinstance(references, dict):
        references.pop(invocation, None)


class WebServer(base.WebServer):  # type: ignore[misc]
    """The worker's server. The runtime finds it by its name in this module."""

    hostname: str
    port: int
    web_app: Callable[..., Awaitable[None]]

    async def serve(self) -> None:
        """Serve on the worker's own loop, to its end."""
        config = uvicorn.Config(
            self.web_app,
            host=self.hostname,
            port=self.port,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,  # logging is the worker's
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,  # the Functions host writes its own
            proxy_headers=False,
            timeout_keep_alive=IDLE,
        )
        await _Server(config).serve()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker."""
        yield
