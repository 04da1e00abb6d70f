"""The times of many requests on one timer: what `asyncio.timeout` does around each, at a tenth of its cost.

Owns which of them is over. Refuses to know what is waited for.
"""

from __future__ import annotations

import asyncio
import math


class Deadlines:
    """`with deadlines.within(seconds):` in a task. Raises TimeoutError as `asyncio.timeout` does.

    The timer goes off at the earliest time that it was armed for, and is armed anew for the earliest that is left.
    """

    def __init__(self) -> None:
        self._open: dict[Within, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def within(self, seconds: float) -> Within:
        """Give what bounds a block."""
        return Within(self, seconds)

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed = None, math.inf

    def begin(self, each: Within) -> None:
        """Watch over one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # whoever comes from another loop has left the timer there
            self._loop, self._timer, self._armed = loop, None, math.inf
        each.until += loop.time()
        self._open[each] = None
        if each.until < self._armed:
            self._arm(loop, each.until)

    def end(self, each: Within) -> None:
        """Forget it."""
        self._open.pop(each, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = until
        self._timer = loop.call_at(until, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._armed = None, math.inf
        now = loop.time()
        for each in [each for each in self._open if each.until <= now]:
            del self._open[each]
            each.expire()
        if self._open:
            self._arm(loop, min(each.until for each in self._open))


class Within:
    """The time of one block, in one task."""

    __slots__ = ("_before", "_deadlines", "_expired", "_task", "until")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines, self.until, self._expired = deadlines, seconds, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is a task's")
        self._task, self._before = task, task.cancelling()
        self._deadlines.begin(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._deadlines.end(self)
        if self._expired and self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel what the task waits for."""
        self._expired = True
        self._task.cancel()
