"""How long a stream may stand still: one timer for all its reads, armed anew only when it goes off.

Owns what `asyncio.timeout` does around each read, at a tenth of its cost. Refuses to know what is read.
"""

from __future__ import annotations

import asyncio

from buspass.ports.outbound import TimedOut


class Idle:
    """`with idle:` around each read, by one task at a time. Raises TimedOut; `close` it when the stream is over.

    A cancellation that comes together with what was waited for, and that a driver forgets, is raised all the same.
    """

    __slots__ = ("_before", "_expired", "_loop", "_seconds", "_task", "_timer", "_until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._until, self._before, self._expired = 0.0, 0, False

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        self._before = task.cancelling() if task else 0
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        expired, self._expired = self._expired, False
        cancelling = task.uncancel() if expired else task.cancelling()
        if kind is None and cancelling > self._before:
            raise asyncio.CancelledError
        if expired and cancelling <= self._before and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise TimedOut(f"the answer stood still for {self._seconds:g} s") from None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._task is None or self._expired:  # nobody reads: the next read arms it
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
            return
        self._expired = True
        self._task.cancel()
