"""Simulated time: an event loop that waits for nothing, small enough to run a million steps in seconds.

Owns the order in which tasks go on. Refuses to know sockets, threads, signals and real time.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections import deque
from heapq import heappop, heappush

START = 1_790_000_000_000
"""Shortly before a day's end (UTC), so that windows close while tasks live."""


class Step:
    """Something to be called, once."""

    __slots__ = ("args", "callback", "context", "due")

    def __init__(self, callback, args, context, due=0.0):
        self.callback, self.args, self.context, self.due = callback, args, context, due

    def cancel(self):
        self.callback = None

    def cancelled(self):
        return self.callback is None

    def when(self):
        return self.due


class VirtualLoop(asyncio.AbstractEventLoop):
    """When every task waits, the time of the next one has come. What is due at once goes on in the order asked for.

    asyncio's own loop asks the system for news at each step and times itself: four fifths of what a simulation costs.
    """

    def __init__(self):
        self.now, self._ready, self._timers, self._number = 0.0, deque(), [], 0

    def time(self):
        return self.now

    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        step = Step(callback, args, context or contextvars.copy_context())
        self._ready.append(step)
        return step

    def call_at(self, when, callback, *args, context=None):
        step = Step(callback, args, context or contextvars.copy_context(), when)
        self._number += 1
        heappush(self._timers, (when, self._number, step))
        return step

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None, **more):
        return asyncio.Task(coro, loop=self, name=name, context=context, **more)

    def call_exception_handler(self, context):
        raise AssertionError(context["message"], context.get("exception"))

    def is_running(self):
        return True

    def is_closed(self):
        return False

    async def pause(self, seconds):
        """Sleep, as asyncio.sleep does, without a handle that could be cancelled."""
        future = asyncio.Future(loop=self)
        self._number += 1
        heappush(self._timers, (self.now + seconds, self._number, future))
        await future

    def run(self, coro):
        """Run it to its end; then end what it left."""
        asyncio._set_running_loop(self)
        collecting = gc.isenabled()
        gc.disable()  # a world lives for a tenth of a second: looking for its dead ends costs more than they weigh
        try:
            first = self.create_task(coro)
            self._run_until(first)
            left = [task for task in asyncio.all_tasks(self) if not task.done()]
            for task in left:
                task.cancel()
            while any(not task.done() for task in left):
                self._once()
            return first.result()
        finally:
            if collecting:
                gc.enable()
            asyncio._set_running_loop(None)

    def _run_until(self, first):
        ready, timers = self._ready, self._timers
        while True:
            while ready:
                step = ready.popleft()
                if step.callback is not None:
                    step.context.run(step.callback, *step.args)
            if first.done():
                return
            self._wake(timers)

    def _once(self):
        if not self._ready:
            self._wake(self._timers)
        while self._ready:
            step = self._ready.popleft()
            if step.callback is not None:
                step.context.run(step.callback, *step.args)

    def _wake(self, timers):
        """Go on to the next moment, and wake all who wait for it."""
        if not timers:
            raise RuntimeError("everybody waits, and nobody will ever wake them")
        when = timers[0][0]
        self.now = max(self.now, when)
        while timers and timers[0][0] <= when:
            step = heappop(timers)[2]
            if type(step) is Step:
                self._ready.append(step)
            elif not step.done():
                step.set_result(None)


class LoopClock:
    """The loop's own time, `ahead` ms of it, and one seed's randomness."""

    def __init__(self, random, ahead=0):
        self._random, self.ahead = random, ahead
        self._loop = asyncio.get_running_loop()

    def now(self):
        return START + round(self._loop.now * 1000) + self.ahead

    def monotonic(self):
        return self._loop.now

    def random(self, length):
        return self._random.randbytes(length)

    async def sleep(self, seconds):
        await self._loop.pause(seconds)
