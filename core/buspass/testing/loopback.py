"""Serving an ASGI application on 127.0.0.1 until told to stop: what every local front is run by.

Owns the listening line and the signals. Refuses to know what it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import uvicorn

IDLE: Final = 75
"""Seconds that an idle connection stays: longer than clients keep theirs, or a request meets the close of it."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again when it is done, before its caller could stop what it has started."""
        yield


async def serve(application: Callable[..., Awaitable[None]], *, port: int) -> None:
    """Serve until SIGTERM or SIGINT, and say where on a line `listening URL`. `port` 0 takes a free one.

    Requests in flight have two seconds to end. Raises OSError where the port is taken.
    """
    # asyncio turns Nagle's algorithm off only where a socket names its protocol: without that, 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(256)  # before the line is printed: who reads it may connect at once
    except OSError:
        listener.close()
        raise
    config = uvicorn.Config(
        application,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    sys.stdout.write(f"listening http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve(sockets=[listener])
