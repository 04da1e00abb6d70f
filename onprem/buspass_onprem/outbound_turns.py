"""Whose turn it is to be under way, of so many at once: `asyncio.Semaphore`, whose every acquire is a coroutine.

Owns the order: first come, first served. Refuses to know what is waited for, and for how long.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """So many at once. Each that came in, by `at_once` or `wait`, calls `done` once."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    def at_once(self) -> bool:
        """Take a turn if there is one; none is left while anybody waits."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    async def wait(self) -> None:
        """Take a turn once it comes. Whoever is cancelled meanwhile has none."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was handed over in the same moment
                self.done()
            raise

    def done(self) -> None:
        """Give a turn back: to the first that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._left += 1
