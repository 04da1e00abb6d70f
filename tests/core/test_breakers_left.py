"""Breakers that tasks left behind when they ended: the timer removes them, and no other."""

import pytest

from buspass.breakers import Breakers, Fault, Key, Refusal, listing
from buspass.breakers.states import FORGET
from buspass.breakers.stored import forget
from buspass.testing.state_memory import MemoryState
from buspass.timer import tick

DEAD = Fault(kind="unreachable")
KEYS = [Key("task", "vendor.example", f"t_{n}") for n in range(3)]
SHARED = [Key("tool", "vendor.example"), Key("model", "openai/gpt-5")]
OPEN = 30.0
"""Seconds that a breaker is open the first time."""
LATER = FORGET / 1000
"""Seconds until failures are forgotten."""


@pytest.fixture
def state():
    return MemoryState()


async def opened(state, clock, *keys):
    host = Breakers(state, clock)
    for key in keys:
        for _ in range(3):
            await host.failed(key, DEAD)
    return host


async def left(state):
    return [key for key, _ in await listing(state, ())]


async def test_a_tasks_breaker_goes_when_nobody_has_to_heed_it_and_not_before(state, clock):
    host = await opened(state, clock, KEYS[0])
    clock.advance(OPEN + LATER - 0.001)
    assert (await forget(state, clock.now(), 200), await left(state)) == (0, KEYS[:1])
    probe = await host.enter(KEYS[0], wait=0, lasts=1.0)
    with pytest.raises(Refusal):
        await host.enter(KEYS[0], wait=0, lasts=1.0)
    await probe.failed(DEAD)
    clock.advance(2 * OPEN + LATER)
    assert (await forget(state, clock.now(), 200), await left(state)) == (1, [])
    assert await state.read(KEYS[0].partition, "state") is None


async def test_those_of_services_stay_as_long_as_they_are_troubled(state, clock):
    await opened(state, clock, *SHARED, *KEYS)
    clock.advance(10 * LATER)
    assert await forget(state, clock.now(), 200) == len(KEYS)
    assert {breaker.state for _, breaker in await listing(state, SHARED)} == {"open"}


async def test_one_that_fails_again_meanwhile_stays(state, clock, monkeypatch):
    host = await opened(state, clock, *KEYS[:2])
    clock.advance(10 * LATER)
    read = state.read

    async def slow(partition, key):
        item = await read(partition, key)
        if partition == KEYS[0].partition:
            monkeypatch.undo()
            probe = await host.enter(KEYS[0], wait=0, lasts=1.0)
            await probe.failed(DEAD)
        return item

    monkeypatch.setattr(state, "read", slow)
    assert (await forget(state, clock.now(), 200), await left(state)) == (1, KEYS[:1])


async def test_a_host_that_still_remembers_one_begins_anew(state, clock):
    host = await opened(state, clock, KEYS[0])
    clock.advance(OPEN + LATER)
    await forget(state, clock.now(), 200)
    leave = await host.enter(KEYS[0], wait=0, lasts=1.0)
    breaker = await leave.failed(DEAD)
    assert (breaker.state, breaker.strikes, breaker.level) == ("suspect", 1, 0)


async def test_the_timer_removes_them_so_many_at_a_time(domain, monkeypatch):
    await domain.host()
    house = domain.apps["onprem"].house
    monkeypatch.setattr("buspass.timer.LIMIT", 2)
    await opened(house.state, house.clock, *KEYS)
    for there in (KEYS[2:], []):
        domain.clock.advance(2 * LATER)
        await tick(house)
        assert await left(house.state) == there
