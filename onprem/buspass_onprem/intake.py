"""What a connection may send before anybody knows who it is: uvicorn's own protocol bounds neither a head nor a wait.

Owns the bytes and the seconds of a request that is not whole yet. Refuses to know what is in it: bodies are bounded by
the routes, which know theirs.

    what is on its way                    bytes, at most        seconds, at most
    a head                                HEAD, else 431        HEAD_TIME, an unused connection's too
    a body                                the route's           BODY_TIME
    around a body: what ends it, trailers HEAD                  BODY_TIME
    a body that was answered already      REFUSED               BODY_TIME
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD: Final = 64 * 1024
HEAD_TIME: Final = 75.0
"""As long as an idle connection is kept: proxies may open some before they need them."""
BODY_TIME: Final = 300.0
REFUSED: Final = 32 * 1024 * 1024
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Intake(HttpToolsProtocol):
    """One connection. Nearly every read ends a whole request: then it costs a look."""

    _came = 0
    """Bytes since the last read that ended a head or had a part of a body."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._within(HEAD_TIME)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        had = len(before.body) if before is not None and before.more_body else 0
        super().data_received(data)
        headed = self.scope is not None and "path" in self.scope
        if headed and not self.cycle.more_body:
            self._came = 0
            if self._late is not None:
                self._in_time()
        elif headed and self.cycle is not before:
            self._came = 0
            self._in_time()
            self._within(BODY_TIME)
        elif headed and len(self.cycle.body) > had:
            self._came = 0
        else:
            self._bound(len(data), headed=headed)

    def _bound(self, size: int, *, headed: bool) -> None:
        """Count what brought nothing, and hang up on too much of it."""
        self._came += size
        if self._late is None:
            self._within(HEAD_TIME)
        answered = self.cycle is None or self.cycle.response_complete
        if self._came > (REFUSED if headed and answered else HEAD):
            if answered and not headed:
                self.transport.write(TOO_LARGE)
            self.transport.close()

    def _within(self, seconds: float) -> None:
        self._late = self.loop.call_later(seconds, self.transport.close)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
