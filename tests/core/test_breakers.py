"""Breakers of several hosts over one store: who goes, what it costs while all is well, and what a lost host leaves."""

import asyncio
import sys

import pytest

from buspass.breakers import Breakers, Fault, Key, Refusal, listing
from buspass.breakers.breakers import FRESH, LEASE
from buspass.breakers.states import FORGET
from buspass.ports.state import Delete, OutcomeUnknown, Put, Unavailable
from buspass.testing.clock import FakeClock
from buspass.testing.state_counting import Counting
from buspass.testing.state_memory import Crash, Down, Late, Lost, MemoryState

DEAD = Fault(kind="unreachable")
VENDOR = Key("tool", "vendor.example")
MODEL = Key("model", "openai/gpt-5")
TASK = Key("task", "vendor.example", "t_1")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine nobody takes the first call for slow."""
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 60)


@pytest.fixture
def state():
    return Counting(MemoryState())


@pytest.fixture
def host(state, clock):
    return Breakers(state, clock)


@pytest.fixture
def hosts(state, clock):
    return [Breakers(state, clock) for _ in range(3)]


class Service:
    """What stands behind: dead or well, and how often it was reached. Takes `seconds`, and as many turns of the loop."""

    def __init__(self, well=False, seconds=0.0, turns=0):
        self.well, self.seconds, self.turns, self.reached, self.now, self.most = well, seconds, turns, 0, 0, 0

    async def call(self, host, key=VENDOR, wait=30):
        """One call through a host's breaker: what came of it, or when to come back."""
        try:
            leave = await host.enter(key, wait=wait, lasts=1.0)
        except Refusal as refusal:
            return refusal.until
        self.reached += 1
        self.now += 1
        self.most = max(self.most, self.now)
        if leave.first:
            leave.sent()
        await asyncio.sleep(self.seconds)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if leave.first and not self.well:
            leave.broke()
        self.now -= 1
        await (leave.succeeded() if self.well else leave.failed(DEAD))
        return "well" if self.well else "dead"


async def state_of(host, key=VENDOR):
    return (await host.failed(key, DEAD)).state


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


async def trip(host, key=VENDOR):
    while (breaker := await host.failed(key, DEAD)).state != "open":
        pass
    return breaker


# ── while all is well ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_thousand_good_calls_cost_no_write_and_one_read_a_second(host, state, clock):
    service = Service(well=True)
    for _ in range(1000):
        assert await service.call(host) == "well"
    assert (state.count.reads, state.count.applies) == (1, 0)
    for _ in range(5):
        clock.advance(1.0)
        await asyncio.gather(*(service.call(host) for _ in range(50)))
    assert (state.count.reads, state.count.applies) == (6, 0)


async def test_a_tasks_own_breaker_is_not_even_read_before_it_saw_a_failure(host, state):
    service = Service(well=True)
    for _ in range(10):
        await service.call(host, TASK)
    assert state.count.reads == 0
    await Service().call(host, TASK)
    assert await service.call(host, TASK) == "well"
    assert (await state.read(TASK.partition, "state")) is None, "and nothing is left of it when it is closed"


# ── a dead service ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_three_hundred_calls_one_after_the_other_reach_a_dead_service_three_times(host, clock):
    service = Service()
    answers = [await service.call(host) for _ in range(300)]
    assert service.reached == 3
    assert set(answers[3:]) == {clock.now() + 30_000}


@pytest.mark.parametrize("key", [VENDOR, TASK])
async def test_three_hundred_calls_of_three_hosts_reach_it_at_most_five_times(hosts, clock, key):
    service = Service(seconds=0.002)

    async def insist(host):
        return [await service.call(host, key) for _ in range(100)]

    answers = [answer for some in await asyncio.gather(*map(insist, hosts)) for answer in some]
    assert service.reached <= 5
    assert all(answer == "dead" or answer > clock.now() for answer in answers)


async def test_three_hundred_calls_at_once_of_three_hosts_reach_it_at_most_five_times(hosts):
    service = Service(seconds=0.01)
    answers = await asyncio.gather(*(service.call(host) for host in hosts * 100))
    assert service.reached <= 5
    assert service.most <= 3
    assert answers.count("dead") == service.reached


async def test_calls_at_once_to_a_service_that_is_well_wait_for_the_first_one_only(host):
    service = Service(well=True, turns=300)
    assert set(await asyncio.gather(*(service.call(host) for _ in range(64)))) == {"well"}
    assert service.most == 63


async def test_who_waits_for_the_first_call_goes_as_soon_as_it_is_over(host, monkeypatch):
    monkeypatch.setattr("buspass.breakers.breakers.VIEW", 60)  # nobody looks by itself meanwhile
    first = await host.enter(VENDOR, wait=60, lasts=1.0)
    waiting = asyncio.create_task(host.enter(VENDOR, wait=60, lasts=1.0))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    await first.succeeded()
    await asyncio.wait_for(waiting, 10)


async def test_who_waits_at_one_host_hears_soon_what_another_found_out(hosts, clock, monkeypatch):
    here, there = hosts[0], hosts[1]
    first = await here.enter(VENDOR, wait=60, lasts=1.0)
    waiting = asyncio.create_task(here.enter(VENDOR, wait=60, lasts=1.0))
    monkeypatch.setattr("buspass.breakers.breakers.VIEW", 0.01)
    await trip(there)
    clock.advance(0.02)
    with pytest.raises(Refusal):
        await asyncio.wait_for(waiting, 10)
    await first.void()


async def test_a_call_that_went_well_leaves_its_place(host, clock):
    for _ in range(3):
        leave = await asyncio.wait_for(host.enter(VENDOR, wait=60, lasts=1.0), 10)
        assert leave.well()
        clock.advance(FRESH + 1)  # it is not known well any more: one goes, and who comes meanwhile waits for it


async def test_nobody_is_refused_for_a_service_that_is_only_slow(host):
    service = Service(well=True, seconds=0.2)
    answers = await asyncio.gather(*(service.call(host, wait=0.05) for _ in range(5)))
    assert answers == ["well"] * 5


@pytest.mark.parametrize(("so_far", "going"), [((), 0), (("sent",), 5), (("sent", "broke"), 0)], ids=str)
async def test_only_the_services_own_silence_lets_the_others_go(host, monkeypatch, so_far, going):
    """Not that the first call waits for its hold, or that the store takes its time to be told how it went."""
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 0)
    first = await host.enter(VENDOR, wait=30, lasts=1.0)
    others = [asyncio.create_task(host.enter(VENDOR, wait=30, lasts=1.0)) for _ in range(5)]
    for step in so_far:
        getattr(first, step)()
    await turns()
    assert sum(other.done() for other in others) == going
    await first.failed(DEAD)
    await turns()
    assert sum(other.done() for other in others) == max(going, 1), "nothing is known of it but that: one goes"
    for other in others:
        other.cancel()


async def test_when_the_first_call_comes_to_nothing_another_is_the_first(host, monkeypatch):
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 0)
    first = await host.enter(VENDOR, wait=30, lasts=1.0)
    others = [asyncio.create_task(host.enter(VENDOR, wait=30, lasts=1.0)) for _ in range(5)]
    for number in range(1, 6):
        await turns()
        await first.void()
        await turns()
        assert sum(other.done() for other in others) == number
        first = others[number - 1].result()
        assert first.first


async def test_a_burst_to_a_model_is_not_held_up(host):
    service = Service(well=True, turns=300)
    await asyncio.gather(*(service.call(host, MODEL) for _ in range(64)))
    assert service.most == 64


async def test_while_it_is_suspect_one_at_a_time_goes_and_a_success_lets_all_go(host):
    service = Service(well=True, turns=300)
    await service.call(host)
    await host.failed(VENDOR, DEAD)
    assert set(await asyncio.gather(*(service.call(host) for _ in range(20)))) == {"well"}
    assert service.most == 19, "the first one alone, and then all others"


async def test_a_failure_now_and_then_is_no_sign_after_many_successes(host, state):
    for _ in range(20):
        for _ in range(20):
            await Service(well=True).call(host, MODEL)
        await Service().call(host, MODEL)
    assert state.count.applies == 0
    for _ in range(30):
        await Service(well=True).call(host, MODEL)
    for _ in range(5):
        await Service().call(host, MODEL)
    with pytest.raises(Refusal):
        await host.enter(MODEL, wait=0, lasts=1)


async def test_what_one_host_found_out_another_knows_within_a_second(hosts, clock):
    there, here, _ = hosts
    service = Service(well=True)
    await service.call(here)
    await trip(there)
    assert await service.call(here) == "well", "its view is not a second old"
    clock.advance(1.0)
    assert await service.call(here) != "well"


# ── the probe ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_two_hundred_calls_at_the_half_open_moment_one_reaches_it(hosts, clock):
    await trip(hosts[0])
    clock.advance(30)
    service = Service(seconds=0.02)
    answers = await asyncio.gather(*(service.call(host) for host in (hosts * 67)[:200]))
    assert service.reached == 1
    assert answers.count("dead") == 1
    assert len({answer for answer in answers if answer != "dead"}) == 1


async def test_when_the_probe_succeeds_the_service_is_taken_up_again_carefully(hosts, clock):
    await trip(hosts[0])
    clock.advance(30)
    service = Service(well=True, seconds=0.002)
    assert await service.call(hosts[1]) == "well"
    answers = await asyncio.gather(*(service.call(host) for host in hosts * 10))
    assert service.most <= 30
    assert answers.count("well") >= 10
    assert await service.call(hosts[1]) == "well"


async def test_a_prober_that_dies_loses_its_lease_by_time(hosts, clock):
    await trip(hosts[0])
    clock.advance(30)
    await hosts[0].enter(VENDOR, wait=0, lasts=1.0)  # and is never heard of again
    service = Service(well=True)
    clock.advance(1.0 + LEASE / 1000 - 0.1)
    assert await service.call(hosts[1]) != "well"
    clock.advance(1.1)
    assert await service.call(hosts[1]) == "well"


@pytest.mark.parametrize("writes", [0, 1])
async def test_a_prober_whose_process_dies_at_the_store_leaves_a_lease_or_none(hosts, state, clock, writes):
    await trip(hosts[0])
    clock.advance(30)
    state.inner.crash_after(writes)
    with pytest.raises(Crash):
        await (await hosts[0].enter(VENDOR, wait=0, lasts=1.0)).succeeded()
    clock.advance(10)
    assert await Service(well=True).call(hosts[1]) == "well"


async def test_a_probe_that_was_never_sent_leaves_its_turn_to_the_next(hosts, clock):
    await trip(hosts[0])
    clock.advance(30)
    leave = await hosts[0].enter(VENDOR, wait=0, lasts=1.0)
    await leave.void()
    await leave.void()
    clock.advance(1)
    assert await Service(well=True).call(hosts[1]) == "well"


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [Lost(), Late(), Down()])
async def test_a_lost_answer_counts_a_failure_once(host, state, fault):
    state.inner.meet(fault)
    await host.failed(VENDOR, DEAD)
    state.inner.deliver()
    assert await state_of(host) == "suspect", "the second one"
    assert await state_of(host) == "open"


class Rivalled(MemoryState):
    """A store where the next write's answer is lost: whether it `arrives` or not, `rival` writes before it is looked for."""

    def __init__(self, rival, *, arrives):
        super().__init__()
        self.rival, self.arrives = rival, arrives

    async def apply(self, partition, operations):
        rival, self.rival = self.rival, None
        if rival is None:
            return await super().apply(partition, operations)
        if self.arrives:
            await super().apply(partition, operations)
        await rival()
        raise OutcomeUnknown(0, "its answer was lost")


@pytest.mark.parametrize("arrives", [False, True], ids=["its own is lost", "its own is under the other's"])
@pytest.mark.parametrize("key", [VENDOR, TASK], ids=lambda key: key.kind)
async def test_two_hosts_equal_failures_in_one_millisecond_are_two_whatever_becomes_of_an_answer(clock, key, arrives):
    async def rival():
        await there.failed(key, DEAD)

    state = Rivalled(rival, arrives=arrives)
    here, there = Breakers(state, clock), Breakers(state, clock)
    await here.failed(key, DEAD)
    item = await state.read(key.partition, "state")
    assert (item["state"], item["strikes"], item["version"]) == ("suspect", 2, 2)


async def test_a_breaker_that_is_not_the_one_it_was_is_not_written_over(hosts, state, clock):
    """The version alone may be the same: a task's breaker that closes is gone, and the next one begins anew."""
    here, there, _ = hosts
    await here.failed(TASK, DEAD)
    await (await there.enter(TASK, wait=0, lasts=1)).failed(DEAD)
    await (await there.enter(TASK, wait=0, lasts=1)).succeeded()
    await there.failed(TASK, Fault(kind="throttled", status=429, retry_after=60))
    await here.failed(TASK, DEAD)
    assert (await state.read(TASK.partition, "state"))["state"] == "open"


async def test_a_breaker_that_an_older_host_wrote_is_read_and_gone_on_with(host, hosts, state, clock):
    await trip(host)
    old = dict(await state.read(VENDOR.partition, "state"))
    del old["writers"]
    await state.apply(VENDOR.partition, [Delete("state", ())])
    await state.apply(VENDOR.partition, [Put("state", old)])
    here, there = hosts[:2]
    assert await Service().call(here) == old["until"]
    clock.advance(30)
    state.inner.meet(Lost())
    assert await Service(well=True).call(there) == "well"
    item = await state.read(VENDOR.partition, "state")
    assert (item["state"], item["version"]) == ("recovering", old["version"] + 2)


@pytest.mark.parametrize(("reads", "most"), [(False, 1), (True, 3)])
async def test_a_store_that_answers_no_write_keeps_no_call_for_long_and_its_failure_counts_here(
    state, host, monkeypatch, reads, most
):
    async def unknown(partition, operations):
        tries.append(partition)
        raise OutcomeUnknown(0, "no answer")

    async def away(partition, key):
        raise Unavailable(0, "no answer")

    tries = []
    monkeypatch.setattr(state.inner, "apply", unknown)
    if not reads:
        monkeypatch.setattr(state.inner, "read", away)
    assert (await host.failed(VENDOR, DEAD)).state == "suspect"
    assert len(tries) == most


async def test_without_the_store_a_host_goes_on_by_what_it_knows(host, state):
    state.inner.down = True
    service = Service()
    for _ in range(50):
        await service.call(host)
    assert service.reached <= 3
    assert await Service(well=True).call(host, MODEL) == "well"


async def test_hosts_that_fail_at_once_count_every_failure(hosts, state):
    await asyncio.gather(*(host.failed(MODEL, DEAD) for host in hosts))
    item = await state.read(MODEL.partition, "state")
    assert (item["state"], item["strikes"]) == ("open", 3)


async def test_the_list_has_the_configured_ones_and_troubled_tasks(host, state, clock):
    await trip(host)
    await host.failed(TASK, DEAD)
    await Service().call(host, Key("task", "vendor.example", "t_2"))
    await Service(well=True).call(host, Key("task", "vendor.example", "t_2"))
    rows = await listing(state, [MODEL, VENDOR])
    assert [(key, breaker.state) for key, breaker in rows] == [(MODEL, "closed"), (VENDOR, "open"), (TASK, "suspect")]


async def test_the_list_has_as_many_tasks_however_much_is_configured(host, state, monkeypatch):
    monkeypatch.setattr(sys.modules["buspass.breakers.listing"], "MOST", 3)
    await trip(host)
    for number in range(5):
        await host.failed(Key("task", "vendor.example", f"t_{number}"), DEAD)
    rows = await listing(state, [VENDOR, MODEL, *(Key("tool", f"{number}.example") for number in range(5))])
    assert [key.kind for key, _ in rows] == ["tool", "model", *["tool"] * 5, *["task"] * 3]


async def test_names_that_no_store_takes_have_partitions_all_the_same(state, host):
    for name in ("ö/ü", "x" * 500, "a b\n"):
        await host.failed(Key("model", name), DEAD)
        assert (await state.read(Key("model", name).partition, "state"))["name"] == name


async def test_a_target_that_moves_to_another_address_is_another_breakers(hosts, state):
    old, new = (Key("model", "openai/gpt-5", address=f"https://{where}/v1") for where in ("old.example", "new.example"))
    await trip(hosts[0], old)
    assert await hosts[1].unavailable([old, new]) == {old: await when_back(state, old)}
    await (await hosts[1].enter(new, wait=0, lasts=1)).succeeded()
    assert [breaker.state for _, breaker in await listing(state, [old, new])] == ["open", "closed"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (MODEL, "breaker model openai/gpt-5"),
        (Key("model", "openai/gpt-5", address="https://old.example"), "breaker model openai/gpt-5"),
        (VENDOR, "breaker tool vendor.example"),
        (TASK, "breaker tool vendor.example of task t_1"),
        (
            Key("model", "a\nbreaker model x: closed, then open"),
            "breaker model 'a\\nbreaker model x: closed, then open'",
        ),
    ],
)
async def test_the_log_says_in_one_line_whose_breaker_it_is(host, caplog, key, said):
    caplog.set_level("INFO", "buspass")
    await host.failed(key, DEAD)
    assert [record.getMessage() for record in caplog.records] == [f"{said}: closed, then suspect"]


async def when_back(state, key):
    return (await state.read(key.partition, "state"))["until"]


# ── a host's memory ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("buspass.breakers.known.KEPT", 10)


def of_task(number):
    return Key("task", "vendor.example", f"t_{number}")


async def trouble(host, numbers):
    for number in numbers:
        await host.failed(of_task(number), DEAD)


@pytest.mark.usefixtures("few")
async def test_a_host_remembers_only_so_many_tasks(host):
    await trouble(host, range(50))
    assert len(host.memory) <= 10


@pytest.mark.usefixtures("few")
async def test_a_breaker_that_fell_out_of_memory_while_it_was_open_still_lets_nobody_go(host):
    breaker = await trip(host, TASK)
    for number in range(100, 150):
        await trip(host, of_task(number))
    assert not host.knows(TASK)
    assert await Service().call(host, TASK) == breaker.until


@pytest.mark.usefixtures("few")
async def test_closed_breakers_are_forgotten_first_and_then_those_that_are_due_first(host):
    for number in range(9):
        await host.failed(of_task(number), Fault(kind="throttled", status=429, retry_after=100 + number))
    for number in range(100, 150):
        await Service().call(host, of_task(number))
        await Service(well=True).call(host, of_task(number))
    assert all(host.knows(of_task(number)) for number in range(9))
    await trouble(host, range(200, 203))
    assert not host.knows(of_task(0)) or not host.knows(of_task(200))
    assert host.knows(of_task(8))


@pytest.mark.usefixtures("few")
async def test_other_tasks_breakers_are_read_only_as_long_as_a_forgotten_one_may_count(host, state, clock):
    well = Service(well=True)
    for number in range(100, 150):
        breaker = await trip(host, of_task(number))
    state.count.reads = 0
    assert [await well.call(host, of_task(number)) for number in range(200, 230)] == ["well"] * 30
    assert state.count.reads == 30
    clock.advance((breaker.until - clock.now() + FORGET) / 1000 + 1)
    assert [await well.call(host, of_task(number)) for number in range(300, 330)] == ["well"] * 30
    assert state.count.reads == 30


@pytest.mark.usefixtures("few")
async def test_a_breaker_whose_calls_are_under_way_is_not_forgotten_and_all_others_of_the_memory_are_once_it_is_full(
    host,
):
    await trouble(host, range(30, 60))
    for number in range(20):
        await host.failed(of_task(number), DEAD)
    going = []
    for number in range(20, 40):
        await host.failed(of_task(number), DEAD)
        going.append(await host.enter(of_task(number), wait=0, lasts=1))
    await trouble(host, range(100, 150))
    assert all(host.knows(of_task(number)) for number in range(20, 40))
    with pytest.raises(Refusal):
        await host.enter(of_task(20), wait=0, lasts=1)
    for leave in going:
        await leave.void()
    await trouble(host, range(150, 200))
    assert len(host.memory) <= 10


@pytest.mark.usefixtures("few")
async def test_a_breaker_that_is_just_being_written_is_not_forgotten(host, state, monkeypatch):
    async def late(partition, operations):
        if partition == TASK.partition:
            await written.wait()
        return await apply(partition, operations)

    written, apply = asyncio.Event(), state.inner.apply
    monkeypatch.setattr(state.inner, "apply", late)
    opening = asyncio.create_task(host.failed(TASK, Fault(kind="throttled", status=429, retry_after=60)))
    await turns()
    await trouble(host, range(100, 150))
    assert host.knows(TASK)
    written.set()
    await opening
    with pytest.raises(Refusal):
        await host.enter(TASK, wait=0, lasts=1)


@pytest.mark.usefixtures("few")
async def test_a_breaker_that_a_call_is_just_looking_at_is_not_forgotten(host, state, clock, monkeypatch):
    async def late(partition, key):
        if partition == TASK.partition:
            await looked.wait()
        return await read(partition, key)

    looked, read = asyncio.Event(), state.inner.read
    await host.failed(TASK, DEAD)
    clock.advance(1)
    monkeypatch.setattr(state.inner, "read", late)
    entering = asyncio.create_task(host.enter(TASK, wait=0, lasts=1))
    await turns()
    await trouble(host, range(100, 150))
    looked.set()
    await entering
    with pytest.raises(Refusal):
        await host.enter(TASK, wait=0, lasts=1)


@pytest.mark.usefixtures("few")
async def test_the_longest_of_the_forgotten_ones_says_how_long_others_are_read(host, clock):
    for number in range(12):
        await host.failed(of_task(number), Fault(kind="throttled", status=429, retry_after=3600))
    forgotten = next(number for number in range(12) if not host.knows(of_task(number)))
    await trouble(host, range(100, 150))
    clock.advance(FORGET / 1000 + 60)
    with pytest.raises(Refusal):
        await host.enter(of_task(forgotten), wait=0, lasts=1)
