"""A value that is read from elsewhere, kept for a while, and read again for a stranger, but not at his pace.

Owns when a read happens and that callers share it. Refuses to know what is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from buspass.errors import Problem
from buspass.ports.clock import Clock

PAUSE: Final = 10.0
"""Seconds between two reads that an unknown name may cause."""
RETRY: Final = 1.0
"""Seconds in which a failure is told to everybody who asks, instead of trying again."""


class Cached[T]:
    """`read` gives the value and its lifetime in seconds, or raises Problem.

    `keep_stale`: a value past its lifetime is still given while it can't be read again; else that is the Problem.
    """

    def __init__(
        self, read: Callable[[], Awaitable[tuple[T, float]]], clock: Clock, *, keep_stale: bool = False
    ) -> None:
        self._read = read
        self._clock = clock
        self._keep_stale = keep_stale
        self._lock = asyncio.Lock()
        self._values: list[T] = []
        self._until = float("-inf")
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: Problem | None = None

    async def get(self) -> T:
        """Give a value within its lifetime. Concurrent callers wait for one read."""
        if not self._fresh():
            try:
                await self._renew(lambda: not self._fresh())
            except Problem:
                if not (self._values and self._keep_stale):
                    raise
        return self._values[0]

    async def again(self, seen: T) -> T:
        """Give a value read after `seen`, or `seen` itself where the last read is not PAUSE old."""
        if self._values and self._values[0] is seen and self._rested():
            await self._renew(lambda: self._values[0] is seen and self._rested())
        return self._values[0]

    def _fresh(self) -> bool:
        return bool(self._values) and self._clock.monotonic() < self._until

    def _rested(self) -> bool:
        return self._clock.monotonic() - self._read_at >= PAUSE

    async def _renew(self, wanted: Callable[[], bool]) -> None:
        async with self._lock:
            if not wanted():
                return  # another caller's read came while this one waited
            if self._failure and self._clock.monotonic() - self._failed_at < RETRY:
                raise _repeated(self._failure)
            try:
                value, lifetime = await self._read()
            except Problem as problem:
                self._failure, self._failed_at = problem, self._clock.monotonic()
                raise
            self._failure = None
            self._read_at = self._clock.monotonic()
            self._until = self._read_at + lifetime
            self._values = [value]


def _repeated(problem: Problem) -> Problem:
    """A problem of its own for each caller, since whoever renders it writes the task's name on it."""
    return Problem(problem.code, problem.detail, retry_after=problem.retry_after)
