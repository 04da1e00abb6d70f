"""Breakers of several hosts in many schedules: however late the store is, a dead service is met as often as is promised.

A call goes through the gate as a tool's does: both leaves, then its hold, then the service, then what it came to.
"""

import asyncio
from random import Random

import pytest
from virtual import LoopClock, VirtualLoop

from buspass.breakers import Breakers, Fault, Key, Refusal
from buspass.breakers.breakers import COLD
from buspass.ports.state import OutcomeUnknown
from buspass.testing.state_memory import MemoryState

SCHEDULES = 80
SERVICE = Key("tool", "vendor.example")
OWN = Key("task", "vendor.example", "t_1")


class LateState(MemoryState):
    """A store that takes up to `most` seconds before each operation, and after it."""

    def __init__(self, random, most):
        super().__init__()
        self._chance, self._most = random, most

    async def read(self, partition, key):
        await asyncio.sleep(self._chance.uniform(0, self._most))
        item = await super().read(partition, key)
        await asyncio.sleep(self._chance.uniform(0, self._most))
        return item

    async def apply(self, partition, operations):
        await asyncio.sleep(self._chance.uniform(0, self._most))
        answer = await super().apply(partition, operations)
        await asyncio.sleep(self._chance.uniform(0, self._most))
        return answer


class Schedule:
    """One seed's hosts, agents and times."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        state = LateState(random, random.choice([0, 0.005, 0.1, 0.4]))
        self.hosts = [Breakers(state, LoopClock(Random(seed + n))) for n in range(random.randint(1, 3))]
        self.hold = random.choice([0, 0.01, 0.2, 2])
        self.answer = random.choice([0, 0.05, 0.2, 0.9 * COLD])
        self.own = random.random() < 0.5
        self.agents, self.calls = random.choice([(1, 30), (3, 10), (10, 6), (40, 2)])
        self.reached = 0

    async def run(self):
        await asyncio.gather(*(self._agent(host) for host in self.hosts for _ in range(self.agents)))

    async def _agent(self, host):
        await asyncio.sleep(self.random.uniform(0, self.random.choice([0, 0.05, 0.5])))
        for _ in range(self.calls):
            await self._call(host)

    async def _call(self, host):
        try:
            there = await host.enter(SERVICE, wait=10, lasts=10)
        except Refusal:
            return
        try:
            own = await host.enter(OWN, wait=10, lasts=10)
        except Refusal:
            await there.void()
            return
        await asyncio.sleep(self.random.uniform(0, self.hold))
        self.reached += 1
        if there.first:
            there.sent()
        await asyncio.sleep(self.random.uniform(0, self.answer))
        if there.first:
            there.broke()
        if self.own:
            await own.failed(Fault(kind="error_page", status=404))
            await there.succeeded(proof=False)
        else:
            await there.failed(Fault(kind="broken"))
            await own.void()


def test_a_dead_service_is_reached_by_as_many_calls_as_there_are_hosts_and_two_more():
    as_many = 0
    for seed in range(SCHEDULES):

        async def world(seed=seed):
            schedule = Schedule(seed)
            await schedule.run()
            return schedule.reached, len(schedule.hosts) + 2

        reached, most = VirtualLoop().run(world())
        if reached > most:
            pytest.fail(f"schedule {seed}: {reached} calls reached it")
        as_many += reached == most
    assert as_many > SCHEDULES / 2, "else the schedules are no trial"


class LossyState(LateState):
    """The same, where answers to up to two writes are lost: they arrive, come late, or never."""

    def __init__(self, random, most):
        super().__init__(random, most)
        self._fates = [random.choice(["arrives", "late", "never"]) for _ in range(2)]
        self.on_their_way = []

    async def apply(self, partition, operations):
        fate = self._fates.pop() if self._fates and self._chance.random() < 0.6 else ""
        if fate == "late":
            self.on_their_way.append(asyncio.create_task(self._later(partition, operations)))
        if fate in {"", "arrives"}:
            answer = await super().apply(partition, operations)
        if fate:
            raise OutcomeUnknown(0, fate)
        return answer

    async def _later(self, partition, operations):
        await asyncio.sleep(self._chance.uniform(0, 4 * self._most))
        await super().apply(partition, operations)


@pytest.mark.parametrize("key", [SERVICE, OWN], ids=lambda key: key.kind)
def test_of_hosts_that_fail_at_once_each_failure_counts_once_whatever_becomes_of_the_stores_answers(key):
    for seed in range(5 * SCHEDULES):

        async def world(seed=seed):
            random = Random(seed)
            state = LossyState(random, random.choice([0, 0.005, 0.1]))
            hosts = [Breakers(state, LoopClock(Random(seed + n))) for n in range(2)]
            await asyncio.gather(*(host.failed(key, Fault(kind="broken")) for host in hosts))
            await asyncio.gather(*state.on_their_way)
            return await state.read(key.partition, "state")

        item = VirtualLoop().run(world())
        assert item["strikes"] == 2, f"schedule {seed}"
