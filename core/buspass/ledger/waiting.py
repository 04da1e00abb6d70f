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

    __slots__ = ("_inside", "_line", "_width")

    def __init__(self) -> None:
        self._width, self._inside = AT_ONCE, 0
        self._line: deque[asyncio.Future[None]] | None = None

    @property
    def deserted(self) -> bool:
        """Whether nobody is inside, nor waits."""
        return not self._inside and not self._line

    def at_once(self) -> bool:
        """Enter where there is room; else say False."""
        if self._inside >= self._width or self._line:
            return False
        self._inside += 1
        return True

    async def enter(self, seconds: float) -> None:
        """Wait for a place inside, which is to be left again. Raises TimeoutError after so many seconds."""
        if self.at_once():
            return
        line = self._line = deque() if self._line is None else self._line
        mine = asyncio.get_running_loop().create_future()
        line.append(mine)
        try:
            async with asyncio.timeout(seconds):
                await mine
        except BaseException:
            if mine in line:
                line.remove(mine)
            elif not mine.cancelled():  # let in and called off in the same moment
                self.leave(None)
            raise

    def leave(self, took: float | None) -> None:
        """Leave, and say after how many seconds; None where that says nothing of how fast the store is."""
        self._inside -= 1
        if took is not None:
            if took > SLOW:
                self._width = max(1, self._width - 1)
            elif took < QUICK and self._width < AT_ONCE:
                self._width += 1
        line = self._line
        while line and self._inside < self._width:
            mine = line.popleft()
            if not mine.done():
                self._inside += 1
                mine.set_result(None)


class Inside:
    """A place inside a task's gate, left with the block: how long it took says how fast the store is, without error."""

    __slots__ = ("_began", "_gate", "_lines", "_task", "_time")

    def __init__(self, lines: Lines, task: str, gate: Gate) -> None:
        self._lines, self._task, self._gate = lines, task, gate
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._gate.leave(self._time() - self._began if kind is None else None)
        self._lines.left(self._task, self._gate)


class Lines:
    """One line per task. Who has nobody before them that lacks what they need may try; a settle here wakes them."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Place]] = {}
        self._gates: dict[str, Gate] = {}

    def at_once(self, task: str) -> Inside | None:
        """Become one of few who write, as long as the block runs, where that needs no wait; None: `enter`."""
        gate = self._gates.get(task)
        if gate is None:
            gate = self._gates[task] = Gate()
        return Inside(self, task, gate) if gate.at_once() else None

    async def enter(self, task: str, seconds: float) -> Inside:
        """Wait for the same. Raises Problem state_unavailable after so many seconds."""
        gate = self._gates.setdefault(task, Gate())
        try:
            await gate.enter(seconds)
        except TimeoutError:
            detail = "the store did not come to write this call's hold in time; nothing was sent; retry later"
            raise Problem("state_unavailable", detail, retry_after=1) from None
        finally:
            self.left(task, gate)  # who gave up may have been the last at it
        return Inside(self, task, gate)

    def left(self, task: str, gate: Gate) -> None:
        """Forget a gate that nobody is at: the next one who comes finds it as wide as any."""
        if gate.deserted:
            self._gates.pop(task, None)

    def stand(self, task: str) -> bool:
        """Whether anybody waits for what a task lacks."""
        return task in self._lines

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
        if (line := self._lines.get(task)) is None:
            return
        lacked: frozenset[str] = frozenset()
        for place in line:
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
