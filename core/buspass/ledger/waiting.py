"""Fair waiting for money that calls in flight still hold, and for the store that writes one task's holds one by one.

Owns the queue of this process's callers for one task: first come first served among those who need an account that
one of them lacks; who needs none of these is not kept waiting. Other processes are met by looking again: the store has
no way to call back. Refuses to know what an account is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from buspass.errors import Problem

AT_ONCE: Final = 16
"""Holds of one task that this process has under way. A store writes one item's changes one after the other: more would
only wait there, behind one another and before every settle, until a hold that stands has no time left to be sent.
"""
LOOK_AGAIN: Final = 0.05
"""Seconds until who may try looks again: a settle in another process is seen this late at most."""


@dataclass(eq=False, slots=True, kw_only=True)
class Place:
    """One caller in line. `needs`: every account it takes from; `lacks`: those that it waits for."""

    needs: frozenset[str]
    lacks: frozenset[str]
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Lines:
    """One line per task. Who has nobody before them that lacks what they need may try; a settle here wakes them."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Place]] = {}
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def writing(self, task: str, seconds: float) -> AsyncIterator[None]:
        """Be one of AT_ONCE while the block runs, first come first served.

        Raises Problem state_unavailable after `seconds` of waiting for it.
        """
        gate = self._gates.get(task) or self._gates.setdefault(task, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(seconds if gate.locked() else None):
                await gate.acquire()
        except TimeoutError:
            detail = "the store did not come to write this call's hold in time; nothing was sent; retry later"
            raise Problem("state_unavailable", detail, retry_after=1) from None
        try:
            yield
        finally:
            gate.release()

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
