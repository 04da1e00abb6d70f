"""Fair waiting for money that calls in flight still hold, and for the store that writes one task's holds one by one.

Owns the queue of this process's callers for one task: first come first served among those who need an account that
one of them lacks; who needs none of these is not kept waiting. Other processes are met by looking again: the store has
no way to call back. Refuses to know what an account is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

from msgspec import Struct, field

from buspass.errors import Problem

AT_ONCE: Final = 16
"""Holds of one task that this process has under way at most. A store writes one item's changes one after the other:
more would only wait there, behind one another and before settles, until a hold that stands has no time left to be sent.
"""
QUICK, SLOW = 0.5, 1.0
"""Seconds: each hold that took longer than SLOW narrows its task's gate by one, each that took less than QUICK widens
it."""
LOOK_AGAIN: Final = 0.05
"""Seconds until who may try looks again: a settle in another process is seen this late at most."""


class Place(Struct, kw_only=True, eq=False):
    """One caller in line. `needs`: every account it takes from; `lacks`: those that it waits for."""

    needs: frozenset[str]
    lacks: frozenset[str]
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """Lets AT_ONCE through at a time, first come first served; fewer while what is behind it takes long."""

    def __init__(self) -> None:
        self._width, self._inside = AT_ONCE, 0
        self._line: deque[asyncio.Future[None]] = deque()

    async def enter(self, seconds: float) -> None:
        """Wait for a place inside, which is to be left again. Raises TimeoutError after so many seconds."""
        if self._inside < self._width and not self._line:
            self._inside += 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._line.append(mine)
        try:
            async with asyncio.timeout(seconds):
                await mine
        except BaseException:
            if mine in self._line:
                self._line.remove(mine)
            elif not mine.cancelled():  # let in and called off in the same moment
                self.leave(None)
            raise

    def leave(self, took: float | None) -> None:
        """Leave, and say after how many seconds; None where that says nothing of how fast the store is."""
        self._inside -= 1
        if took is not None and took > SLOW:
            self._width = max(1, self._width - 1)
        elif took is not None and took < QUICK:
            self._width = min(AT_ONCE, self._width + 1)
        while self._line and self._inside < self._width:
            mine = self._line.popleft()
            if not mine.done():
                self._inside += 1
                mine.set_result(None)


class Inside:
    """A place inside a gate, left with the block; how long it took says how fast the store is, but after an error."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._time = gate, asyncio.get_running_loop().time
        self._began = self._time()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._gate.leave(self._time() - self._began if kind is None else None)


class Lines:
    """One line per task. Who has nobody before them that lacks what they need may try; a settle here wakes them."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Place]] = {}
        self._gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()

    async def enter(self, task: str, seconds: float) -> Inside:
        """Become one of few who write, until `leave`. Raises Problem state_unavailable after `seconds` of waiting."""
        gate = self._gates.get(task)
        if gate is None:
            gate = self._gates[task] = Gate()
        try:
            await gate.enter(seconds)
        except TimeoutError:
            detail = "the store did not come to write this call's hold in time; nothing was sent; retry later"
            raise Problem("state_unavailable", detail, retry_after=1) from None
        return Inside(gate)

    def ahead(self, task: str, needs: frozenset[str], place: Place | None = None) -> frozenset[str]:
        """Give those of `needs` that somebody lacks who stands before this place: before a newcomer stand all."""
        lacked: frozenset[str] = frozenset()
        for other in self._lines.get(task, ()):
            if other is place:
                break
            lacked |= other.lacks
        return lacked & needs

    def wake(self, task: str) -> None:
        """Let everybody look now who may try: something was given back, or somebody waits for something else."""
        lacked: frozenset[str] = frozenset()
        for place in self._lines.get(task, ()):
            if not lacked & place.needs:
                place.news.set()
            lacked |= place.lacks

    @contextmanager
    def place(self, task: str, needs: frozenset[str], lacks: frozenset[str]) -> Iterator[Place]:
        """Stand in line, last, while the block runs."""
        line = self._lines.setdefault(task, [])
        mine = Place(needs=needs, lacks=lacks)
        line.append(mine)
        try:
            yield mine
        finally:
            line.remove(mine)
            if not line:
                del self._lines[task]
            self.wake(task)

    async def turn(self, task: str, mine: Place, until: float) -> None:
        """Wait until this place may try; raises TimeoutError at `until` (event loop's time, seconds)."""
        while self.ahead(task, mine.needs, mine):
            async with asyncio.timeout_at(until):
                await mine.news.wait()
            mine.news.clear()

    async def lacking(self, task: str, mine: Place, lacks: frozenset[str], until: float) -> None:
        """Say what is lacked now, and wait for news or for the time to look again. Raises TimeoutError at `until`."""
        if lacks != mine.lacks:
            mine.lacks = lacks
            self.wake(task)
        now = asyncio.get_running_loop().time()
        if now >= until:
            raise TimeoutError
        try:
            async with asyncio.timeout_at(min(until, now + LOOK_AGAIN)):
                await mine.news.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() >= until:
                raise
        mine.news.clear()
