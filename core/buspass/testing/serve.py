"""Serves an ASGI application on a loopback port, in this process, while a block runs.

Owns the port and the server's life. Refuses to know what the application does. For tests, demos and examples.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn

LOOPBACK = "127.0.0.1"
_LOWEST, _PORTS = 20_000, 12_000
_GIVEN: set[int] = set()
_ALONE = threading.Lock()


def free_port() -> int:
    """A loopback port that nobody listens on now, and that no call gives again while this process lives, here or in
    another process of this user. So where nobody is told to listen, nobody of ours does. OSError: none is left.

    Not of those that a system gives by itself (from 32768 on with Linux, from 49152 elsewhere): any connection that is
    made meanwhile would take one of these.
    """
    locks = _locks()
    for _ in range(100):
        port = _LOWEST + secrets.randbelow(_PORTS)
        with _ALONE, contextlib.suppress(OSError), socket.socket() as probe:
            if port not in _GIVEN:
                probe.bind((LOOPBACK, port))
                fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                _GIVEN.add(port)
                return port
    raise OSError(errno.EADDRINUSE, f"no free port from {_LOWEST} to {_LOWEST + _PORTS}")


@functools.cache
def _locks() -> int:
    """An empty file, of which a process locks one byte for each port that it was given: the system forgets the locks
    with the process, however that ends. It stays open, as closing it would give them all back."""
    path = Path(tempfile.gettempdir()) / f"buspass-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.asynccontextmanager
async def serving(app: Any, *, port: int | None = None) -> AsyncIterator[str]:
    """Serve `app` on 127.0.0.1 at `port` (default: a free one); yields its URL, without a trailing slash.

    The server answers when the block begins and has stopped when it ends. OSError: the port is taken.
    """
    # asyncio turns Nagle's algorithm off for a socket that says it is TCP, and for no other: 44 ms a request
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port or 0))
    except OSError:
        listener.close()
        raise
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.stop.set()
        await task
        listener.close()


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers alone, as several servers share them, and stops without a tick's delay."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        counter = 0
        while not self.stop.is_set() and not await self.on_tick(counter):
            counter += 10  # uvicorn counts tenths of a second; every tenth tick renews the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), timeout=1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody more, and let who was being accepted come in first: asyncio would leave its connection open."""
        for listening in [each for server in self.servers for each in server.sockets]:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
