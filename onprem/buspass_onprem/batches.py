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
    """What one event loop asked, in one of its turns or while the thread had what it asked before."""

    loop: asyncio.AbstractEventLoop
    jobs: list[J]
    futures: list[asyncio.Future[A]]


class Batches[J, A]:
    """Jobs in, answers out: `work` gets what waits, `most` of one loop at a time, and answers each in its place.

    What is asked in one turn of an event loop is handed over at its end: the thread is woken once for all of it, and
    not while the loop still needs the interpreter. What is asked while the thread has jobs of the loop goes together
    with what their answers bring about: so more share one commit, and the thread leaves the interpreter to whoever was
    answered.
    """

    def __init__(self, name: str, work: Callable[[list[J]], Answers[A]], most: int = 256) -> None:
        self._work, self._most = work, most
        self._asked: dict[asyncio.AbstractEventLoop, Turn[J, A]] = {}
        self._out: set[asyncio.AbstractEventLoop] = set()
        """Loops of which the thread has jobs."""
        self._queue: SimpleQueue[Turn[J, A] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, job: J) -> asyncio.Future[A]:
        """Promise the running loop the job's answer, or what is raised where the answer is an exception."""
        loop = asyncio.get_running_loop()
        turn = self._asked.get(loop)
        if turn is None:
            turn = self._asked[loop] = Turn(loop, [], [])
            if loop not in self._out:
                loop.call_soon(self._hand_over, loop)
        future: asyncio.Future[A] = loop.create_future()
        turn.jobs.append(job)
        turn.futures.append(future)
        return future

    async def close(self) -> None:
        """Let the thread work off what was asked before, and end. What is asked later is never answered."""
        while self._asked:
            self._hand_over(next(iter(self._asked)))
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = self._asked.pop(loop, None)
        if turn is None:  # it was done at the end already
            return
        most = self._most
        if len(turn.jobs) > most:
            self._asked[loop] = Turn(loop, turn.jobs[most:], turn.futures[most:])
            del turn.jobs[most:], turn.futures[most:]
        self._out.add(loop)
        self._queue.put(turn)

    def _run(self) -> None:
        turn = self._queue.get()
        while turn is not None:
            turns, jobs = [turn], turn.jobs
            while len(jobs) < self._most and not self._queue.empty():  # this thread alone takes from it
                if (turn := self._queue.get()) is None:
                    break
                turns.append(turn)
                jobs += turn.jobs
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
                turn.loop.call_soon_threadsafe(self._resolve, turn, mine)
            except RuntimeError:  # that loop is closed: nobody is left to hear it
                self._out.discard(turn.loop)

    def _resolve(self, turn: Turn[J, A], answers: Answers[A]) -> None:
        for future, answer in zip(turn.futures, answers):  # noqa: B905  (a comparison costs as much as the rest)
            if future.done():  # its caller was cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._out.discard(turn.loop)
        if turn.loop in self._asked:
            turn.loop.call_soon(self._hand_over, turn.loop)  # behind those who were answered, and ask for more
