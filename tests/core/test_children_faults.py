"""Children when hosts die, stores lie and links are cut: money is handed over once and comes back once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import late_call
import pytest

from buspass import timer
from buspass.closing import give_back
from buspass.errors import Problem
from buspass.ledger.statement import closed
from buspass.ports.state import Unavailable
from buspass.testing.family import SMALL, Family
from buspass.testing.house import Agent
from buspass.testing.state_memory import Crash, Down, Late, Lost

HOSTS = pytest.mark.parametrize("host", ["onprem", pytest.param("azure", marks=pytest.mark.verify)])
"""The parent's own host, and another."""
CONFIG = Path(__file__).parents[1] / "data" / "children" / "buspass.yaml"


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
async def family(request: pytest.FixtureRequest, tmp_path: Path, service: Any) -> AsyncIterator[Family]:
    family = Family.over(CONFIG, tmp_path, service, transactional=request.param)
    async with family.domain:
        for host in ("onprem", "aws", "azure"):
            await family.domain.host(host)
        yield family


async def crashing(family: Family, store: str, writes: int, what: Callable[[], Awaitable[Any]]) -> bool:
    """Let the host die after so many writes to one store; say whether it did."""
    state = family.state if store == "own" else family.other
    state.crash_after(writes)
    try:
        await what()
    except Crash:
        return True
    finally:
        state.crash_after(10**9)
    return False


async def rest(family: Family, *agents: Agent) -> None:
    """Let a day go by with the timers at work: everything must have come back to the pool, but what was spent."""
    for _ in range(8):
        family.advance(400)
        await family.tick("aws", "azure")
    family.conserved()
    spent = sum(family.spent(agent.task) for agent in agents)
    pool = family.pool()
    assert pool["allocated"]["cost"] == 0
    assert pool["available"]["cost"] == 5_000_000 - spent


@HOSTS
@pytest.mark.parametrize("writes", range(8))
async def test_a_birth_that_breaks_off_is_finished_by_its_repetition_or_undone(
    family: Family, host: str, writes: int
) -> None:
    parent = await family.domain.agent()
    await family.domain.apps["onprem"].house.beside("azure")
    store = "own" if host == "onprem" or writes % 2 else "other"
    await crashing(family, store, writes, lambda: family.delegate(parent, key="k", host=host))
    family.conserved()
    again = await family.delegate(parent, key="k", host=host, via="aws")
    assert again.status_code == 201, again.text
    head = family.head(parent.task)
    assert head["available"]["cost"] == 800_000
    assert len(head["children"]) == 1
    family.conserved()
    await rest(family, parent)


@HOSTS
@pytest.mark.parametrize("writes", range(6))
async def test_a_birth_that_nobody_repeats_is_undone_by_a_timer(family: Family, host: str, writes: int) -> None:
    parent = await family.domain.agent()
    await family.domain.apps["onprem"].house.beside("azure")
    store = "own" if host == "onprem" or writes % 2 else "other"
    await crashing(family, store, writes, lambda: family.delegate(parent, key="k", host=host))
    family.advance(599)
    await family.tick("aws")
    await rest(family, parent)
    await family.sound(parent.task)


@HOSTS
@pytest.mark.parametrize("writes", range(9))
async def test_an_end_that_breaks_off_gives_back_once(family: Family, host: str, writes: int) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent, host=host)
    assert (await child.chat()).status_code == 200
    spent = family.spent(child.task)
    store = "other" if host == "azure" and writes % 2 else "own"
    await crashing(family, store, writes, lambda: child.post("complete"))
    family.conserved()
    assert (await parent.chat()).status_code == 200
    await rest(family, parent)
    assert family.spent(parent.task) == 2 * spent, "its own call, and its child's"
    await family.sound(parent.task)
    await family.sound(child.task, host=host)


@HOSTS
@pytest.mark.parametrize("writes", range(7))
async def test_a_kill_that_breaks_off_is_finished_by_a_timer(family: Family, host: str, writes: int) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent, host=host)
    store = "other" if host == "azure" and writes % 2 else "own"
    await crashing(family, store, writes, lambda: parent.post("kill"))
    killed = family.head(parent.task)["status"] == "killed"
    await rest(family, parent)
    assert family.head(child.task)["status"] in ({"killed", "expired"} if killed else {"expired"})


@pytest.mark.parametrize("fault", [Down(), Lost(), Late()])
@pytest.mark.parametrize("nth", range(5))
async def test_no_lost_or_late_answer_pays_a_child_twice(family: Family, nth: int, fault: Any) -> None:
    parent = await family.domain.agent()
    family.state.meet(*[None] * nth, fault)
    with contextlib.suppress(Problem):
        await family.delegate(parent, key="k")
    family.state.deliver()
    again = await family.delegate(parent, key="k", via="aws")
    assert again.status_code == 201, again.text
    family.state.deliver()
    family.conserved()
    family.state.meet(*[None] * nth, fault)
    child = Agent(
        client=parent.client, task=again.json()["task"]["id"], token=again.json()["token"], document=again.json()
    )
    await child.post("complete")
    family.state.deliver()
    await rest(family, parent)
    await family.sound(parent.task, child.task)


# ── another store ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def apart(tmp_path: Path, service: Any) -> AsyncIterator[Family]:
    family = Family.over(CONFIG, tmp_path, service)
    async with family.domain:
        for host in ("onprem", "aws", "azure"):
            await family.domain.host(host)
        yield family


async def test_a_child_in_another_store_calls_there_and_its_closing_is_proven(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    assert child.task in apart.other.dump()
    assert child.task not in apart.state.dump()
    assert (await child.chat()).status_code == 200
    spent = apart.spent(child.task)
    assert (await child.post("complete")).status_code == 200
    assert apart.head(parent.task)["children"] == {}
    assert apart.spent(parent.task) == spent
    statement = apart.items(child.task)["closing"]
    assert (statement["used"]["cost"], statement["status"]) == (spent, "completed")
    await apart.sound(parent.task)
    await apart.sound(child.task, host="azure")


async def test_a_closing_that_no_host_signed_gives_nothing_back(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    assert (await child.chat()).status_code == 200
    apart.state.down = True
    assert (await child.post("complete")).status_code == 200
    apart.state.down = False
    item = apart.other._items[child.task]["closing"]  # whoever can write to that database
    apart.other._items[child.task]["closing"] = {**item, "used": {}}
    house = apart.domain.apps["onprem"].house
    there = await house.beside("azure")
    # an honest look states anew what the head says: what is read alone decides
    link = apart.head(child.task)["parent"]
    assert await closed(there.state, there.keyring.check, child.task, link) is None
    assert apart.head(parent.task)["children"] != {}
    await apart.task(child.task, "azure")
    assert apart.spent(parent.task) == apart.spent(child.task) > 0


async def test_what_is_out_of_reach_stays_allocated_until_it_is_reached(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    apart.other.down = True
    assert (await parent.post("complete")).status_code == 200
    apart.advance(1300)
    await apart.tick("onprem", "aws")
    assert apart.pool()["allocated"]["cost"] == 1_000_000
    apart.other.down = False
    apart.advance(700)
    await apart.tick("onprem", "azure")
    assert apart.head(child.task)["status"] == "expired"
    assert apart.pool()["allocated"]["cost"] == 0


async def test_a_lease_is_renewed_while_the_parents_host_is_there(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    before = apart.head(child.task)["expires_at"]
    assert before == apart.domain.clock.now() + 300_000
    apart.advance(121)
    await apart.tick("aws", times=1)
    assert apart.head(child.task)["expires_at"] == before + 121_000
    apart.advance(250)
    assert (await child.chat()).status_code == 200


async def test_a_child_that_is_cut_off_stops_by_itself_and_goes_on_when_it_is_heard_again(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    apart.advance(301)
    refused = await child.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "lease_expired")
    assert apart.head(child.task)["status"] == "open"
    await apart.tick("onprem", times=1)
    assert (await child.chat()).status_code == 200


async def test_a_kill_that_can_not_reach_a_child_says_when_it_stops(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    apart.other.down = True
    answer = (await parent.post("kill")).json()
    assert (answer["status"], answer["children"]) == ("killed", [child.task])
    assert answer["drained_by"] > answer["created_at"]
    apart.other.down = False
    assert (await child.chat()).status_code == 200, "not heard of it yet"
    apart.advance(180)
    await apart.tick("onprem")
    assert apart.head(child.task)["status"] == "killed"
    assert apart.head(parent.task)["children"] == {}


async def test_a_killed_parents_child_gets_no_new_lease(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    apart.other.down = True
    assert (await parent.post("kill")).status_code == 200
    apart.advance(125)
    await apart.tick("onprem", "aws")
    apart.advance(180)
    apart.other.down = False
    assert (await child.chat()).json()["error"]["code"] == "lease_expired"


TINY = {**SMALL, "cost": 0.05, "tokens": 5_000, "calls": 2}


@pytest.mark.parametrize("host", ["azure", "onprem"])
async def test_a_lease_holds_for_all_who_are_below_it(apart: Family, host: str) -> None:
    """In the leased child's own store as well as back in its parent's: the kill that can't reach one reaches none."""
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    grandchild = await apart.child(child, via="azure", host=host, budget=TINY)
    ends = apart.head(child.task)["expires_at"]
    assert apart.head(grandchild.task)["expires_at"] == ends
    apart.advance(121)
    await apart.tick("aws", times=1)
    assert apart.head(grandchild.task)["expires_at"] == apart.head(child.task)["expires_at"] == ends + 121_000
    apart.other.down = True
    assert (await parent.post("kill")).status_code == 200
    apart.other.down = False
    for _ in range(3):
        apart.advance(101)
        await apart.tick("azure")  # which doesn't hear of the parent
    assert apart.head(grandchild.task)["status"] == "open"
    refused = await grandchild.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "lease_expired")
    apart.advance(60)
    await apart.tick("onprem", times=1)
    assert apart.head(grandchild.task)["status"] == "killed"
    await rest(apart, parent)


async def test_a_lease_counts_from_when_its_parent_was_seen_alive(apart: Family) -> None:
    parent = await apart.domain.agent()
    house = apart.domain.apps["onprem"].house
    began, delegate = apart.domain.clock.now(), house.delegations.delegate

    async def frozen(*parts: Any) -> Any:
        entry = await delegate(*parts)
        apart.advance(60)
        return entry

    house.delegations.delegate = frozen  # type: ignore[method-assign]
    child = await apart.child(parent, host="azure")
    assert apart.head(child.task)["expires_at"] == began + 300_000


async def test_who_is_below_a_leased_child_that_has_ended_is_still_heard_of(apart: Family) -> None:
    parent = await apart.domain.agent()
    child = await apart.child(parent, host="azure")
    below = [await apart.child(child, via="azure", host=host, budget=TINY) for host in ("azure", "onprem")]
    assert (await child.post("complete")).status_code == 200
    for _ in range(4):
        apart.advance(121)
        await apart.tick("onprem", "azure", times=1)
    assert [(await each.chat()).status_code for each in below] == [200, 200]
    assert apart.head(child.task)["expires_at"] > apart.domain.clock.now(), "its own hosts' timers go by this one"
    await rest(apart, parent)


async def test_a_child_that_was_not_born_when_its_parent_was_killed_can_not_be_born(apart: Family) -> None:
    parent = await apart.domain.agent()
    house = apart.domain.apps["onprem"].house
    there = await house.beside("azure")
    begin = there.tasks.begin

    async def frozen(*parts: Any) -> Any:
        assert (await parent.post("kill")).status_code == 200
        return await begin(*parts)

    there.tasks.begin = frozen  # type: ignore[method-assign]
    answer = await apart.delegate(parent, host="azure", budget=SMALL)
    assert answer.status_code == 403, answer.text
    apart.conserved()
    assert apart.head(parent.task)["children"] == {}


async def test_a_kill_reaches_those_below_a_child_that_has_ended(family: Family) -> None:
    """Before it is answered: whoever is told that a task is dead may rely on it for all that came of it."""
    parent = await family.domain.agent()
    child = await family.child(parent)
    grandchild = await family.child(child, budget={**SMALL, "cost": 0.05, "tokens": 5_000, "calls": 2})
    assert (await child.post("complete")).status_code == 200
    assert family.head(grandchild.task)["status"] == "open"
    assert (await parent.post("kill")).status_code == 200
    assert family.head(grandchild.task)["status"] == "killed"
    await rest(family, parent)


async def test_a_kill_that_reaches_a_child_and_not_its_children_is_not_answered_as_done(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    grandchild = await family.child(child, budget={**SMALL, "cost": 0.05, "tokens": 5_000, "calls": 2})
    apply = family.state.apply

    async def away(partition: str, operations: Any) -> Any:
        if partition == grandchild.task:
            raise Unavailable(0, "away")
        return await apply(partition, operations)

    family.state.apply = away  # type: ignore[method-assign]
    assert (await parent.post("kill")).status_code == 503
    family.state.apply = apply  # type: ignore[method-assign]
    assert (await parent.post("kill")).status_code == 200
    assert family.head(grandchild.task)["status"] == "killed"
    await rest(family, parent)


@HOSTS
async def test_a_host_that_was_frozen_tells_a_parent_nothing_old(family: Family, host: str) -> None:
    """What it read of an ended child, before a call of that was settled late, is no news any more."""
    parent = await family.domain.agent()
    child = await family.child(parent, host=host)
    house = await family.domain.apps["onprem"].house.beside(host)
    held = await late_call.hold(house, child.task)
    assert (await child.post("complete")).status_code == 200
    family.advance(40)
    await family.task(child.task, host)
    before = family.head(child.task)
    assert (before["status"], before["open"], family.spent(parent.task)) == ("completed", {}, late_call.HELD)
    await late_call.settle(house, held)
    await family.task(child.task, host)
    assert family.spent(parent.task) == family.spent(child.task) == late_call.USED
    await give_back(house, child.task, before)  # it wakes, and goes on with what it had read
    assert family.spent(parent.task) == late_call.USED
    await rest(family, parent)
    await family.sound(parent.task)


@HOSTS
async def test_a_host_that_was_frozen_between_two_late_settles_that_cancel_tells_a_parent_nothing_old(
    family: Family, host: str
) -> None:
    """One call came to less than was charged for it, another to as much more: the parent's sum was never wrong."""
    parent = await family.domain.agent()
    child = await family.child(parent, host=host)
    house = await family.domain.apps["onprem"].house.beside(host)
    cheap, dear = [await late_call.hold(house, child.task, call) for call in ("i_1", "i_2")]
    assert (await child.post("complete")).status_code == 200
    family.advance(40)
    await family.task(child.task, host)
    assert family.spent(parent.task) == family.spent(child.task) == 2 * late_call.HELD
    await late_call.settle(house, cheap)
    between = family.head(child.task)
    await late_call.settle(house, dear, 2 * late_call.HELD - late_call.USED)
    await family.task(child.task, host)
    assert family.spent(parent.task) == family.spent(child.task) == 2 * late_call.HELD
    await give_back(house, child.task, between)  # who read it then wakes, and goes on with that
    assert family.spent(parent.task) == 2 * late_call.HELD
    await rest(family, parent)
    await family.sound(parent.task)


@HOSTS
async def test_a_correction_that_comes_while_a_timer_looks_is_looked_at_by_the_next(
    family: Family, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that looked was frozen until then: it must not take the child off the list for what it saw."""
    parent = await family.domain.agent()
    child = await family.child(parent, host=host)
    house = await family.domain.apps["onprem"].house.beside(host)
    late = [await late_call.hold(house, child.task)]
    assert (await child.post("complete")).status_code == 200
    family.advance(40)
    await family.task(child.task, host)
    assert family.spent(parent.task) == late_call.HELD

    async def told(*_: Any) -> bool:
        if late:
            await late_call.settle(house, late.pop())
        return True

    monkeypatch.setattr(timer, "told", told)
    family.advance(700)
    await family.tick("onprem", "azure", times=1)
    assert late == []
    assert family.spent(child.task) == late_call.USED
    family.advance(61)
    await family.tick("onprem", "azure")
    assert family.spent(parent.task) == late_call.USED
    await rest(family, parent)
    await family.sound(parent.task)
