"""Stores that fail and links that are cut: what a simulated host stands on.

Owns every fault that a store and the way to it can show, and tells the world of each. Refuses to know what is stored.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from buspass.ports.state import Applied, OutcomeUnknown, Refused, Unavailable, check
from buspass.testing.state_memory import Crash, Down, MemoryState

LATER = (1.0, 4.0, 12.0, 40.0)
"""Seconds that a message takes which is delayed: less than a call has, and more."""
FROZEN = 700.0
"""Seconds until a host goes on that was frozen between two steps: by then it has been given up."""


class Store(MemoryState):
    """The memory adapter in a world of its own time: the way to it takes time, not the store; every change is told.

    `watch(name, partition, operations)` is called after each step that took effect, also where a late write arrives.
    Items are handed over as they are (nobody changes one), and one apply in eight is checked against the port's rules:
    every adapter checks them all.
    """

    def __init__(self, world, name):
        super().__init__(transactional=True, trouble=world.trouble, random=world.random, copies=False)
        self._world, self._name, self._asked = world, name, 0
        self._shards = defaultdict(dict)

    async def apply(self, partition, operations):
        self._asked += 1
        if not self._asked & 7:
            check(operations)
        await self._arrive()
        fault = self._drawn(len(operations)) if self.trouble else None
        if fault is not None and not self._world.meets("unknown" if type(fault) is not Down else "down"):
            fault = None
        return self._step(partition, 0, operations, fault)

    async def find(self, index, shard, until, limit):
        found = sorted((sort, *place) for place, sort in self._shards[index, shard].items() if sort <= until)
        return [(partition, key) for _, partition, key in found[:limit]]

    def _enter(self, place, entry):
        """As the adapter does, and by shard as well: a timer looks through them all the time."""
        partition, key, index = place
        if (old := self._entries.get(place)) is not None:
            del self._shards[index, old[0]][partition, key]
        if entry is not None:
            self._shards[index, entry[0]][partition, key] = entry[1]
        super()._enter(place, entry)

    async def _arrive(self):
        if self.late and self.trouble and self._random.random() < self._world.arrival:
            self.deliver()

    def _take(self, partition, first, step):
        answer = super()._take(partition, first, step)
        if isinstance(answer, Applied):
            self._world.watch(self._name, partition, step)
        return answer


class Wire:
    """One process's way to one store: it takes time, may be cut, and the process may die on it.

    The world has `random`, `trouble` (how often a write fails), `mortality` (how often a process dies on its way),
    `throttle` and `slow` (how often a request is refused for now, or takes seconds), `arrival` (how soon late writes come),
    `transactional`, `calm` (nothing
    fails any more), `cuts` ({(host, store)}), `delays` (four, in seconds), `meets(kind)`, which says whether a fault
    happens, and `watch`.
    `driver_retries`: a driver sends again what it got no answer to, which no driver of ours may.
    """

    def __init__(self, world, process, name):
        self._world, self._process, self._name = world, process, name
        self._random, self._pause = world.random.random, asyncio.get_running_loop().pause
        self.store = world.stores[name]

    async def read(self, partition, key):
        await self._travel(0)
        found = await self.store.read(partition, key)
        await self._travel(0)  # what is read may be old by now
        return found

    async def list(self, partition, prefix, after, limit):
        await self._travel(0)
        return await self.store.list(partition, prefix, after, limit)

    async def find(self, index, shard, until, limit):
        await self._travel(0)
        return await self.store.find(index, shard, until, limit)

    async def apply(self, partition, operations):
        if self._world.transactional:
            return await self._one(partition, 0, operations)
        for number, operation in enumerate(operations):
            answer = await self._one(partition, number, (operation,))
            if isinstance(answer, Refused):
                return Refused(number, answer.item)
        return answer

    async def close(self):
        pass

    async def _one(self, partition, number, step):
        await self._travel(number)
        answer = await self._step(partition, number, step)
        await self._travel(number, back=True)
        return answer

    async def _step(self, partition, number, step):
        world = self._world
        for retry in (True, False):
            try:
                return await self.store.apply(partition, step)
            except Unavailable:
                raise Unavailable(number) from None
            except OutcomeUnknown:
                if not (retry and world.driver_retries):
                    raise OutcomeUnknown(number) from None
        raise AssertionError("unreachable")

    async def _travel(self, number, *, back=False):
        """Go there, or come back with the answer; what fails on the way back was done."""
        world, process = self._world, self._process
        if process.dead:
            raise Crash
        chance = self._random()
        if chance < world.hazard and process.ready and not world.calm:
            await self._hazard(chance, number, back)
        if world.cuts and process.ready and (process.host, self._name) in world.cuts and world.meets("cut"):
            raise (OutcomeUnknown if back else Unavailable)(number)
        if delay := world.delays[int(self._random() * 4)]:
            await self._pause(delay)
            if process.dead:
                raise Crash

    async def _hazard(self, chance, number, back):
        world = self._world
        if chance < world.mortality:
            if world.meets("crash between two writes" if number else "crash"):
                self._process.die()
                raise Crash
        elif chance < world.mortality + world.slow:
            frozen = self._random() < 0.05
            if world.meets("frozen" if frozen else "delayed"):
                await self._pause(FROZEN if frozen else LATER[int(self._random() * 4)])
        elif not back and world.meets("throttled"):
            raise Unavailable(number)
