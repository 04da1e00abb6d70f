"""Simulated time, stores that fail and links that are cut: what a simulated host stands on."""

from __future__ import annotations

import asyncio
import selectors

from buspass.ports.state import OutcomeUnknown, Refused, Unavailable
from buspass.testing.state_memory import Crash

START = 1_790_000_000_000
"""Shortly before a day's end (UTC), so that windows close while tasks live."""


class Instant(selectors.BaseSelector):
    """Waits for nothing: when every task waits, the time of the next one has come."""

    def __init__(self):
        self.now = 0.0
        self._map = {}

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody will ever wake them")
        self.now += max(timeout, 0.0)
        return []

    def register(self, fileobj, events, data=None):
        self._map[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return self._map[fileobj]

    def unregister(self, fileobj):
        return self._map.pop(fileobj)

    def get_map(self):
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.instant = Instant()
        super().__init__(self.instant)

    def time(self):
        return self.instant.now


class LoopClock:
    """The loop's own time, `ahead` ms of it, and one seed's randomness."""

    def __init__(self, random, ahead=0):
        self._random, self.ahead = random, ahead

    def now(self):
        return START + round(self.monotonic() * 1000) + self.ahead

    def monotonic(self):
        return asyncio.get_running_loop().time()

    def random(self, length):
        return self._random.randbytes(length)

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


class Wire:
    """One process's way to one store: it takes time, may be cut, and the process may die on it.

    The world has `random`, `mortality`, `transactional`, `calm` (nothing fails any more), `cuts` ({(host, store)}),
    `delays` (seconds), `fault(kind)` to be told of each, and `check(store, partition)`, called after every single step
    at a store. `driver_retries`: a driver sends again what it got no answer to, which no driver of ours may.
    """

    def __init__(self, world, process, name):
        self._world, self._process, self._name = world, process, name
        self.store = world.stores[name]

    async def read(self, partition, key):
        await self._travel()
        found = await self.store.read(partition, key)
        await self._travel()
        return found

    async def list(self, partition, prefix, after, limit):
        await self._travel()
        return await self.store.list(partition, prefix, after, limit)

    async def find(self, index, shard, until, limit):
        await self._travel()
        return await self.store.find(index, shard, until, limit)

    async def apply(self, partition, operations):
        steps = [operations] if self._world.transactional else [[operation] for operation in operations]
        for number, step in enumerate(steps):
            await self._travel(number)
            answer = await self._step(partition, number, step)
            if isinstance(answer, Refused):
                await self._travel(number, back=True)
                return Refused(number + answer.index, answer.item)
        await self._travel(number, back=True)
        return answer

    async def close(self):
        pass

    async def _step(self, partition, number, step):
        for retry in (True, False):
            try:
                return await self.store.apply(partition, step)
            except Unavailable:
                self._world.fault("down")
                raise Unavailable(number) from None
            except OutcomeUnknown:
                self._world.fault("unknown")
                if not (retry and self._world.driver_retries):
                    raise OutcomeUnknown(number) from None
            finally:
                self._world.check(self._name, partition)
        raise AssertionError("unreachable")

    async def _travel(self, number=0, *, back=False):
        world, process = self._world, self._process
        if process.dead:
            raise Crash
        if process.ready and not world.calm:
            if world.random.random() < world.mortality:
                world.fault("crash")
                process.die()
                raise Crash
            if (process.host, self._name) in world.cuts:
                world.fault("cut")
                raise (OutcomeUnknown if back else Unavailable)(number)
        await asyncio.sleep(world.random.choice(world.delays))
        if process.dead:
            raise Crash
