"""Tasks on pools of the calendar: which window pays, what a crash around midnight leaves, what a refusal says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from buspass.allocation import tend
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.state_memory import Crash, MemoryState

CONFIG = Path(__file__).parents[1] / "data" / "pools" / "buspass.yaml"
EVE = int(datetime(2026, 11, 26, 23, 59, tzinfo=UTC).timestamp()) * 1000


class Shop:
    """A domain a minute before midnight."""

    def __init__(self, domain: Domain, state: MemoryState) -> None:
        self.domain, self.state = domain, state

    async def start(self, workflow: str = "work", key: str = "", host: str = "onprem", **body: Any) -> httpx.Response:
        token = await self.domain.apps[host].mint_workload("me")
        headers = {"authorization": f"Bearer {token}"} | ({"idempotency-key": key} if key else {})
        return await (await self.domain.host(host)).post(
            "/v1/tasks", json={"workflow": workflow, **body}, headers=headers
        )

    async def kill(self, task: str) -> None:
        client = await self.domain.host()
        key = self.domain.apps["onprem"].house.operator_key
        answer = await client.post(f"/v1/tasks/{task}/kill", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text

    def advance(self, seconds: float) -> None:
        self.domain.clock.advance(seconds)  # type: ignore[attr-defined]

    def head(self, account: str) -> Any:
        return self.state.dump()[f"pool:{account}"]["head"]

    async def tend(self, account: str, host: str = "onprem") -> None:
        await tend(self.domain.apps[host].house, account, 20)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    state = MemoryState(transactional=False, random=Random(7))
    async with Domain(CONFIG, tmp_path, {}, state=state, clock=FakeClock(EVE)) as domain:
        await domain.host()
        await domain.host("aws")
        yield Shop(domain, state)


async def test_a_task_is_paid_by_the_window_in_which_it_began(shop: Shop) -> None:
    eve = (await shop.start()).json()["task"]["id"]
    shop.advance(120)
    assert (await shop.start()).status_code == 201
    await shop.kill(eve)
    assert shop.head("support:2026-11-26")["allocated"]["cost"] == 0
    assert shop.head("support:2026-11-26")["closed"]
    assert shop.head("support:2026-11-27")["allocated"]["cost"] == 500_000
    assert shop.head("company:2026-11")["allocated"]["cost"] == 500_000


@pytest.mark.parametrize("writes", range(12))
async def test_a_start_that_breaks_off_before_midnight_and_is_repeated_after_it_has_money_once(
    shop: Shop, writes: int
) -> None:
    shop.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await shop.start(key="k")
    shop.state.crash_after(10**9)
    shop.advance(120)
    again = await shop.start(key="k", host="aws")
    assert again.status_code == 201, again.text
    shop.advance(1300)
    for account in ("support:2026-11-26", "support:2026-11-27", "company:2026-11"):
        if f"pool:{account}" in shop.state.dump():
            await shop.tend(account)
    assert (
        shop.head("company:2026-11")["available"]["cost"] + shop.head("company:2026-11")["allocated"]["cost"]
        == 2_500_000
    )
    found = [items for name, items in shop.state.dump().items() if name.startswith("pool:support")]
    allocated = [items["head"]["allocated"]["cost"] for items in found if "head" in items]
    assert set(allocated) == {0}, "it has ended, and its money is back where it came from"


async def test_the_first_record_says_whose_money_a_task_has(shop: Shop) -> None:
    task = (await shop.start()).json()["task"]["id"]
    items = shop.state.dump()[task]
    assert items["rec:e0"]["pool"] == items["head"]["pool"] == "support:2026-11-26"


async def test_a_pool_that_is_short_says_when_there_is_more(shop: Shop) -> None:
    for _ in range(3):
        assert (await shop.start()).status_code == 201
    refused = (await shop.start()).json()
    assert (refused["code"], refused["limit"], refused["pool"]) == ("budget_held", "pool", "support")
    assert refused["left"] == 0.1
    assert refused["renews_at"] == "2026-11-27T00:00:00Z"


async def test_a_parent_that_is_short_is_named(shop: Shop) -> None:
    for _ in range(3):
        assert (await shop.start()).status_code == 201
    shop.advance(120)
    for _ in range(2):
        assert (await shop.start()).status_code == 201
    refused = (await shop.start()).json()
    assert (refused["code"], refused["pool"]) == ("budget_held", "company")
    assert "pool 'support' draws from pool 'company'" in refused["detail"]
    assert refused["renews_at"] == "2026-12-01T00:00:00Z"


async def test_an_account_is_looked_at_until_its_window_is_over_and_everything_came_back(shop: Shop) -> None:
    assert (await shop.start()).status_code == 201

    async def due() -> list[str]:
        place = f"{shop.domain.clock.now():016d}"
        found = [part for n in range(8) for part, _ in await shop.state.find("due", f"due:{n}", place, 10)]
        return [part for part in found if part.startswith("pool:")]

    assert await due() == []
    shop.advance(61)
    assert sorted(await due()) == ["pool:company:2026-11", "pool:support:2026-11-26"]
    await shop.tend("support:2026-11-26")
    assert await due() == ["pool:company:2026-11"]
    shop.advance(660)
    await shop.tend("support:2026-11-26", "aws")
    assert shop.head("support:2026-11-26")["closed"], "its task has expired, its window is over"
    assert shop.head("company:2026-11")["available"]["cost"] == 2_500_000
    shop.advance(10 * 86_400)
    assert await due() == ["pool:company:2026-11"]
    await shop.tend("company:2026-11")
    assert await due() == []


async def test_where_one_shard_is_empty_another_one_pays(shop: Shop) -> None:
    for _ in range(16):
        assert (await shop.start("small")).status_code == 201
    assert (await shop.start("small")).json()["code"] == "budget_held"
    heads = [shop.head(f"parts:2026-11-26:s{n}") for n in range(4)]
    assert sum(head["allocated"]["cost"] for head in heads) == 1_600_000
