"""Time, ids and randomness, handed in so that every rule can be tested and simulated. Knows no calendar."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Protocol


class Clock(Protocol):
    """`now` is wall time in milliseconds since the epoch; `monotonic` and `sleep` are in seconds."""

    def now(self) -> int: ...

    def monotonic(self) -> float: ...

    def random(self, length: int) -> bytes: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock and its cryptographic randomness."""

    def __init__(self) -> None:
        self.monotonic = time.monotonic
        self.random = os.urandom

    def now(self) -> int:
        return int(time.time() * 1000.0)  # a float holds it to a quarter of a microsecond

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
