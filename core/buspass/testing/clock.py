"""A clock that moves when it is told to, or when somebody sleeps.

Owns a test's time and randomness. Refuses to wait for real.
"""

from __future__ import annotations

import asyncio
import heapq
from random import Random


class FakeClock:
    """`now` starts at `start` (ms since the epoch), `monotonic` at 0; `random` repeats for the same seed.

    A sleep takes no real time: when every other task had its turn, the sleeper that is due first wakes, and
    it is its time. So sleepers wake in the order that real ones would.
    """

    def __init__(self, start: int = 1_790_000_000_000, *, seed: int = 0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._random = Random(seed)
        self._sleepers: list[tuple[float, int]] = []
        self._ticket = 0

    def now(self) -> int:
        return self._start + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    def random(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def advance(self, seconds: float) -> None:
        """Move on at once. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"{seconds} s: a clock goes forward")
        self._elapsed += seconds

    async def sleep(self, seconds: float) -> None:
        self._ticket += 1
        mine = (self._elapsed + max(0.0, seconds), self._ticket)
        heapq.heappush(self._sleepers, mine)
        try:
            await asyncio.sleep(0)
            while self._sleepers[0] != mine and self._elapsed < mine[0]:  # noqa: ASYNC110  (no event: it is a turn)
                await asyncio.sleep(0)
            self._elapsed = max(self._elapsed, mine[0])
        finally:
            self._sleepers.remove(mine)
            heapq.heapify(self._sleepers)
