"""What a provider sends, read by one task for the whole stream and taken all together.

Owns the reading: a task for every chunk would cost more than what is done with it. Refuses to know what is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

AHEAD: Final = 65_536
"""Bytes read before they are taken, above which reading waits: a slow client must not fill the memory."""


class Arrivals:
    """One body's chunks from here on. `close` it, before its generator is closed."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks
        self._come: list[bytes] = []
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._task = asyncio.ensure_future(self._read())
        self._task.add_done_callback(lambda _: _done(self._wanted))

    def wait(self, seconds: float) -> None:
        """Let every `take` from now on wait no longer than until so many seconds from now."""
        if self._timer is not None:
            self._timer.cancel()
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._end_wait)

    def _end_wait(self) -> None:
        self._over = True
        _done(self._wanted)

    async def take(self) -> list[bytes] | None:
        """Give all that came since; nothing where the time is over, None at the end. Raises what ended it early."""
        if not self._come and not self._task.done() and not self._over:
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        if not self._come:
            if not self._task.done():
                return []
            return self._task.result()
        come, self._come, self._size = self._come, [], 0
        _done(self._room)
        return come

    async def close(self) -> None:
        """Read nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        async for chunk in self._chunks:
            self._come.append(chunk)
            self._size += len(chunk)
            _done(self._wanted)
            if self._size >= AHEAD:
                self._room = asyncio.get_running_loop().create_future()
                await self._room


def _done(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
