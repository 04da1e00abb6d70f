"""Children at a peer when hosts die, messages get lost and domains are parted: what is out of reach stays allocated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import late_call
import pytest
from test_peers import rest

from buspass.admitting import obey
from buspass.errors import Problem
from buspass.testing.house import Agent
from buspass.testing.neighbours import HOME, PARTNER, SMALL, Neighbours
from buspass.testing.state_memory import Crash

SLOW = pytest.mark.verify
WRITES = [pytest.param(n, marks=() if n in {2, 5} else SLOW) for n in range(7)]
"""Writes to a store that a host makes before it dies."""
CONFIGS = Path(__file__).parents[1] / "data" / "peers"


@pytest.fixture
async def both(tmp_path: Path, service: Any) -> AsyncIterator[Neighbours]:
    async with Neighbours(CONFIGS, tmp_path, service) as both:
        yield both


@pytest.fixture
async def apart(tmp_path: Path, service: Any) -> AsyncIterator[Neighbours]:
    """The same over stores that apply one operation at a time."""
    async with Neighbours(CONFIGS, tmp_path, service, transactional=False) as both:
        yield both


# ── who is admitted ─────────────────────────────────────────────────────────────────────────────────────────────────


REFUSED: Any = [
    ({"workflow": "own"}, 403, "denied"),  # `*` among its identities means the partner's own
    ({"workflow": "proven"}, 403, "denied"),  # the parent acts for nobody
    ({"workflow": "gone"}, 404, "not_found"),
    ({"budget": {**SMALL, "cost": 0.6}}, 400, "invalid_request"),
    ({"models": ["gpt-9"]}, 400, "invalid_request"),
]


async def test_what_the_peer_refuses_comes_back_at_once(both: Neighbours) -> None:
    parent = await both.home.agent()
    for body, status, code in REFUSED:
        refused = await both.hand(parent, **body)
        assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
        assert refused.json()["detail"].startswith("peer partner: ")
        head = both.head(parent.task)
        assert (head["children"], head["available"]["cost"]) == ({}, 1_000_000)


async def test_an_agent_that_the_workflow_does_not_name_is_not_admitted(both: Neighbours) -> None:
    parent = await both.home.agent(agent="other")
    refused = await both.hand(parent)
    assert (refused.status_code, refused.json()["reasons"]) == (403, ["peer"])
    assert (await both.child(await both.home.agent(agent="mine"))).task


async def test_a_peers_agent_starts_no_child_over_there_that_it_may_not_start_itself(both: Neighbours) -> None:
    """`*` among the identities of `own` means the partner's, also where a peer's child delegates beside itself."""
    child = await both.child(await both.home.agent())
    wish = {"workflow": "own", "budget": {"tokens": 5_000, "cost": 0.05, "calls": 2}}
    refused = await child.client.post(f"/v1/tasks/{child.task}/tasks", json=wish, headers=child.headers)
    assert (refused.status_code, refused.json()["reasons"]) == (403, ["agent"])


async def test_a_subject_goes_along_as_the_peers_word(both: Neighbours) -> None:
    behalf = {"on_behalf_of": {"type": "customer", "id": "C-1"}}
    parent = await both.home.agent(workflow="behalf", **behalf)
    child = await both.child(parent, workflow="proven")
    assert child.document["subject"] == {"type": "customer", "id": "C-1", "proof": "asserted"}


WRONG: Any = [
    ({"peer": "stranger"}, "invalid_request"),
    ({"peer": 7}, "invalid_request"),
    ({"workflow": 7}, "invalid_request"),
    ({"workflow": ""}, "invalid_request"),
    ({"models": "plan"}, "invalid_request"),
    ({"tools": [7]}, "invalid_request"),
    ({"budget": {"cost": 0.1}}, "invalid_request"),
    ({"budget": {**SMALL, "gold": 1}}, "unsupported"),
    ({"budget": {**SMALL, "wall": 3600}}, "invalid_request"),
    ({"budget": {**SMALL, "cost": 1.5}}, "budget_exhausted"),
    ({"host": "aws"}, "unsupported"),
    ({"metadata": {"a": {}}}, "invalid_request"),
]


async def test_what_is_wrong_here_reaches_no_peer(both: Neighbours) -> None:
    parent = await both.home.agent()
    for body, code in WRONG:
        refused = await both.hand(parent, **body)
        assert refused.json()["code"] == code, refused.text
    assert both.wires[PARTNER].paths == []
    assert both.head(parent.task)["children"] == {}


async def test_a_peers_child_draws_from_the_pool_of_the_workflow_that_receives_it(both: Neighbours) -> None:
    """What a peer may make this domain spend in all is this domain's to say."""
    parents = [await both.home.agent() for _ in range(3)]
    half = {"tokens": 1_000, "cost": 0.5, "calls": 1}
    answers = [await both.hand(parent, budget=half) for parent in parents[:2] for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 201]
    full = await both.hand(parents[2], budget=half, key="k")
    assert (full.status_code, full.json()["code"]) == (503, "peer_unavailable"), full.text
    assert "tasks in progress hold the rest" in full.json()["detail"]
    child = answers[0].json()
    agent = Agent(
        client=await both.partner.host("partner"), task=child["task"]["id"], token=child["token"], document={}
    )
    assert (await agent.post("complete")).status_code == 200
    assert (await both.hand(parents[2], budget=half, key="k")).status_code == 201


# ── births that break off ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_peer_out_of_reach_keeps_what_was_meant_for_it(both: Neighbours) -> None:
    parent = await both.home.agent()
    both.cut()
    refused = await both.hand(parent, key="k")
    assert (refused.status_code, refused.json()["code"]) == (503, "peer_unavailable")
    assert both.head(parent.task)["available"]["cost"] == 800_000
    both.advance(500)
    await both.tick()
    assert both.head(parent.task)["available"]["cost"] == 800_000
    both.cut(cut=False)
    both.advance(11)
    again = await both.hand(parent, key="k")
    assert again.status_code == 201, again.text
    assert both.head(parent.task)["available"]["cost"] == 800_000, "paid once"
    await rest(both, parent)


async def test_what_was_never_born_comes_back_once_the_peer_signs_that_it_never_will_be(both: Neighbours) -> None:
    parent = await both.home.agent(budget={"wall": 600})
    both.cut()
    await both.hand(parent, key="k")
    both.advance(601)
    await both.tick()
    assert both.head(parent.task)["children"] != {}
    assert both.pool("home")[1] == 1_000_000
    both.cut(cut=False)
    both.advance(130)
    await both.tick("home")
    assert both.head(parent.task)["children"] == {}
    assert both.pool("home")[1] == 0
    (task,) = [name for name in both.states["partner"].dump() if name.startswith("t_")]
    assert both.head(task)["tombstone"] is True


@pytest.mark.parametrize("store", ["home", "partner"])
@pytest.mark.parametrize("writes", WRITES)
async def test_a_birth_that_breaks_off_is_finished_by_its_repetition(
    apart: Neighbours, store: str, writes: int
) -> None:
    parent = await apart.home.agent()
    await die(apart, store, writes, apart.hand(parent, key="k"))
    apart.advance(11)
    again = await apart.hand(parent, key="k")
    assert again.status_code == 201, again.text
    assert len(apart.head(parent.task)["children"]) == 1
    body = again.json()
    child = Agent(
        client=await apart.partner.host("partner"), task=body["task"]["id"], token=body["token"], document=body
    )
    assert (await child.chat()).status_code == 200
    await rest(apart, parent, child)
    assert apart.spent(parent.task) == apart.spent(child.task) > 0


@pytest.mark.parametrize("store", ["home", "partner"])
@pytest.mark.parametrize("writes", WRITES)
async def test_a_birth_that_nobody_repeats_is_undone(apart: Neighbours, store: str, writes: int) -> None:
    parent = await apart.home.agent()
    await die(apart, store, writes, apart.hand(parent, key="k"))
    await rest(apart, parent)
    assert apart.spent(parent.task) == 0


async def die(both: Neighbours, store: str, writes: int, what: Any) -> None:
    """Let a domain's only host die after so many writes: whoever asked it meets a broken connection."""
    state = both.states[store]
    state.crash_after(writes)
    try:
        await what
    except Crash:
        pass
    finally:
        state.crash_after(10**9)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_an_answer_that_is_lost_begins_no_second_child(both: Neighbours, lost: int) -> None:
    parent = await both.home.agent()
    both.wires[PARTNER].lose_answers = lost
    for _ in range(lost):
        assert (await both.hand(parent, key="k")).json()["code"] == "peer_unavailable"
        both.advance(11)
    child = await both.child(parent, key="k")
    assert [name for name in both.states["partner"].dump() if name.startswith("t_")] == [child.task]
    await rest(both, parent, child)


async def test_a_child_that_lives_on_one_allocation_gives_the_other_back(both: Neighbours) -> None:
    """A write that came late took the money twice: the peer signs which one it does not live on."""
    parent = await both.home.agent()
    child = await both.child(parent)
    state = both.states["home"]
    head = state.dump()[parent.task]["head"]
    (entry,) = head["children"].values()
    twice = {"0": entry, "9": {**entry, "attempt": "77" * 8}}
    available = {
        **head["available"],
        **{name: head["available"][name] - part for name, part in entry["amounts"].items()},
    }
    state._items[parent.task]["head"] = {**head, "children": twice, "available": available}
    both.advance(121)
    await both.tick("home", times=1)
    assert [each["attempt"] for each in both.head(parent.task)["children"].values()] == [entry["attempt"]]
    assert both.head(parent.task)["available"]["cost"] == 800_000
    await rest(both, parent, child)


# ── leases and kills ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lease_is_renewed_over_there_while_the_domains_hear_each_other(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    before = both.head(child.task)["expires_at"]
    assert before == both.clock.now() + 300_000
    both.advance(121)
    await both.tick("home", times=1)
    assert both.head(child.task)["expires_at"] == before + 121_000
    both.cut()
    both.advance(301)
    await both.tick()
    refused = await child.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "lease_expired")
    both.cut(cut=False)
    both.advance(121)
    await both.tick("home")
    assert (await child.chat()).status_code == 200


async def test_a_kill_reaches_a_peers_child_before_it_is_answered(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    assert (await child.chat()).status_code == 200
    answer = (await parent.post("kill")).json()
    assert (answer["status"], answer["children"], answer["in_flight"]) == ("killed", [], 0)
    assert both.head(child.task)["status"] == "killed"
    assert both.spent(parent.task) == both.spent(child.task) > 0
    await rest(both, parent, child)


async def test_a_kill_that_reaches_no_peer_says_when_its_child_stops(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    both.cut()
    killed_at = both.clock.now()
    answer = (await parent.post("kill")).json()
    assert (answer["status"], answer["children"]) == ("killed", [child.task])
    assert (await child.chat()).status_code == 200, "not heard of it yet"
    both.advance(121)
    await both.tick()
    both.advance(180)
    assert (await child.chat()).json()["error"]["code"] == "lease_expired"
    assert both.clock.now() <= killed_at + 301_000
    both.cut(cut=False)
    both.advance(70)
    await both.tick("home")
    assert both.head(child.task)["status"] == "killed"
    assert both.head(parent.task)["children"] == {}
    await rest(both, parent, child)


async def test_a_kill_keeps_a_child_from_being_born(both: Neighbours) -> None:
    parent = await both.home.agent()
    house, there = both.houses
    sign = house.peers.sign
    held: list[str] = []

    async def slow(peer: Any, kind: Any, *parts: Any, **claims: Any) -> str:
        token: str = await sign(peer, kind, *parts, **claims)
        if kind.startswith("buspass-grant"):
            held.append(token)
            await parent.post("kill")
        return token

    house.peers.sign = slow
    refused = await both.hand(parent, key="k")
    assert refused.status_code == 403, refused.text
    assert both.head(parent.task)["children"] == {}
    with pytest.raises(Problem):
        await obey(there, held[0])
    await rest(both, parent)


async def test_who_is_below_a_peers_child_stops_with_it(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    tiny = {"tokens": 5_000, "cost": 0.05, "calls": 2}
    path = f"/v1/tasks/{child.task}/tasks"
    beside = await child.client.post(path, json={"budget": tiny, "models": ["plan"]}, headers=child.headers)
    assert beside.status_code == 201, beside.text
    wish = {"peer": "home", "workflow": "back", "budget": tiny}
    answer = await child.client.post(path, json=wish, headers=child.headers)
    below = Agent(client=parent.client, task=answer.json()["task"]["id"], token=answer.json()["token"], document={})
    assert both.head(below.task)["expires_at"] == both.head(child.task)["expires_at"]
    both.advance(121)
    await both.tick("home", "partner", times=1)
    assert both.head(below.task)["expires_at"] <= both.head(child.task)["expires_at"]
    assert (await below.chat()).status_code == 200
    assert (await parent.post("kill")).status_code == 200
    assert both.head(below.task)["status"] == "killed", "through two domains"
    assert both.head(beside.json()["task"]["id"])["status"] == "killed"
    await rest(both, parent, child)


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_end_that_could_not_be_told_is_told_by_a_timer_and_once(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    assert (await child.chat()).status_code == 200
    both.cut()
    assert (await child.post("complete")).status_code == 200
    assert both.head(parent.task)["children"] != {}
    both.advance(100)
    await both.tick("partner")
    both.cut(cut=False)
    both.advance(700)
    both.wires[HOME].paths.clear()
    await both.tick("partner")
    assert both.head(parent.task)["children"] == {}
    for _ in range(5):
        both.advance(700)
        await both.tick("partner")
        await both.operate(both.partner, "GET", f"/v1/tasks/{child.task}")
    assert both.wires[HOME].paths.count("/v1/peers/statements") == 1
    await rest(both, parent, child)


async def test_a_parent_asks_for_what_it_was_not_told(both: Neighbours) -> None:
    """The peer's host died with its child's end on its lips, and its timers stand still."""
    parent = await both.home.agent()
    child = await both.child(parent)
    both.network(both.partner).down.add(HOME)
    assert (await child.post("complete")).status_code == 200
    both.advance(121)
    await both.tick("home", times=1)
    assert both.head(parent.task)["children"] == {}
    await rest(both, parent, child)


@pytest.mark.parametrize("told", [True, False])
async def test_a_call_that_is_settled_late_is_corrected_at_home(both: Neighbours, told: bool) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    _, there = both.houses
    held = await late_call.hold(there, child.task)
    assert (await child.post("complete")).status_code == 200
    assert both.head(parent.task)["children"] != {}, "a call is in flight"
    both.advance(40)
    await both.operate(both.partner, "GET", f"/v1/tasks/{child.task}")
    both.advance(600)
    await both.tick("partner")
    assert both.spent(parent.task) == late_call.HELD
    both.cut(cut=not told)
    await late_call.settle(there, held)
    both.advance(61)
    await both.tick("partner")
    if not told:
        assert both.spent(parent.task) == late_call.HELD
        both.cut(cut=False)
        both.advance(400)
        await both.tick("partner")
    assert both.spent(parent.task) == both.spent(child.task) == late_call.USED
    await rest(both, parent, child)


@pytest.mark.parametrize("store", ["home", "partner"])
@pytest.mark.parametrize("writes", WRITES)
async def test_an_end_that_breaks_off_gives_back_once(apart: Neighbours, store: str, writes: int) -> None:
    parent = await apart.home.agent()
    child = await apart.child(parent)
    assert (await child.chat()).status_code == 200
    spent = apart.spent(child.task)
    await die(apart, store, writes, child.post("complete"))
    await rest(apart, parent, child)
    assert apart.spent(parent.task) == spent


async def test_money_flows_on_to_the_pool_of_a_parent_that_has_ended(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    assert (await parent.post("complete")).status_code == 200
    assert (await child.chat()).status_code == 200, "its parent ended well: it goes on"
    assert both.pool("home")[1] == 1_000_000
    assert (await child.post("complete")).status_code == 200
    assert both.pool("home")[1] == 0
    await rest(both, parent, child)


async def test_a_peer_that_left_the_configuration_keeps_what_it_has(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    for house in both.houses:
        house.peers._peers = {}
        house.peers._issuers = {}
    assert (await child.post("complete")).status_code == 200
    both.advance(121)
    await both.tick()
    assert both.head(parent.task)["children"] != {}
    refused = await both.hand(parent)
    assert refused.json()["code"] == "denied"
