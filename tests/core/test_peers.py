"""A child in another trust domain: money goes there by a signed grant and comes back by a signed statement, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from buspass.testing.house import Agent
from buspass.testing.neighbours import SMALL, Neighbours

CONFIGS = Path(__file__).parents[1] / "data" / "peers"


@pytest.fixture
async def both(tmp_path: Path, service: Any) -> AsyncIterator[Neighbours]:
    async with Neighbours(CONFIGS, tmp_path, service) as both:
        yield both


async def rest(both: Neighbours, parent: Agent, *children: Agent) -> None:
    """Let hours go by with the timers at work: everything must have come back but what was spent, and nothing more."""
    both.cut(cut=False)
    for _ in range(8):
        both.advance(400)
        await both.tick(times=1)
    head = both.head(parent.task)
    assert (head["children"], head["open"]) == ({}, {})
    spent = both.spent(parent.task)
    assert both.pool("home") == (5_000_000 - spent, 0)
    assert both.pool("partner") == (2_000_000 - sum(both.spent(child.task) for child in children), 0)
    await both.sound(both.home, parent.task)
    for child in children:
        await both.sound(both.partner, child.task)


# ── from the grant to the statement ─────────────────────────────────────────────────────────────────────────────────


async def test_a_part_of_a_budget_goes_to_the_other_domain_and_comes_back(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent, metadata={"order": "7"})
    assert child.task in both.states["partner"].dump()
    assert child.task not in both.states["home"].dump()
    document = child.document
    assert document["principal"]["identity"] == "home"
    assert document["principal"]["agent"] == "local:me"
    assert document["metadata"] == {"order": "7"}
    assert document["parent"] == parent.task
    assert document["budget"]["limits"]["cost"] == 0.2
    assert document["budget"]["limits"]["depth"] == 1
    assert both.head(parent.task)["available"]["cost"] == 800_000
    assert (await child.chat()).status_code == 200
    spent = both.spent(child.task)
    assert spent > 0
    assert (await child.post("complete")).status_code == 200
    head = both.head(parent.task)
    assert head["children"] == {}, "the partner told at once"
    assert head["available"]["cost"] == 1_000_000 - spent
    record = both.items(parent.task)[f"rec:{child.task}"]
    assert (record["name"], record["peer"], record["status"]) == ("partner:supply", "partner", "completed")
    await rest(both, parent, child)


async def test_the_answer_is_that_of_a_start_at_the_partners_address(both: Neighbours) -> None:
    parent = await both.home.agent()
    answer = await both.hand(parent, models=["draft"], tools=[])
    body = answer.json()
    assert answer.status_code == 201
    assert set(body) == {"task", "token", "expires_in", "base_url"}
    assert body["base_url"] == "http://127.0.0.1:8800/v1"
    assert answer.headers["location"] == f"http://127.0.0.1:8800/v1/tasks/{body['task']['id']}"
    assert body["task"]["grant"] == {"models": ["draft"], "tools": []}


async def test_neither_domain_takes_the_others_tokens(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    there = Agent(client=parent.client, task=child.task, token=child.token, document={})
    assert (await there.chat()).status_code == 401
    here = Agent(client=child.client, task=parent.task, token=parent.token, document={})
    assert (await here.chat()).status_code == 401


async def test_the_same_key_gives_the_same_child_and_a_fresh_token(both: Neighbours) -> None:
    parent = await both.home.agent()
    first = await both.child(parent, key="k")
    both.advance(10)
    again = await both.child(parent, key="k")
    assert again.task == first.task
    assert again.token != first.token
    assert len(both.head(parent.task)["children"]) == 1
    other = await both.hand(parent, key="k", budget={**SMALL, "cost": 0.1})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    other = await both.hand(parent, key="k", models=["draft"])
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert both.head(parent.task)["children"] != {}, "the child lives on"
    assert (await first.post("complete")).status_code == 200
    ended = await both.hand(parent, key="k")
    assert (ended.status_code, ended.json()["task"]["status"]) == (201, "completed")
    assert both.head(parent.task)["children"] == {}
    await rest(both, parent, first)


async def test_one_key_begins_children_at_two_peers_on_an_allocation_each(both: Neighbours) -> None:
    """Were their ids the same, the second could be born on what the first one had given back: an overspend."""
    parent = await both.home.agent()
    first = await both.child(parent, key="k")
    other = await both.hand(parent, key="k", peer="nowhere")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert (await first.post("complete")).status_code == 200
    other = await both.hand(parent, key="k", peer="nowhere")
    assert other.json()["code"] == "peer_unavailable"
    (entry,) = both.head(parent.task)["children"].values()
    assert (entry["peer"], entry["task"] != first.task) == ("nowhere", True)
    again = await both.hand(parent, key="k", budget={**SMALL, "cost": 0.1})
    assert (again.status_code, again.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_grandchild_comes_back_home_and_depth_ends_it_there(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    tiny = {"tokens": 5_000, "cost": 0.05, "calls": 2}
    wish = {"peer": "home", "workflow": "back", "budget": tiny}
    answer = await child.client.post(f"/v1/tasks/{child.task}/tasks", json=wish, headers=child.headers)
    assert answer.status_code == 201, answer.text
    started = answer.json()
    below = Agent(client=parent.client, task=started["task"]["id"], token=started["token"], document=started["task"])
    assert below.document["principal"]["agent"] == "home:local:me"
    assert (await below.chat()).status_code == 200
    spent = both.spent(below.task)
    deeper = await below.client.post(
        f"/v1/tasks/{below.task}/tasks", json={"peer": "partner", "budget": tiny}, headers=below.headers
    )
    assert (deeper.status_code, deeper.json()["limit"]) == (402, "depth")
    assert (await below.post("complete")).status_code == 200
    assert (await child.post("complete")).status_code == 200
    assert both.spent(child.task) == both.spent(parent.task) == spent
    await rest(both, parent, child)
