"""Pools of the calendar and pools of pools: never more than any of them holds, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from buspass.config.settings import Pool
from buspass.errors import Problem
from buspass.ledger.pools import GRACE, LATE, OWN, Allocation, Lack, Pools
from buspass.ledger.windows import Account, account, shards
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Crash, Down, Late, Lost, MemoryState

NOON = int(datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()) * 1000
DAY = 86_400
FAR = 10**15


def pools(**more: Pool) -> dict[str, Pool]:
    company = Pool(name="company", cost=5_000, period="month")
    support = Pool(name="support", cost=1_600, period="day", parent="company")
    sales = Pool(name="sales", cost=4_000, period="day", parent="company")
    return {"company": company, "support": support, "sales": sales, **more}


def at(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


class Bank:
    """Pools in a store with faults. `tasks`: what each was given, by account and id; `spent`: what those did who ended."""

    def __init__(self, *, transactional: bool = True, trouble: float = 0.0, seed: int = 0, start: int = NOON) -> None:
        self.clock = FakeClock(start, seed=seed)
        self.state = MemoryState(transactional=transactional, trouble=trouble, random=Random(seed))
        self.here = self.host()
        self.pools: Mapping[str, Pool] = pools()

    def host(self) -> Pools:
        return Pools(self.state, self.clock)

    def account(self, name: str = "support") -> Account:
        return account(self.pools, name, self.clock.now())

    async def take(self, name: str, amount: int = 100, pool: str = "support", host: Pools | None = None) -> Any:
        due = self.clock.now() + 1000
        return await (host or self.here).allocate(self.account(pool), name, amount, due)

    def head(self, account: str) -> Any:
        return self.state.dump()[f"pool:{account}"]["head"]

    def heads(self) -> dict[str, Any]:
        found = {name.removeprefix("pool:"): items for name, items in self.state.dump().items()}
        return {name: items["head"] for name, items in found.items() if "head" in items}

    def open(self, account: str) -> dict[str, Any]:
        """What an account's allocations are, as the head and their records say."""
        items = self.state.dump()[f"pool:{account}"]
        records = {key.removeprefix("alloc:"): item for key, item in items.items() if key.startswith("alloc:")}
        return {name: item for name, item in {**records, **items["head"]["last"]}.items() if item["turn"]}

    def conserved(self) -> None:
        """In every account: what it drew is there, allocated or spent; it gave no more than it holds; and what it drew
        from another one, that one allocated to it."""
        for name, head in self.heads().items():
            known = self.open(name)
            allocated = sum(item["amount"] for item in known.values() if item["state"] == "open")
            spent = sum(item["spent"] for item in known.values())
            drawn = sum(head["drawn"].values())
            assert head["allocated"]["cost"] == allocated, name
            assert head["available"]["cost"] == drawn - allocated - spent, name
            assert head["available"]["cost"] >= 0, name
            assert allocated + spent <= head["limits"]["cost"], name
            for above, amount in head["drawn"].items():
                if above != OWN:
                    given = self.open(above)[f"pool:{name}"]
                    assert given["amount"] >= amount, (name, above)
                    assert given["spent"] <= amount


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
def bank(request: pytest.FixtureRequest) -> Bank:
    return Bank(transactional=request.param)


# ── the calendar ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("period", "now", "window", "ends"),
    [
        ("hour", "2026-11-26T18:59:59.999", "2026-11-26T18", "2026-11-26T19:00:00"),
        ("hour", "2026-11-26T19:00:00", "2026-11-26T19", "2026-11-26T20:00:00"),
        ("day", "2026-02-28T23:59:59.999", "2026-02-28", "2026-03-01T00:00:00"),
        ("day", "2026-03-01T00:00:00", "2026-03-01", "2026-03-02T00:00:00"),
        ("week", "2026-11-29T23:59:59.999", "2026-W48", "2026-11-30T00:00:00"),
        ("week", "2026-11-30T00:00:00", "2026-W49", "2026-12-07T00:00:00"),
        ("week", "2027-01-01T12:00:00", "2026-W53", "2027-01-04T00:00:00"),
        ("month", "2026-12-31T23:59:59.999", "2026-12", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T00:00:00", "2028-02", "2028-03-01T00:00:00"),
    ],
)
def test_a_window_is_one_of_the_calendar_in_utc(period: Any, now: str, window: str, ends: str) -> None:
    found = account({"p": Pool(name="p", cost=1, period=period)}, "p", at(now))
    assert (found.id, found.ends) == (f"p:{window}", at(ends))


def test_a_pool_for_ever_is_one_account() -> None:
    assert account({"p": Pool(name="p", cost=1)}, "p", NOON) == Account(id="p", pool="p", holds=1, chunk=1)


def test_an_account_knows_those_above_it() -> None:
    assert [each.id for each in account(pools(), "support", NOON).chain()] == ["support:2026-11-26", "company:2026-11"]


def test_a_task_has_a_shard_of_its_own_and_knows_the_others() -> None:
    several = {"p": Pool(name="p", cost=1_600, period="day", shards=4)}
    found = shards(several, "p", NOON, "t_1")
    assert sorted(each.id for each in found) == [f"p:2026-11-26:s{n}" for n in range(4)]
    assert {each.parent and each.parent.id for each in found} == {"p:2026-11-26"}
    assert {each.chunk for each in found} == {25}
    assert len({shards(several, "p", NOON, f"t_{n}")[0].id for n in range(100)}) == 4


# ── drawing from above ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pool_draws_from_its_parent_in_chunks(bank: Bank) -> None:
    for n in range(3):
        assert isinstance(await bank.take(f"t{n}", 40), Allocation)
    assert bank.head("support:2026-11-26")["drawn"] == {OWN: 0, "company:2026-11": 200}
    assert bank.head("company:2026-11")["allocated"]["cost"] == 200
    assert bank.head("company:2026-11")["available"]["cost"] == 4_800
    await bank.take("large", 700)
    assert bank.head("support:2026-11-26")["drawn"]["company:2026-11"] == 820
    bank.conserved()


async def test_neither_the_pool_nor_its_parent_gives_more_than_it_holds(bank: Bank) -> None:
    assert await bank.take("t", 1_601) == Lack(1_601, 1_600, 0, "support:2026-11-26")
    for n in range(16):
        assert isinstance(await bank.take(f"t{n}", 100), Allocation)
    assert await bank.take("more", 1) == Lack(1, 0, 1_600, "support:2026-11-26")
    assert await bank.take("s", 3_401, "sales") == Lack(3_401, 3_400, 1_600, "company:2026-11")
    assert isinstance(await bank.take("s", 3_400, "sales"), Allocation)
    bank.conserved()


async def test_the_last_chunk_is_as_small_as_what_is_left_above(bank: Bank) -> None:
    await bank.take("s", 3_990, "sales")
    await bank.take("t", 900)
    assert isinstance(await bank.take("u", 110), Allocation)
    assert bank.head("company:2026-11")["available"]["cost"] == 0
    bank.conserved()


async def test_many_hosts_at_once_draw_no_more_than_there_is(bank: Bank) -> None:
    hosts = [bank.host() for _ in range(3)]
    found = await asyncio.gather(
        *(bank.take(f"t{n}", 150, "support" if n % 2 else "sales", hosts[n % 3]) for n in range(50))
    )
    assert sum(each.amount for each in found if isinstance(each, Allocation)) <= 5_000
    assert sum(isinstance(each, Allocation) for each in found) >= 33
    bank.conserved()


async def test_a_pool_of_a_pool_of_a_pool(bank: Bank) -> None:
    bank.pools = pools(desk=Pool(name="desk", cost=50, period="hour", parent="support"))
    assert isinstance(await bank.take("t", 10, "desk"), Allocation)
    assert bank.head("desk:2026-11-26T12")["drawn"] == {OWN: 0, "support:2026-11-26": 10}
    assert bank.head("support:2026-11-26")["drawn"] == {OWN: 0, "company:2026-11": 100}
    bank.conserved()


async def test_less_than_before_in_the_configuration_is_given_from_then_on(bank: Bank) -> None:
    await bank.take("t", 300)
    bank.pools = pools(support=Pool(name="support", cost=350, period="day", parent="company"))
    assert await bank.take("u", 51) == Lack(51, 50, 300, "support:2026-11-26")
    assert isinstance(await bank.take("u", 50), Allocation)
    assert isinstance(await bank.take("v", 1), Lack)


async def test_what_was_drawn_before_is_no_more_to_give_than_the_pool_holds_now(bank: Bank) -> None:
    await bank.take("t", 10)
    assert bank.head("support:2026-11-26")["available"]["cost"] == 90
    bank.pools = pools(support=Pool(name="support", cost=50, period="day", parent="company"))
    assert await bank.take("u", 41) == Lack(41, 40, 10, "support:2026-11-26")
    assert isinstance(await bank.take("u", 40), Allocation)


async def test_a_pool_that_gets_a_parent_has_that_ones_money_from_then_on(bank: Bank) -> None:
    bank.pools = pools(support=Pool(name="support", cost=1_600, period="day"))
    await bank.take("t", 300)
    bank.pools = pools()
    await bank.take("u", 10)
    assert bank.head("support:2026-11-26")["drawn"] == {OWN: 0, "company:2026-11": 310}
    bank.conserved()


async def test_shards_draw_from_the_pool_and_give_no_more(bank: Bank) -> None:
    several = {"p": Pool(name="p", cost=1_600, period="day", shards=4)}
    given = 0
    for n in range(200):
        for one in shards(several, "p", bank.clock.now(), f"t_{n}"):
            if isinstance(found := await bank.here.allocate(one, f"t_{n}", 10, 0), Allocation):
                given += found.amount
                break
    assert given == 1_600
    assert min(bank.head(f"p:2026-11-26:s{n}")["allocated"]["cost"] for n in range(4)) > 0
    bank.conserved()


# ── windows that are over ───────────────────────────────────────────────────────────────────────────────────────────


async def test_each_window_has_money_of_its_own_and_nothing_is_carried_over(bank: Bank) -> None:
    await bank.take("t", 1_600)
    assert isinstance(await bank.take("u", 1), Lack)
    bank.clock.advance(DAY / 2)
    assert isinstance(await bank.take("u", 1_600), Allocation)
    assert set(bank.heads()) == {"support:2026-11-26", "support:2026-11-27", "company:2026-11"}
    bank.conserved()


async def test_what_comes_back_after_its_window_flows_to_the_pool_above_and_never_into_the_next_window(
    bank: Bank,
) -> None:
    await bank.take("t", 100)
    bank.clock.advance(DAY / 2 + 60)
    await bank.take("u", 100)
    before = bank.head("support:2026-11-27")
    await bank.here.release("support:2026-11-26", "t", 30)
    assert bank.head("support:2026-11-27") == before
    old, company = bank.head("support:2026-11-26"), bank.head("company:2026-11")
    assert old["closed"]
    assert (company["available"]["cost"], company["allocated"]["cost"]) == (4_870, 100)
    assert not isinstance(await bank.here.allocate(account(bank.pools, "support", NOON), "late", 1, 0), Allocation)
    bank.conserved()


async def test_an_account_closes_only_when_its_window_is_surely_over_and_nothing_is_allocated(bank: Bank) -> None:
    await bank.take("s", 100, "sales")
    await bank.here.release("sales:2026-11-26", "s", 100)
    await bank.take("t", 100)
    await bank.take("u", 100)
    bank.clock.advance(DAY / 2 + GRACE / 1000)
    assert not await bank.here.flow("sales:2026-11-26"), "another host's clock may be behind"
    await bank.here.release("support:2026-11-26", "t", 0)
    bank.clock.advance(1)
    assert not await bank.here.flow("support:2026-11-26"), "u has not ended"
    await bank.here.release("support:2026-11-26", "u", 100)
    assert await bank.here.flow("support:2026-11-26")
    assert await bank.here.flow("sales:2026-11-26")
    assert bank.head("company:2026-11")["available"]["cost"] == 4_800
    bank.conserved()


async def test_a_correction_after_the_close_is_passed_on(bank: Bank) -> None:
    await bank.take("t", 100)
    bank.clock.advance(DAY)
    await bank.here.release("support:2026-11-26", "t", 100)
    assert bank.head("company:2026-11")["available"]["cost"] == 4_900
    await bank.here.release("support:2026-11-26", "t", 40)
    assert bank.head("company:2026-11")["available"]["cost"] == 4_960
    await bank.here.release("support:2026-11-26", "t", 120)
    assert bank.head("company:2026-11")["available"]["cost"] == 4_880, "an overrun is charged to the books, too"


async def test_a_week_across_two_months_gives_each_month_back_its_own(bank: Bank) -> None:
    bank.pools = pools(week=Pool(name="week", cost=1_600, period="week", parent="company"))
    bank.clock.advance((at("2026-11-30T12:00") - NOON) / 1000)
    await bank.take("t", 100, "week")
    bank.clock.advance(DAY)
    await bank.take("u", 250, "week")
    assert bank.head("week:2026-W49")["drawn"] == {OWN: 0, "company:2026-11": 100, "company:2026-12": 250}
    bank.clock.advance(8 * DAY)
    await bank.here.release("week:2026-W49", "t", 60)
    await bank.here.release("week:2026-W49", "u", 70)
    back = [bank.head(f"company:2026-{month}")["available"]["cost"] for month in (11, 12)]
    assert back == [4_900, 4_970], "130 were spent, the older money first"
    bank.conserved()


# ── crashes and a store that lies ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("writes", range(9))
async def test_a_crash_anywhere_in_a_draw_is_finished_by_the_repetition(bank: Bank, writes: int) -> None:
    await bank.take("before", 90)
    bank.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await bank.take("t", 50)
    bank.state.crash_after(10**9)
    found = await bank.take("t", 50, host=bank.host())
    assert isinstance(found, Allocation)
    assert bank.head("support:2026-11-26")["allocated"]["cost"] == 140
    assert bank.head("support:2026-11-26")["drawn"]["company:2026-11"] == 200
    assert bank.head("company:2026-11")["allocated"]["cost"] == 200
    bank.conserved()


@pytest.mark.parametrize("writes", range(14))
async def test_a_crash_anywhere_in_the_first_draw_of_a_window_is_finished_too(bank: Bank, writes: int) -> None:
    bank.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await bank.take("t", 50)
    bank.state.crash_after(10**9)
    assert isinstance(await bank.take("t", 50, host=bank.host()), Allocation)
    assert bank.head("company:2026-11")["allocated"]["cost"] == 100
    bank.conserved()
    due = [row for n in range(8) for row in await bank.state.find("due", f"due:{n}", f"{FAR:016d}", 10)]
    assert sorted(due) == [("pool:company:2026-11", "timer"), ("pool:support:2026-11-26", "timer")]


@pytest.mark.parametrize("writes", range(10))
@pytest.mark.parametrize("correction", [False, True])
async def test_a_crash_anywhere_in_a_late_release_is_finished_by_whoever_looks(
    bank: Bank, writes: int, correction: bool
) -> None:
    await bank.take("t", 100)
    bank.clock.advance(DAY)
    if correction:
        await bank.here.release("support:2026-11-26", "t", 100)
        timer = await bank.here.timer("support:2026-11-26")
        assert timer is not None
        await bank.here.look_again("support:2026-11-26", timer[0], done=True)
    bank.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await bank.here.release("support:2026-11-26", "t", 30)
    bank.state.crash_after(10**9)
    if bank.open("support:2026-11-26")["t"]["spent"] != 30:
        return  # nothing was said yet, so there is nothing to finish
    assert await bank.host().flow("support:2026-11-26")
    assert bank.head("company:2026-11")["available"]["cost"] == 4_970
    assert bank.head("company:2026-11")["allocated"]["cost"] == 0
    if correction:
        place = f"{bank.clock.now():016d}"
        found = [row for n in range(8) for row in await bank.state.find("due", f"due:{n}", place, 10)]
        assert ("pool:support:2026-11-26", "timer") in found, "the timer was set before the correction"
    bank.conserved()


@pytest.mark.parametrize("fault", [Down(), Lost(), Late()])
@pytest.mark.parametrize("nth", range(7))
async def test_no_lost_or_late_answer_doubles_a_draw(bank: Bank, nth: int, fault: Any) -> None:
    await bank.take("before", 90)
    bank.state.meet(*[None] * nth, fault)
    with contextlib.suppress(Problem):
        await bank.take("t", 50)
    bank.state.meet()
    bank.state.deliver()
    assert isinstance(await bank.take("t", 50, host=bank.host()), Allocation)
    bank.state.deliver()
    assert bank.head("support:2026-11-26")["allocated"]["cost"] == 140
    bank.conserved()


async def test_an_account_whose_head_arrives_late_is_looked_after_and_one_that_never_comes_is_left() -> None:
    bank, name = Bank(transactional=False), "company:2026-11"
    bank.state.meet(Late(at=1), Down())
    with contextlib.suppress(Problem):
        await bank.take("t", 50, pool="company")
    assert set(bank.state.dump()[f"pool:{name}"]) == {"timer"}

    async def look() -> bool:
        """Do what the timer does; say whether it goes on."""
        timer = await bank.here.timer(name)
        assert timer is not None
        await bank.here.look_again(name, timer[0], done=await bank.here.flow(name, timer[1]))
        found = [row for n in range(8) for row in await bank.state.find("due", f"due:{n}", f"{FAR:016d}", 10)]
        return (f"pool:{name}", "timer") in found

    bank.clock.advance(600)
    assert await look()
    late, bank.state.late = bank.state.late, []
    bank.clock.advance(LATE // 1000)
    assert not await look()
    assert late, "the head was on its way"


@pytest.mark.parametrize("seed", range(10))
async def test_no_trouble_loses_or_doubles_money_over_days(seed: int) -> None:
    """Hosts draw and release over three days in a store that fails, lies and dies; then everything is closed."""
    bank, draw = Bank(transactional=seed % 2 == 0, trouble=0.15, seed=seed), Random(seed)
    hosts = [bank.host() for _ in range(3)]
    spent = 0

    async def insist(what: Any) -> Any:
        while True:
            try:
                return await what()
            except Problem:
                continue

    async def worker(name: str, host: Pools) -> None:
        nonlocal spent
        where = bank.account(draw.choice(["support", "sales"]))
        found = await insist(lambda: host.allocate(where, name, 90, bank.clock.now()))
        if isinstance(found, Allocation):
            used = draw.randrange(91)
            await bank.clock.sleep(draw.randrange(2 * DAY))
            await insist(lambda: host.release(where.id, name, used))
            spent += used

    for day in range(3):
        await asyncio.gather(*(worker(f"d{day}t{n}", hosts[n % 3]) for n in range(25)))
    bank.state.trouble = 0.0
    bank.state.deliver()
    bank.clock.advance(2 * DAY)
    for name in bank.heads():
        if not name.startswith("company"):
            assert await bank.host().flow(name), name
    bank.conserved()
    company = {name: head for name, head in bank.heads().items() if name.startswith("company")}
    assert {head["allocated"]["cost"] for head in company.values()} == {0}
    assert sum(head["limits"]["cost"] - head["available"]["cost"] for head in company.values()) == spent
