"""Fair waiting for money that calls in flight still hold.

Owns the queue of this process's callers for one task, first come first served. Other processes are met by looking
again: the store has no way to call back. Refuses to know accounts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LOOK_AGAIN: Final = 0.05
"""Seconds until the first in line looks again: a settle in another process is seen this late at most."""


class Lines:
    """One line per task. The first in line may try; a settle here wakes it at once."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[asyncio.Event]] = {}

    def busy(self, task: str) -> bool:
        """Say whether somebody waits already: a newcomer then goes behind them."""
        return task in self._lines

    def wake(self, task: str) -> None:
        """Let the first in line look now: something was given back."""
        if line := self._lines.get(task):
            line[0].set()

    @asynccontextmanager
    async def turn(self, task: str, until: float) -> AsyncIterator[asyncio.Event]:
        """Wait until first in line; raises TimeoutError at `until` (event loop's time, seconds)."""
        line = self._lines.setdefault(task, deque())
        mine = asyncio.Event()
        line.append(mine)
        try:
            while line[0] is not mine:
                async with asyncio.timeout_at(until):
                    await mine.wait()
                mine.clear()
            yield mine
        finally:
            first = line[0] is mine
            line.remove(mine)
            if not line:
                del self._lines[task]
            elif first:
                line[0].set()

    @staticmethod
    async def news(mine: asyncio.Event, until: float) -> None:
        """Wait for a wake, or for the time to look again. Raises TimeoutError at `until`."""
        now = asyncio.get_running_loop().time()
        if now >= until:
            raise TimeoutError
        try:
            async with asyncio.timeout_at(min(until, now + LOOK_AGAIN)):
                await mine.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() >= until:
                raise
        mine.clear()
