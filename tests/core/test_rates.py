"""Rates over several hosts of one store: never above the limit, first come first served, and nothing lost for ever."""

import asyncio
import time

import pytest

from buspass.errors import Problem
from buspass.ports.clock import SystemClock
from buspass.rates import Exhausted, Pace, Rates
from buspass.rates.pace import SECOND, TOGETHER, WHOLE, Limit, Table, braked, lowered
from buspass.testing.clock import FakeClock
from buspass.testing.state_counting import Counting
from buspass.testing.state_memory import Crash, Dies, Down, Late, Lost, MemoryState
from buspass_onprem import sqlite

FIFTY = Pace(name="tool:quote", shown="quote", limits={"calls": Limit(amount=50, period=SECOND)})
MODEL = Pace(
    name="provider:openai",
    shown="openai",
    limits={"requests": Limit(amount=60, period=60 * SECOND), "tokens": Limit(amount=6000, period=60 * SECOND)},
)
CALL = {"calls": 1}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def state():
    return Counting(MemoryState())


@pytest.fixture
def hosts(state, clock):
    return [Rates(state, clock) for _ in range(3)]


def most_in(times, window):
    """The most that fall into any window of this length."""
    times, first, most = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - window:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_ten_thousand_calls_of_three_hosts_never_go_faster_than_the_limit_and_nobody_starves(hosts, clock):
    times, waits = [], {}

    async def work(worker):
        for _ in range(10_000 // 30 + 1):
            waited = await hosts[worker % 3].take(FIFTY, CALL, 60)
            times.append(clock.now())
            waits.setdefault(worker, []).append(waited)
            if len(times) % 7 == 0:
                await asyncio.sleep(0)

    await asyncio.gather(*map(work, range(30)))
    assert len(times) >= 10_000
    for window in (20, 100, 1_000, 7_500):
        assert most_in(times, window) <= 50 * window / 1000 + 1
    assert (max(times) - min(times)) / 1000 == pytest.approx((len(times) - 1) / 50, rel=0.01), "and none slower"
    longest = [max(some) for some in waits.values()]
    assert max(longest) < 1.0, "thirty in line are served in 0.6 s"


async def test_the_faster_calls_come_the_more_permits_one_write_leases(hosts, state):
    await asyncio.gather(*(hosts[0].take(FIFTY, CALL, 60) for _ in range(200)))
    assert state.count.writes <= 3
    assert state.count.reads == 0


async def test_a_call_without_a_permit_in_time_is_told_when_and_takes_none(hosts, clock):
    for _ in range(50):
        await hosts[0].take(FIFTY, CALL, 60)
    queue = [asyncio.ensure_future(hosts[0].take(FIFTY, CALL, 60)) for _ in range(100)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as caught:
        await hosts[0].take(FIFTY, CALL, 0.5)
    assert 1.5 < caught.value.seconds <= 2.1
    await asyncio.gather(*queue)
    before = clock.now()
    await hosts[0].take(FIFTY, CALL, 60)
    assert clock.now() - before <= 20, "the one that was refused left no gap"


async def test_a_call_takes_of_every_limit_and_waits_for_the_slowest(hosts, clock):
    begun = clock.now()
    await hosts[0].take(MODEL, {"requests": 1, "tokens": 1000}, 60)
    assert clock.now() == begun
    await hosts[1].take(MODEL, {"requests": 1, "tokens": 10}, 60)
    assert clock.now() - begun == 10_000, "a thousand tokens are ten seconds"
    await hosts[2].take(MODEL, {"requests": 1, "tokens": 10}, 60)
    assert clock.now() - begun == 11_000, "and a request is one"


async def test_a_host_that_dies_with_permits_costs_their_time_and_no_more(hosts, state, clock):
    state.inner.meet(Dies(1))
    waiting = [asyncio.ensure_future(hosts[0].take(FIFTY, CALL, 60)) for _ in range(25)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for call in waiting:
        call.cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(one, Crash) for one in found)
    before = clock.now()
    await hosts[1].take(FIFTY, CALL, 60)
    assert clock.now() - before <= 25 * 20
    await hosts[1].take(FIFTY, CALL, 60)


async def test_a_complaint_stops_everybody_for_as_long_as_it_says_and_halves_the_rate_for_a_while(hosts, clock):
    await hosts[0].take(FIFTY, CALL, 60)
    await hosts[0].lower(FIFTY, 3.0)
    await hosts[0].lower(FIFTY, 2.0)  # of a call that was under way at the same time
    begun = clock.now()
    times = []
    for _ in range(26):
        await hosts[1].take(FIFTY, CALL, 60)
        times.append(clock.now() - begun)
    assert times[0] == 3_000
    assert 900 <= times[-1] - times[0] <= 1_000, "half as fast"
    clock.advance(60)
    begun = clock.now()
    for _ in range(26):
        await hosts[2].take(FIFTY, CALL, 60)
    assert clock.now() - begun == 500, "and after a minute as fast as before"


def test_complaints_within_a_second_are_one_and_a_later_one_is_another():
    once = lowered(Table(), FIFTY, SECOND, 0)
    assert once.share == WHOLE // 2
    assert lowered(once, FIFTY, SECOND + TOGETHER - 1, 0).share == once.share
    assert lowered(once, FIFTY, SECOND + TOGETHER, 0).share < once.share * 3 // 4


def test_what_a_provider_says_is_left_lets_nobody_go_earlier():
    waits = Table(due={"calls": 9 * SECOND})
    assert braked(waits, FIFTY, "calls", SECOND, WHOLE, 5 * SECOND).due == {"calls": 9 * SECOND}
    assert braked(waits, FIFTY, "calls", SECOND, WHOLE, 10 * SECOND).due == {"calls": 10 * SECOND}
    assert braked(waits, FIFTY, "tokens", SECOND, WHOLE, 10 * SECOND).due == waits.due, "a limit that is none of ours"


async def test_a_quota_that_is_used_up_is_waited_for(hosts, clock):
    await hosts[0].pause(FIFTY, 5.0)
    begun = clock.now()
    await hosts[1].take(FIFTY, CALL, 60)
    assert clock.now() - begun == 5_000
    await hosts[0].pause(FIFTY, 60.0)
    with pytest.raises(Exhausted):
        await hosts[0].take(FIFTY, CALL, 10)


@pytest.mark.parametrize("fault", [Lost(), Late()])
async def test_a_lost_answer_costs_time_and_never_a_permit_too_many(hosts, state, clock, fault):
    await hosts[0].take(FIFTY, CALL, 60)
    state.inner.meet(fault)
    times = []
    for _ in range(10):
        await hosts[0].take(FIFTY, CALL, 60)
        times.append(clock.now())
        state.inner.deliver()
    assert most_in(times, 100) <= 6


async def test_without_the_store_nobody_gets_a_permit(hosts, state):
    state.inner.meet(Down())
    with pytest.raises(Problem, match="state_unavailable"):
        await hosts[0].take(FIFTY, CALL, 60)
    assert await hosts[0].take(FIFTY, CALL, 60) == 0, "and the one that failed stands in nobody's way"


async def test_names_that_no_store_takes_have_timetables_all_the_same(hosts):
    pace = Pace(name="provider:öl", shown="öl", limits=FIFTY.limits)
    assert await hosts[0].take(pace, CALL, 60) == 0


@pytest.mark.verify
async def test_three_hosts_over_sqlite_keep_to_the_rate_in_real_time(tmp_path):
    stores = [await sqlite.open(f"sqlite:///{tmp_path}/state.db?durability=process") for _ in range(3)]
    hosts, times, turns = [Rates(store, SystemClock()) for store in stores], [], dict.fromkeys(range(30), 0)

    async def work(worker):
        while len(times) < 50 * 10:
            await hosts[worker % 3].take(FIFTY, CALL, 60)
            times.append(time.monotonic())
            turns[worker] += 1

    await asyncio.gather(*map(work, turns))
    for store in stores:
        await store.close()
    assert most_in(times, 5.0) <= 50 * 5 + 1 + 30, "of each worker one call that was due before may have woken late"
    assert min(turns.values()) > 0
