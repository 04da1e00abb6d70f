"""The on-prem host: the application behind uvicorn, one process, until a signal.

Owns the listening socket, the signals, the data directory's mode and what such a host can carry. Refuses to know
routes, configuration and terminals: whoever runs it says what is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import uvicorn

from buspass.errors import ConfigError
from buspass.http import Application, start
from buspass.model import Limits
from buspass_onprem.apart import document
from buspass_onprem.intake import Intake
from buspass_onprem.outbound import DirectOutbound

LIMITS: Final = Limits(
    request_bytes=20 * 1024 * 1024,
    response_bytes=200 * 1024 * 1024,
    first_byte=600.0,
    total=900.0,
)
DRAIN: Final = 25
"""Seconds that calls in flight have after a stop, below the 30 that container platforms wait before they kill."""
IDLE: Final = 75
"""Seconds that an idle connection is kept: longer than the 60 of usual proxies, so that they close it, not we."""
OURS: Final = ("keys", "operator.key", "state.db", "queue.db", "blobs")
"""What lies in a data directory, by the beginning of its name."""

type Ready = Callable[[str, Application], Awaitable[None]]
"""Called with the URL and the application once requests are answered."""


class _Server(uvicorn.Server):
    """Says when it answers, and leaves signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._ready = ready
        self.said: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.said = asyncio.ensure_future(self._ready())
        self.said.add_done_callback(self._stop_if_it_failed)

    def _stop_if_it_failed(self, said: asyncio.Future[None]) -> None:
        if said.cancelled() or said.exception() is not None:
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would raise a signal again when it is done, before the application could be closed."""
        yield


async def serve(environ: Mapping[str, str], *, bind: str, port: int, ready: Ready) -> signal.Signals | None:
    """Serve until SIGTERM or SIGINT, which is returned; `port` 0 takes a free one. A second one ends at once.

    Reads BUSPASS_CONFIG, BUSPASS_HOST and BUSPASS_DATA of `environ`. Raises ConfigError for a configuration or a data
    directory that can't be used, OSError where the address is not to be had.
    """
    data_directory(environ)
    with listen(bind, port) as listener:
        where = listener.getsockname()[1]
        read = document(environ, bind=bind, port=where)
        application = await start(environ, LIMITS, bind=bind, port=where, document=read, dispatch=DirectOutbound)
        timer = asyncio.create_task(application.keep())
        application.warm()
        gc.collect()
        gc.freeze()  # what is there now stays: a full collection would look at all of it again, calls waiting meanwhile
        try:
            return await _run(application, listener, ready, f"http://{_in_url(bind)}:{where}")
        finally:
            gc.unfreeze()
            timer.cancel()
            await asyncio.wait([timer])
            await application.close()


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes the loop to serve on: uvloop's where there is one, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


def listen(bind: str, port: int) -> socket.socket:
    """Take the address before anything is opened: a second gateway must not touch the first one's store."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.create_server((bind, port), family=family, backlog=2048) as listener:
        # asyncio turns Nagle's algorithm off only where a socket names its protocol: without that, a connection that
        # is kept waits 40 ms for each answer after its first.
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())


async def _run(application: Application, listener: socket.socket, ready: Ready, url: str) -> signal.Signals | None:
    server = _Server(_configuration(application), lambda: ready(url, application))
    stopped: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped.append(number)
        server.handle_exit(number, None)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if server.said is not None:
        await server.said
    return stopped[0] if stopped else None


def _configuration(application: Application) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        interface="asgi3",
        http=Intake,
        loop="auto",
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here believes X-Forwarded-For
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=DRAIN,
    )


def _in_url(bind: str) -> str:
    return f"[{bind}]" if ":" in bind else bind


def data_directory(environ: Mapping[str, str]) -> Path:
    """Make BUSPASS_DATA for its owner alone, and close one of ours that everybody may enter. Raises ConfigError."""
    path = Path(environ["BUSPASS_DATA"])
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            _close_to_others(path, mode)
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError([f"BUSPASS_DATA {path}: cannot be written; name another directory"])
    except FileExistsError as error:
        raise ConfigError([f"BUSPASS_DATA {path}: a file is there, and no directory; name a directory"]) from error
    except OSError as error:
        raise ConfigError([f"BUSPASS_DATA {path}: {error.strerror}; name another directory"]) from error
    return path


def _close_to_others(path: Path, mode: int) -> None:
    """Take others' rights away, unless something else lies there: BUSPASS_DATA=/tmp must not close /tmp."""
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(OURS))
    if strangers:
        raise ConfigError(
            [f"BUSPASS_DATA {path}: others may enter it, and {strangers[0]!r} is not ours; name one of its own"]
        )
    path.chmod(mode & 0o770)
