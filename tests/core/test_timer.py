"""The timer: what nobody comes by for ends all the same, a bounded part of it at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from buspass.journal.seals import KEEP_LATE
from buspass.ledger import Claim, Held, Outcome
from buspass.testing.family import Family
from buspass.testing.state_memory import Crash, Dies
from buspass.timer import EVERY, keep, tick

CONFIG = Path(__file__).parents[1] / "data" / "children" / "buspass.yaml"


@pytest.fixture
async def family(tmp_path: Path, service: Any) -> AsyncIterator[Family]:
    family = Family.over(CONFIG, tmp_path, service)
    async with family.domain:
        await family.domain.host()
        await family.domain.host("aws")
        yield family


def due(family: Family) -> list[str]:
    entries = family.state._entries
    now = f"{family.domain.clock.now():016d}"
    places = [
        part for (part, _, name), (shard, at) in entries.items() if name == "due" and at <= now and "due:" in shard
    ]
    return sorted(part for part in places if part.startswith("t_"))


async def held_by(family: Family, task: str) -> Held:
    """A call in flight that nobody will settle by itself."""
    house = family.domain.apps["onprem"].house
    claim = Claim(
        task=task,
        call="i_1",
        kind="inference",
        name="plan",
        amounts={"cost": 5_000, "tokens": 10, "calls": 1},
        fence=1,
        deadline=house.clock.now() + 20_000,
        host="onprem",
    )
    held = await house.ledger.hold(claim, 0)
    assert isinstance(held, Held)
    return held


async def test_a_task_that_nobody_looks_at_expires_and_its_money_goes_back(family: Family) -> None:
    agent = await family.domain.agent()
    assert (await agent.chat()).status_code == 200
    spent = family.spent(agent.task)
    family.advance(601)
    await family.tick("aws", times=1)
    assert family.head(agent.task)["status"] == "expired"
    assert family.pool()["available"]["cost"] == 5_000_000 - spent
    assert due(family) == []
    family.advance(10_000)
    assert due(family) == [], "nothing is left to do"


async def test_a_hold_that_nobody_settles_is_ended(family: Family) -> None:
    agent = await family.domain.agent()
    await held_by(family, agent.task)
    family.advance(600)
    await family.tick("aws", times=1)
    assert family.head(agent.task)["open"] == {}
    assert family.items(agent.task)["rec:i_1"]["state"] == "expired"
    assert family.spent(agent.task) == 5_000


@pytest.mark.parametrize("died_after", [1, 2], ids=["the reminder", "the record"])
async def test_a_correction_whose_writer_dies_is_posted_and_reaches_the_pool(family: Family, died_after: int) -> None:
    agent = await family.domain.agent()
    ledger, held = family.domain.apps["onprem"].house.ledger, await held_by(family, agent.task)
    family.advance(601)
    await family.tick("aws", times=1)
    assert family.pool()["available"]["cost"] == 5_000_000 - 5_000
    family.state.transactional = False
    family.state.meet(None, Dies(died_after))
    with pytest.raises(Crash):
        await ledger.settle(held, Outcome(use={"cost": 1_000, "tokens": 3, "calls": 1}), {"kind": "inference"})
    assert ("credit:i_1" in family.items(agent.task)) is (died_after == 2)
    family.advance(61)
    await family.tick("aws", times=1)
    assert family.spent(agent.task) == (1_000 if died_after == 2 else 5_000)
    family.advance(KEEP_LATE / 1000)
    await family.tick("aws", times=1)
    assert family.pool()["available"]["cost"] == 5_000_000 - family.spent(agent.task)
    assert "due:i_1" not in family.items(agent.task)
    assert due(family) == []


async def test_a_task_that_lives_is_looked_at_again(family: Family) -> None:
    client = await family.domain.host()
    token = await family.domain.apps["onprem"].mint_workload("me")
    body = {"workflow": "work", "budget": {"cost": 0.5}}
    answer = await client.post("/v1/tasks", json=body, headers={"authorization": f"Bearer {token}"})
    task = answer.json()["task"]["id"]
    family.advance(599)
    assert due(family) == []
    family.advance(1)
    assert due(family) == [task]


async def test_one_tick_does_a_bounded_part(family: Family) -> None:
    for _ in range(4):
        await family.domain.agent()
    family.advance(601)
    assert len(due(family)) == 4
    house = family.domain.apps["aws"].house
    assert await tick(house, limit=3) == 3
    assert await tick(house, seconds=-1) == 0
    done = 3
    while more := await tick(house, limit=2):
        assert more <= 2
        done += more
    assert done >= 5, "four tasks and their pool"
    assert due(family) == []


async def test_two_timers_at_once_do_everything_once(family: Family) -> None:
    agents = [await family.domain.agent() for _ in range(4)]
    family.advance(601)
    await asyncio.gather(*(family.tick(host, times=2) for host in ("onprem", "aws")))
    assert family.pool()["available"]["cost"] == 5_000_000
    await family.sound(*(agent.task for agent in agents))


async def test_what_can_not_be_looked_after_stays_due_and_does_not_stop_the_others(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [await family.domain.agent() for _ in range(3)]
    house = family.domain.apps["onprem"].house
    look, broken = house.tasks.look, agents[0].task

    async def failing(task: str) -> Any:
        if task == broken:
            house.tasks._seen.clear()
            raise family_problem()
        return await look(task)

    def family_problem() -> Exception:
        from buspass.errors import Problem  # noqa: PLC0415

        return Problem("state_unavailable", "no")

    monkeypatch.setattr(house.tasks, "look", failing)
    family.advance(601)
    await family.tick("onprem", times=1)
    statuses = [family.head(agent.task)["status"] for agent in agents]
    assert statuses == ["open", "expired", "expired"]
    monkeypatch.undo()
    family.advance(61)
    await family.tick("onprem", times=1)
    assert family.head(broken)["status"] == "expired"


async def test_a_host_that_runs_all_the_time_ticks_by_itself_and_outlives_a_store_that_is_away(
    family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await family.domain.agent()
    running = asyncio.create_task(keep(family.domain.apps["aws"].house))
    family.state.down = True
    while "the timer: state_unavailable" not in caplog.text:  # the fake clock's sleep takes a turn of the loop
        await asyncio.sleep(0)
    family.state.down = False
    before = family.domain.clock.now()
    while family.head(agent.task)["status"] == "open":
        await asyncio.sleep(0)
    assert family.domain.clock.now() - before < 600_000 + 3 * EVERY * 1000
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
