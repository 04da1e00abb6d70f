"""HTTP/1.1 under the application: what uvicorn's own protocol does, at half its cost a request.

Owns one connection's bytes: httptools parses what comes, answers are written as they are said, and each header reaches
the application once. uvicorn keeps the listening, the drain and the date. Refuses to know routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from buspass_onprem.http1_exchange import Exchange, head, text

type App = Callable[..., Awaitable[None]]

HIGH: Final = 65_536
"""Bytes of a body that wait for the application before reading pauses."""
log = logging.getLogger("uvicorn.error")


class Connection(asyncio.Protocol):
    """One client's connection; uvicorn makes it, and asks it to `shutdown`."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - what uvicorn hands to a protocol; there is no lifespan here
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app = cast("App", config.loaded_app)
        self.state = server_state
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._idle = config.timeout_keep_alive
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # else a pipelined one loses its answer
        self._url, self._headers = b"", dict[bytes, bytes]()
        self._exchange: Exchange | None = None
        """The one whose request is read."""
        self._waiting: deque[Exchange] = deque()
        self._answering: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._free_since: float | None = None
        self._paused = self._deaf = False
        self._room: asyncio.Event | None = None
        self.full = False
        """Whether the client reads too slowly."""
        self._about: dict[str, Any] = {}

    # what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.state.connections.add(cast("Any", self))
        secure = transport.get_extra_info("sslcontext") is not None
        self._about = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "scheme": "https" if secure else "http",
            "root_path": "",
        }

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever reads or writes here that the client has gone."""
        self.state.connections.discard(cast("Any", self))
        for exchange in (self._answering, *self._waiting):
            if exchange is not None:
                exchange.lost()
        self._waiting.clear()
        self._exchange = None
        self._parser = cast("httptools.HttpRequestParser", None)  # they hold one another
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> None:
        """Close: a client that sends nothing more has gone."""

    def data_received(self, data: bytes) -> None:
        """Parse, and start whatever is asked."""
        self._free_since = None
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # to what nobody speaks here: answered as what it is else, without a body
            self._deaf = True
            if self._exchange is not None:
                self._exchange.keep_alive = False
        except httptools.HttpParserError:
            log.warning("Invalid HTTP request received.")
            said = b"Invalid HTTP request received."
            self.transport.write(head(400, [*self.state.default_headers, *text(said)]) + said)
            self.transport.close()
            return
        if self._exchange is not None:
            self._start(self._exchange)  # what is to come of its body comes while it runs

    def pause_writing(self) -> None:
        """Let what answers wait: the client reads slowly."""
        self.full, self._room = True, asyncio.Event()

    def resume_writing(self) -> None:
        """Let it go on."""
        self.full = False
        if self._room is not None:
            self._room.set()
            self._room = None

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        while self._room is not None:
            await self._room.wait()

    def shutdown(self) -> None:
        """Close as soon as nothing is under way."""
        if self._answering is None:
            self.transport.close()
        else:
            (self._waiting[-1] if self._waiting else self._answering).keep_alive = False

    # what the parser says

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url, self._headers, self._exchange = b"", {}, None

    def on_url(self, url: bytes) -> None:
        """Take a part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; repeated ones are joined, as Lambda and Functions do (RFC 9110 §5.3).

        Otherwise two Authorization headers would mean the first here, and neither there.
        """
        name, headers = name.lower(), self._headers
        if name in headers:
            value = headers[name] + (b"; " if name == b"cookie" else b",") + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        """Make the exchange."""
        parser, url = self._parser, httptools.parse_url(self._url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        scope = {
            **self._about,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": list(self._headers.items()),
        }
        expected = self._headers.get(b"expect", b"").lower() == b"100-continue"
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self._exchange = Exchange(self, scope, keep_alive, expected)

    def on_body(self, body: bytes) -> None:
        """Take a part of its body; much of it waits for the application."""
        if (exchange := self._exchange) is not None and exchange.take(body) > HIGH:
            self.pause_reading()

    def on_message_complete(self) -> None:
        """Start it: its body is whole."""
        if (exchange := self._exchange) is not None:
            exchange.end()
            self._start(exchange)

    # what exchanges say

    def pause_reading(self) -> None:
        """Read nothing for a while."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def answered(self) -> None:
        """Go on with the next request, or wait for one."""
        self.state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        self.resume_reading()
        if self._waiting:
            self._run(self._waiting.popleft())
            return
        self._free_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._look)

    def _start(self, exchange: Exchange) -> None:
        if exchange.seen:
            return
        exchange.seen = True
        if self._answering is None:
            self._run(exchange)
        else:  # answers leave in the order of the requests
            self.pause_reading()
            self._waiting.append(exchange)

    def _run(self, exchange: Exchange) -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run())
        self.state.tasks.add(task)
        task.add_done_callback(self.state.tasks.discard)

    def _look(self) -> None:
        """Close what nobody has used for so long: one timer a connection, armed anew only when it goes off."""
        self._timer = None
        if self._free_since is None or self.transport.is_closing():
            return
        left = self._free_since + self._idle - self._loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._timer = self._loop.call_later(left, self._look)


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
