"""One connection of a client's, HTTP/1.1: requests in, each given to the application, answers out in their order.

Owns the connection: the parser (httptools' llhttp, strict), whose turn it is, when nothing more is read, and the bytes
and seconds of a request that is not whole yet. Refuses to know what is in one: bodies are bounded by the routes, which
know theirs.

    what is on its way                    bytes, at most        seconds, at most
    a head                                HEAD, else 431        HEAD_TIME, an unused connection's too
    a body                                the route's           BODY_TIME
    around a body: what ends it, trailers HEAD                  BODY_TIME
    a body that was answered already      REFUSED               BODY_TIME
    an answer that is not taken           the transport's       TAKE_TIME

A read counts as a whole, and one that ended a head or had a part of a body begins the count anew. No other protocol is
spoken here: a request that asks for one, as Java's client does for HTTP/2 whenever it connects, is answered as if it
had not, and is the last of its connection. Its body is its own; the parser would leave that to the other protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from math import inf
from typing import Any, Final

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from buspass_onprem.exchange import PLAIN, Exchange
from buspass_onprem.heads import STATUS, host, joined, lines, target

HEAD: Final = 64 * 1024
HEAD_TIME: Final = 75.0
"""As long as an idle connection is kept: proxies may open some before they need them."""
BODY_TIME: Final = 300.0
TAKE_TIME: Final = 300.0
"""For any part of what was written, where more has to wait for it or the connection is to be closed."""
REFUSED: Final = 32 * 1024 * 1024
UNREAD: Final = 64 * 1024
"""Bytes of a body that nobody fetches from which on no more are read."""
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
RUBBISH: Final = b"Invalid HTTP request received."
FRAMING: Final = (b"content-length", b"transfer-encoding")
"""Headers that say where a request ends."""
_A_HEAD: Final = object()
log = logging.getLogger("buspass")


class Intake(asyncio.Protocol):
    """One connection, as uvicorn's server makes it. Nearly every read is a whole request, which is answered at once."""

    transport: asyncio.Transport
    _common: dict[str, Any]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - a lifespan's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.loop = _loop or asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.done.set_result(None)
        self.gone = False
        """Whether nothing may be written any more."""
        self._application, self._server, self._unused = config.loaded_app, server_state, config.timeout_keep_alive
        self._parser = HttpRequestParser(self)
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._host: bytes | None = None
        """What the last request named, which the next needs no look at to name again."""
        self._exchange: Exchange | None = None
        """The one that is being answered."""
        self._waiting: deque[Exchange] = deque()
        """Those that came meanwhile."""
        self._asked: Exchange | None = None
        """The one whose body is on its way."""
        self._bodied = False
        """Whether the parser takes a body that is on its way for another protocol."""
        self._came, self._brought = 0, False
        self._last: bytes | None = None
        """What is said at the end, once there is to be one."""
        self._timed: object = None
        """What it is that has to come in time: the rest of a head, an exchange's body, or nothing."""
        self._due = self._armed = inf
        self._timer: asyncio.TimerHandle | None = None
        self._held_back = False
        self._drained: asyncio.Event | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._usual: list[tuple[bytes, bytes]] = []
        self._opening = b""

    # what the event loop and the server call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        self.transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]  # its own, by name
        self._common = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": "",
        }
        self._within(HEAD_TIME)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.gone = True
        self._server.connections.discard(self)
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        if self._exchange is not None:
            self._exchange.wake()
        self._waiting.clear()
        self.resume_writing()
        del self._parser

    def data_received(self, data: bytes) -> None:
        if self._last is not None:
            return
        self._came += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            log.warning("no HTTP: %s", error.__context__ or error)
            self._hang_up(STATUS[400] + self.opening() + PLAIN % (len(RUBBISH), RUBBISH))
        brought, self._brought = self._brought, False
        if brought and self._asked is None and not self._url:
            self._came, self._due = 0, inf
            if self._exchange is None:
                self._within(self._unused)
        else:
            self._bound(brought=brought)
        if (exchange := self._exchange) is not None and exchange.task is None:
            self._begin(exchange)

    def pause_writing(self) -> None:
        self._drained = asyncio.Event()
        self._wait_till_taken()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        if self._stalled is not None and not self.gone:
            self._stalled.cancel()
            self._stalled = None

    def shutdown(self) -> None:
        """Let what was asked be answered, and that be the end."""
        if self._exchange is None:
            self.close()
        else:
            self._newest(self._exchange).keep = False

    # what the parser calls

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        scope = self._common.copy()
        scope["path"], scope["raw_path"], scope["query_string"] = target(self._url)
        scope["method"] = parser.get_method().decode("ascii")
        named = dict(headers)
        scope["headers"] = headers if len(named) == len(headers) else joined(headers)
        version = parser.get_http_version()
        scope["http_version"] = version
        if (named_host := named.get(b"host")) is None or named_host != self._host or len(named) != len(headers):
            self._host = host(headers, version)
        keep = version == "1.1" and parser.should_keep_alive()
        expects = b"expect" in named and version == "1.1" and named[b"expect"].lower() == b"100-continue"
        exchange = self._asked = Exchange(self, scope, keep=keep, expects=expects)
        if self._exchange is None and not self._waiting:
            self._exchange = exchange
        else:
            self._waiting.append(exchange)
            self._hold_back()
        self._url, self._headers = b"", []
        self._brought, self._timed = True, None
        if b"upgrade" in named and parser.should_upgrade():
            self._bodied = not named.keys().isdisjoint(FRAMING)

    def on_body(self, piece: bytes) -> None:
        exchange = self._asked
        if exchange is not None and not exchange.complete:
            self._brought = True
            exchange.parts.append(piece)
            exchange.size += len(piece)
            if exchange.size > UNREAD:
                self._hold_back()
            if exchange.event is not None:
                exchange.wake()

    def on_message_complete(self) -> None:
        if self._bodied:
            return
        exchange, self._asked = self._asked, None
        self._brought, self._headers = True, []  # trailers go no further
        if exchange is not None:
            exchange.whole = True
            if exchange.event is not None:
                exchange.wake()

    # what an exchange calls

    def opening(self) -> bytes:
        """Give what each head begins with behind its status: the server's headers, which change with the second."""
        usual = self._server.default_headers
        if usual is not self._usual:
            self._usual, self._opening = usual, lines(usual)[0]
        return self._opening

    def writable(self) -> Awaitable[Any]:
        """Wait until what was written is on its way."""
        return self.done if self._drained is None else self._drained.wait()

    def read_on(self) -> None:
        """Read on, unless others wait for their turn or this is the end."""
        if self._held_back and not self._waiting and self._last is None and not self.transport.is_closing():
            self._held_back = False
            self.transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next, or wait for it."""
        self._exchange = None
        if not exchange.keep:
            self.close()
        elif self._waiting:
            self.loop.call_soon(self._next)
        elif self._last is not None:
            self._say(self._last)
        else:
            if self._asked is None and not self._url:
                self._within(self._unused)
            self.read_on()

    def close(self) -> None:
        """Close, once what was written has left."""
        self.gone = True
        self._wait_till_taken()
        self.transport.close()

    # what is parsed

    def _parse(self, data: bytes) -> None:
        """Parse what came. Raises HttpParserError."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as other:
            asked, self._bodied = self._asked if self._bodied else None, False
            if asked is None:
                self._hang_up(b"")
            else:
                asked.keep = False
                self._parser = HttpRequestParser(_Body(self))
                self._parser.feed_data(_framed(asked) + data[other.args[0] :])

    # whose turn it is

    def _begin(self, exchange: Exchange) -> None:
        """Let the application answer: it begins at once, without waiting for the event loop's next turn."""
        tasks = self._server.tasks
        task = asyncio.Task(exchange.run(self._application, tasks), loop=self.loop, eager_start=True)
        exchange.task = task
        if not task.done():
            tasks.add(task)

    def _next(self) -> None:
        if self._exchange is None and self._waiting and not self.gone:
            self._exchange = self._waiting.popleft()
            self.read_on()
            self._begin(self._exchange)

    def _newest(self, exchange: Exchange) -> Exchange:
        return self._waiting[-1] if self._waiting else exchange

    def _hold_back(self) -> None:
        if not self._held_back and not self.transport.is_closing():
            self._held_back = True
            self.transport.pause_reading()

    # how much, how long, and the end

    def _bound(self, *, brought: bool) -> None:
        """Time what is on its way, count what brought nothing, and hang up on too much of it."""
        asked = self._asked
        coming = asked if asked is not None else _A_HEAD if self._url else None
        if coming is not None and coming is not self._timed:
            self._timed = coming
            self._within(HEAD_TIME if asked is None else BODY_TIME)
        if brought:
            self._came = 0
        elif asked is None:
            if self._came > HEAD:
                self._hang_up(TOO_LARGE)
        elif self._came > (REFUSED if asked.complete else HEAD):
            self.close()

    def _within(self, seconds: float) -> None:
        """Close in so many seconds, unless told otherwise. One timer, which is moved only when it is due."""
        self._due = self.loop.time() + seconds
        if self._due < self._armed:
            if self._timer is not None:
                self._timer.cancel()
            self._armed = self._due
            self._timer = self.loop.call_at(self._due, self._look)

    def _wait_till_taken(self) -> None:
        """Look after TAKE_TIME what the client has taken of what was written."""
        if self._stalled is None and (left := self.transport.get_write_buffer_size()):
            self._stalled = self.loop.call_later(TAKE_TIME, self._look_what_is_left, left)

    def _look_what_is_left(self, before: int) -> None:
        self._stalled = None
        if self.transport.get_write_buffer_size() < before:
            self._wait_till_taken()
        else:
            self.transport.abort()

    def _look(self) -> None:
        self._timer, self._armed = None, inf
        if (left := self._due - self.loop.time()) > 0:
            if left < inf:
                self._within(left)
        elif self._asked is None:
            self._hang_up(b"")
        else:
            self.close()

    def _hang_up(self, words: bytes) -> None:
        """Read no more, and close once all that came whole is answered and these words are said."""
        self._last = words
        self._hold_back()
        broken, self._asked = self._asked, None
        if broken is not None and broken in self._waiting:
            self._waiting.remove(broken)
        exchange = self._exchange
        if exchange is None:
            self._say(words)
        elif exchange is broken:
            self._say(words if exchange.unsaid else b"")
        elif not words:
            self._newest(exchange).keep = False

    def _say(self, words: bytes) -> None:
        if words:
            self.transport.write(words)
        self.close()


class _Body:
    """What a parser may tell a connection that has its head already."""

    def __init__(self, intake: Intake) -> None:
        self.on_body, self.on_message_complete = intake.on_body, intake.on_message_complete


def _framed(asked: Exchange) -> bytes:
    """Write the head that a body is parsed behind: what frames it, and that nothing comes after it."""
    framing = b"".join(b"\r\n%b: %b" % (name, value) for name, value in asked.scope["headers"] if name in FRAMING)
    return b"POST / HTTP/1.1\r\nconnection: close" + framing + b"\r\n\r\n"
