"""One thread that works off together whatever waits for it, and answers on the callers' event loops.

Owns the thread, its queue and the way back. Refuses to know what the work is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from msgspec import Struct

type Answers[A] = Sequence[A | Exception]


class Turn[J, A](Struct, eq=False):
    """What one turn of an event loop asked."""

    loop: asyncio.AbstractEventLoop
    jobs: list[J]
    futures: list[asyncio.Future[A]]


class Batches[J, A]:
    """Jobs in, answers out: `work` gets what waits (turn by turn, until it is `most`), and answers each in its place.

    What is asked in one turn of an event loop is handed over at its end: the thread is woken once for all of it, and
    not while the loop still needs the interpreter.
    """

    def __init__(self, name: str, work: Callable[[list[J]], Answers[A]], most: int = 256) -> None:
        self._work, self._most = work, most
        self._asked: dict[asyncio.AbstractEventLoop, Turn[J, A]] = {}
        self._queue: SimpleQueue[Turn[J, A] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, job: J) -> asyncio.Future[A]:
        """Promise the running loop the job's answer, or what is raised where the answer is an exception."""
        loop = asyncio.get_running_loop()
        turn = self._asked.get(loop)
        if turn is None:
            turn = self._asked[loop] = Turn(loop, [], [])
            loop.call_soon(self._hand_over, loop)
        future: asyncio.Future[A] = loop.create_future()
        turn.jobs.append(job)
        turn.futures.append(future)
        return future

    async def close(self) -> None:
        """Let the thread work off what was asked before, and end. What is asked later is never answered."""
        for loop in [*self._asked]:
            self._hand_over(loop)
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = self._asked.pop(loop, None)
        if turn is not None:  # else it was done at the end already
            self._queue.put(turn)

    def _run(self) -> None:
        turn = self._queue.get()
        while turn is not None:
            turns = [turn]
            jobs = turn.jobs
            while len(jobs) < self._most and not self._queue.empty():  # this thread alone takes from it
                if (turn := self._queue.get()) is None:
                    break
                jobs += turn.jobs
                if turn.loop is turns[-1].loop:
                    turns[-1].futures += turn.futures  # a loop is woken once for what it asked in several turns
                else:
                    turns.append(turn)
            self._answer(turns, jobs)
            turn = self._queue.get() if turn is not None else None

    def _answer(self, turns: list[Turn[J, A]], jobs: list[J]) -> None:
        try:
            answers = self._work(jobs)
            assert len(answers) == len(jobs)
        except Exception as error:  # noqa: BLE001  (a caller who never gets an answer would hang: it gets the error)
            answers = [error] * len(jobs)
        at = 0
        for turn in turns:
            mine = answers[at : at + len(turn.futures)]
            at += len(mine)
            try:
                turn.loop.call_soon_threadsafe(_resolve, turn.futures, mine)
            except RuntimeError:  # that loop is closed: nobody is left to hear it
                continue


def _resolve[A](futures: list[asyncio.Future[A]], answers: Answers[A]) -> None:
    for future, answer in zip(futures, answers):  # noqa: B905  (as many: a comparison costs as much as the rest)
        if future.done():  # its caller was cancelled
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
