"""A pool's money: given once, given back once, whatever crashes, gets lost or comes late."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.ledger.pools import KEPT, Allocation, Lack, Pools
from buspass.ledger.windows import Account
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Crash, Down, Late, Lost, MemoryState
from buspass_onprem.sqlite import open as open_sqlite

HOLDS = 1_000
POOL = Account(id="p", pool="p", holds=HOLDS)
FAR = 10**15


class Bank:
    """A pool `p` in a store with faults, seen by as many hosts as are asked for."""

    def __init__(self, *, transactional: bool = True, trouble: float = 0.0, seed: int = 0) -> None:
        self.clock = FakeClock(seed=seed)
        self.state = MemoryState(transactional=transactional, trouble=trouble, random=Random(seed))
        self.here = self.host()

    def host(self) -> Pools:
        return Pools(self.state, self.clock)

    async def take(self, name: str, amount: int = 100, host: Pools | None = None) -> Allocation | Lack:
        return await (host or self.here).allocate(POOL, name, amount, self.clock.now() + 1000)

    @property
    def items(self) -> dict[str, Any]:
        return self.state.dump()["pool:p"]

    @property
    def head(self) -> dict[str, Any]:
        head: dict[str, Any] = self.items["head"]
        return head

    def balanced(self, *, spent: int = 0) -> None:
        """What the pool has, what it gave and what was spent are what it held."""
        last, records = self.head["last"], {k[6:]: v for k, v in self.items.items() if k.startswith("alloc:")}
        entries = {name: item for name, item in {**records, **last}.items() if item["turn"]}
        given = sum(item["amount"] for item in entries.values() if item["state"] == "open")
        assert self.head["allocated"]["cost"] == given
        assert spent == sum(item["spent"] for item in entries.values())
        assert self.head["available"]["cost"] == self.head["limits"]["cost"] - given - spent
        assert self.head["available"]["cost"] >= 0


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
def bank(request: pytest.FixtureRequest) -> Bank:
    return Bank(transactional=request.param)


async def test_a_pool_gives_no_more_than_it_holds(bank: Bank) -> None:
    hosts = [bank.host() for _ in range(3)]
    found = await asyncio.gather(*(bank.take(f"t{n}", 100, hosts[n % 3]) for n in range(30)))
    assert sum(isinstance(each, Allocation) for each in found) == 10
    assert Lack(100, 0, 1000, "p") in found
    bank.balanced()


async def test_the_same_task_draws_once_also_where_it_asks_for_another_amount(bank: Bank) -> None:
    first = await bank.take("t", 100)
    assert await bank.take("t", 300, bank.host()) == first
    found = await asyncio.gather(*(bank.take("u", 50, bank.host()) for _ in range(8)))
    assert len({each.at for each in found if isinstance(each, Allocation)}) == 1
    assert bank.head["allocated"]["cost"] == 150
    bank.balanced()


async def test_what_was_not_spent_comes_back_once(bank: Bank) -> None:
    await bank.take("t", 100)
    await asyncio.gather(*(bank.host().release("p", "t", 30) for _ in range(5)))
    assert (bank.head["available"]["cost"], bank.head["allocated"]["cost"]) == (970, 0)
    assert bank.head["version"] == 2
    found = await bank.take("t", 100)
    assert isinstance(found, Allocation)
    assert found.state == "released"
    bank.balanced(spent=30)


async def test_a_correction_after_the_release_moves_the_difference(bank: Bank) -> None:
    await bank.take("t", 100)
    await bank.here.release("p", "t", 100)
    await bank.here.release("p", "t", 40)
    assert bank.head["available"]["cost"] == 960
    await bank.here.release("p", "t", 120)
    assert bank.head["available"]["cost"] == 880
    bank.balanced(spent=120)


async def test_a_release_of_what_was_never_taken_gives_nothing(bank: Bank) -> None:
    await bank.here.release("p", "t", 0)
    await bank.take("u")
    await bank.here.release("p", "t", 0)
    bank.balanced()


async def test_the_head_stays_small_and_forgets_nothing(bank: Bank) -> None:
    names = [f"t{n:03}" for n in range(KEPT + 40)]
    for name in names:
        assert isinstance(await bank.take(name, 1), Allocation)
        bank.clock.advance(1)
    assert len(bank.head["last"]) == KEPT
    for name in names:
        assert (await bank.take(name, 1, bank.host())).amount == 1  # type: ignore[union-attr]
    assert bank.head["allocated"]["cost"] == len(names)
    for name in names:
        await bank.here.release("p", name, 1)
        await bank.here.release("p", name, 1)
    assert len(bank.head["last"]) == KEPT
    bank.balanced(spent=len(names))


async def test_the_head_forgets_no_allocation_whose_record_a_crash_left_unwritten(bank: Bank) -> None:
    await bank.take("first", 1)
    bank.state.crash_after(2)  # the intent and the head, not the record
    with pytest.raises(Crash):
        await bank.take("t", 100)
    bank.state.crash_after(10**6)
    assert bank.items["alloc:t"]["turn"] == 0
    for n in range(KEPT + 1):
        bank.clock.advance(1)
        await bank.take(f"u{n}", 1)
    assert "t" not in bank.head["last"]
    found = await bank.take("t", 100)
    assert isinstance(found, Allocation)
    assert bank.head["allocated"]["cost"] == 100 + 1 + KEPT + 1
    bank.balanced()


async def test_a_changed_configuration_adds_or_takes_away_the_difference(bank: Bank) -> None:
    await bank.take("t", 400)
    await bank.here.allocate(replace(POOL, holds=2_000), "u", 1_500, 0)
    assert bank.head["available"]["cost"] == 100
    assert isinstance(await bank.here.allocate(replace(POOL, holds=500), "v", 1, 0), Lack)
    assert bank.head["available"]["cost"] == -1_400


async def test_open_allocations_are_found_when_they_are_due_and_can_be_postponed(bank: Bank) -> None:
    await bank.take("t")
    await bank.take("u")
    await bank.here.release("p", "u", 0)
    assert await bank.here.open_until("p", bank.clock.now(), 10) == []
    bank.clock.advance(1)
    assert [each.id for each in await bank.here.open_until("p", bank.clock.now(), 10)] == ["t"]
    later = bank.clock.now() + 60_000
    await bank.here.postpone("p", "t", later)
    assert await bank.here.open_until("p", bank.clock.now(), 10) == []
    assert [each.due for each in await bank.here.open_until("p", later, 10)] == [later]


async def test_an_intent_that_came_to_nothing_is_dropped_when_it_is_due(bank: Bank) -> None:
    await bank.take("before")
    bank.state.meet(None, Down())
    with pytest.raises(Problem, match="state_unavailable"):
        await bank.take("t")
    assert bank.items["alloc:t"]["turn"] == 0
    assert await bank.here.open_until("p", FAR, 10) != []
    assert "alloc:t" in bank.items, "whoever wrote it may be about to take the money"
    bank.clock.advance(1)
    await bank.here.open_until("p", FAR, 10)
    assert "alloc:t" not in bank.items
    bank.balanced()


async def test_who_says_what_stood_there_once_takes_nothing_back(bank: Bank) -> None:
    await bank.take("t")
    await bank.here.release("p", "t", 60, 3)
    await bank.here.release("p", "t", 40, 4)
    await bank.take("u", 960)
    for late in (3, 2, 4):
        await bank.host().release("p", "t", 40 if late == 4 else 60, late)
        bank.balanced(spent=40)
    await bank.here.release("p", "t", 40, 6)
    await bank.here.release("p", "t", 30, 5)
    bank.balanced(spent=40)
    await bank.here.release("p", "t", 20, 7)
    bank.balanced(spent=20)


async def test_a_commit_that_arrives_after_its_intent_was_dropped_takes_nothing(bank: Bank) -> None:
    await bank.take("before")
    bank.state.meet(None, Late(), None, Down())
    with pytest.raises(Problem, match="state_unavailable"):
        await bank.take("t")
    bank.clock.advance(1.001)
    await bank.here.open_until("p", FAR, 10)
    assert "alloc:t" not in bank.items
    bank.state.deliver()
    assert "t" not in bank.head["last"], "nobody would ever look after it"
    bank.balanced()
    assert isinstance(await bank.take("t"), Allocation)
    bank.balanced()


@pytest.mark.parametrize("writes", range(6))
async def test_an_intent_that_is_dropped_late_takes_nothing_along_of_the_one_after_it(bank: Bank, writes: int) -> None:
    await bank.take("before")
    bank.state.meet(None, Down())
    with pytest.raises(Problem, match="state_unavailable"):
        await bank.take("t")
    bank.clock.advance(1.001)
    bank.state.meet(None, Late())
    await bank.here.open_until("p", bank.clock.now(), 10)
    assert "alloc:t" in bank.items
    bank.state.crash_after(writes)
    with suppress(Crash):
        await bank.take("t")
    bank.state.crash_after(10**6)
    bank.state.deliver()
    taken = "t" in bank.head["last"]
    assert ("t" in {each.id for each in await bank.host().open_until("p", FAR, 10)}) is taken
    bank.balanced()


@pytest.mark.parametrize("writes", range(8))
@pytest.mark.parametrize("ends", ["take", "release"])
async def test_a_crash_anywhere_leaves_money_allocated_and_the_repetition_finishes(
    bank: Bank, writes: int, ends: str
) -> None:
    await bank.take("other", 1)
    if ends == "release":
        await bank.take("t")
    bank.state.crash_after(writes)
    try:
        await (bank.take("t") if ends == "take" else bank.here.release("p", "t", 60))
    except Crash:
        bank.balanced(spent=bank.head["last"].get("t", {}).get("spent", 0))
    bank.state.crash_after(10**6)
    found = await bank.take("t", host=bank.host())
    assert isinstance(found, Allocation)
    if ends == "take":
        assert (found.amount, bank.head["allocated"]["cost"]) == (100, 101)
        assert {each.id for each in await bank.host().open_until("p", FAR, 10)} == {"other", "t"}
    await bank.host().release("p", "t", 60)
    bank.balanced(spent=60)
    assert bank.head["allocated"]["cost"] == 1


async def test_a_write_that_arrives_late_takes_nothing_twice(bank: Bank) -> None:
    await bank.take("before")
    bank.state.meet(None, Late())  # the commit of the head
    assert isinstance(await bank.take("t"), Allocation)
    bank.state.meet(Lost())
    await bank.here.release("p", "t", 10)
    bank.state.deliver()
    assert bank.head["allocated"]["cost"] == 100
    bank.balanced(spent=10)


@pytest.mark.parametrize("seed", range(12))
async def test_no_trouble_of_the_store_loses_or_doubles_money(seed: int) -> None:
    bank = Bank(transactional=seed % 2 == 0, trouble=0.25, seed=seed)
    draw = Random(seed)

    async def insist(what: Any) -> Any:
        while True:
            try:
                return await what()
            except Problem:
                continue

    async def worker(name: str, host: Pools) -> int:
        found = await insist(lambda: bank.take(name, 40, host))
        if isinstance(found, Lack):
            return 0
        spent = draw.randrange(41)
        await insist(lambda: host.release("p", name, spent))
        return spent

    hosts = [bank.host() for _ in range(3)]
    spent = await asyncio.gather(*(worker(f"t{n}", hosts[n % 3]) for n in range(90)))
    bank.state.deliver()
    bank.state.trouble = 0.0
    assert bank.head["allocated"]["cost"] == 0
    bank.balanced(spent=sum(spent))


WRITER = """
import asyncio, sys
from buspass.ledger.pools import Allocation, Pools
from buspass.ledger.windows import Account
from buspass.ports.clock import SystemClock
from buspass_onprem.sqlite import open

async def main(path, name):
    state = await open(path)
    pools = Pools(state, SystemClock())
    found = await asyncio.gather(*(pools.allocate(Account(id="p", pool="p", holds=1000), f"{name}{n}", 10, 0) for n in range(80)))
    mine = [each.id for each in found if isinstance(each, Allocation)]
    for id in mine[::2]:
        await pools.release("p", id, 3)
    await asyncio.gather(*(pools.allocate(Account(id="p", pool="p", holds=1000), f"shared{n}", 1, 0) for n in range(20)))
    print(len(mine), len(mine[::2]))
    await state.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_on_one_file_give_no_more_than_the_pool_holds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db?durability=process"
    command = [sys.executable, "-c", WRITER, url]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("a", "b")]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    taken, ended = (sum(int(words[n]) for words in said) for n in (0, 1))
    state = await open_sqlite(url)
    head: Any = await state.read("pool:p", "head")
    shared = [item for _, item in await state.list("pool:p", "alloc:shared", "", 100) if item["turn"]]
    await state.close()
    assert taken >= 100
    assert head["allocated"]["cost"] == 10 * (taken - ended) + len(shared)
    assert head["available"]["cost"] == 1000 - head["allocated"]["cost"] - 3 * ended
    assert head["available"]["cost"] >= 0
