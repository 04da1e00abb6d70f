"""One thread that works off together whatever waits for it, and answers on the callers' event loops.

Owns the thread, its queue and the way back. Refuses to know what the work is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

type Answers[A] = Sequence[A | Exception]
type Asked[J, A] = list[tuple[J, asyncio.Future[A]]]
type Resolved[A] = list[tuple[asyncio.Future[A], A | Exception]]


class Batches[J, A]:
    """Jobs in, answers out: `work` gets all jobs that wait (at most `most`), and answers each in its place.

    What is asked in one turn of an event loop is handed over at its end: the thread is woken once for all of it, and
    not while the loop still needs the interpreter.
    """

    def __init__(self, name: str, work: Callable[[list[J]], Answers[A]], most: int = 256) -> None:
        self._work, self._most = work, most
        self._asked: dict[asyncio.AbstractEventLoop, Asked[J, A]] = {}
        self._queue: SimpleQueue[Asked[J, A] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ask(self, job: J) -> A:
        """Give the job's answer, or raise it where it is an exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        if (asked := self._asked.get(loop)) is None:
            asked = self._asked[loop] = []
            loop.call_soon(self._hand_over, loop)
        asked.append((job, future))
        return await future

    async def close(self) -> None:
        """Let the thread work off what was asked before, and end. What is asked later is never answered."""
        for loop in [*self._asked]:
            self._hand_over(loop)
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.pop(loop, None)
        if asked is not None:  # else it was done at the end already
            self._queue.put(asked)

    def _run(self) -> None:
        ending = False
        while not ending:
            waiting = self._queue.get()
            batch: Asked[J, A] = []
            while waiting is not None:
                batch += waiting
                if len(batch) >= self._most:
                    break
                try:
                    waiting = self._queue.get_nowait()
                except Empty:
                    break
            ending = waiting is None
            for start in range(0, len(batch), self._most):
                self._answer(batch[start : start + self._most])

    def _answer(self, batch: Asked[J, A]) -> None:
        try:
            answers = self._work([job for job, _ in batch])
        except Exception as error:  # noqa: BLE001  (a caller who never gets an answer would hang: it gets the error)
            answers = [error] * len(batch)
        by_loop: dict[asyncio.AbstractEventLoop, Resolved[A]] = {}
        for (_, future), answer in zip(batch, answers, strict=True):
            loop = future.get_loop()
            if (resolved := by_loop.get(loop)) is None:
                resolved = by_loop[loop] = []
            resolved.append((future, answer))
        for loop, resolved in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, resolved)
            except RuntimeError:  # that loop is closed: nobody is left to hear it
                continue


def _resolve[A](resolved: Resolved[A]) -> None:
    for future, answer in resolved:
        if future.done():  # its caller was cancelled
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
