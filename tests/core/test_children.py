"""Child tasks: a part of a task's budget and grant for another agent, and what is left comes back once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from buspass.testing.family import SMALL, Family, used

CONFIG = Path(__file__).parents[1] / "data" / "children" / "buspass.yaml"


@pytest.fixture
async def family(tmp_path: Path, service: Any) -> AsyncIterator[Family]:
    family = Family.over(CONFIG, tmp_path, service)
    async with family.domain:
        yield family


async def test_a_child_has_a_part_of_its_parents_budget_and_calls_by_its_own_token(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    assert child.document["budget"]["limits"] == {**SMALL, "wall": pytest.approx(600, abs=1), "depth": 1}
    assert child.document["parent"] == parent.task
    assert (await child.chat()).status_code == 200
    assert (await child.call("item", {"id": "1"})).status_code == 200
    found = (await parent.get()).json()
    assert found["children"] == [child.task]
    assert found["budget"]["allocated"] == {**SMALL, "model_calls": 0, "tool_calls": 0}
    assert found["budget"]["available"] == {"tokens": 80_000, "cost": 0.8, "calls": 95}
    family.conserved()


async def test_what_a_child_has_not_spent_comes_back_when_it_has_ended(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    assert (await child.chat()).status_code == 200
    spent = used((await child.get()).json())
    assert spent["cost"] > 0
    assert (await child.post("complete")).status_code == 200
    found = (await parent.get()).json()
    assert found["children"] == []
    assert used(found) == spent
    assert found["budget"]["allocated"]["cost"] == 0
    records = (await parent.get("/trace")).json()["records"]
    (row,) = [each for each in records if each["kind"] == "child"]
    assert (row["id"], row["name"], row["status"], row["cost"]) == (child.task, "work", "completed", spent["cost"])
    await family.sound(parent.task, child.task)
    family.conserved()


async def test_a_parent_that_has_ended_passes_on_to_its_pool_what_its_child_gives_back(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    assert (await parent.post("complete")).status_code == 200
    assert family.pool()["allocated"]["cost"] == 1_000_000, "its child still has some"
    assert (await child.chat()).status_code == 200, "a child outlives a parent that completed"
    spent = family.spent(child.task)
    assert (await child.post("complete")).status_code == 200
    assert family.pool()["allocated"]["cost"] == 0
    assert family.pool()["available"]["cost"] == 5_000_000 - spent
    await family.sound(parent.task, child.task)


async def test_children_of_children_to_the_depth_of_the_budget(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    grandchild = await family.child(child, budget={"tokens": 10_000, "cost": 0.1, "calls": 2})
    assert grandchild.document["budget"]["limits"]["depth"] == 0
    refused = (await family.delegate(grandchild, budget={"tokens": 1, "cost": 0, "calls": 0})).json()
    assert (refused["code"], refused["limit"], refused["left"]) == ("budget_exhausted", "depth", 0)
    assert (await grandchild.chat()).status_code == 200
    for agent in (child, grandchild):  # the child ends first: it can't give back before its own child does
        assert (await agent.post("complete")).status_code == 200
    assert used((await parent.get()).json()) == used(await family.task(grandchild.task))
    assert family.head(parent.task)["children"] == {}
    await family.sound(parent.task, child.task, grandchild.task)


async def test_a_kill_kills_all_below(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    grandchild = await family.child(child, budget={"tokens": 10_000, "cost": 0.1, "calls": 2})
    answer = await parent.post("kill", reason="enough")
    assert answer.json()["in_flight"] == 0
    assert answer.json()["children"] == []
    for agent in (child, grandchild):
        assert (await agent.chat()).json()["error"]["code"] == "task_killed"
        assert (await family.task(agent.task))["status"] == "killed"
    assert family.pool()["available"]["cost"] == 5_000_000
    await family.sound(parent.task, child.task, grandchild.task)


async def test_suspending_a_parent_leaves_its_children_at_work(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    assert (await parent.post("suspend")).status_code == 200
    assert (await child.chat()).status_code == 200
    assert (await family.delegate(parent)).json()["code"] == "task_not_open"
    assert (await child.post("suspend")).status_code == 200
    assert family.head(parent.task)["children"] != {}


async def test_a_child_is_over_when_its_parents_time_is(family: Family) -> None:
    parent = await family.domain.agent()
    family.advance(400)
    child = await family.child(parent)
    assert child.document["budget"]["limits"]["wall"] == pytest.approx(200)
    assert child.document["expires_at"] == parent.document["expires_at"]
    family.advance(201)
    assert (await child.chat()).json()["error"]["code"] == "task_expired"
    await family.task(parent.task)
    family.advance(20)
    await family.task(parent.task)
    assert family.head(child.task)["status"] == "expired"
    assert family.pool()["available"]["cost"] == 5_000_000


async def test_a_grant_only_narrows(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent, models=["draft"], tools=["item"])
    assert child.document["grant"] == {"models": ["draft"], "tools": ["item"]}
    assert (await child.chat()).json()["error"]["code"] == "model_not_granted"
    assert (await child.call("check", {"order": "1"})).json()["code"] == "tool_not_granted"
    wider = await family.delegate(child, models=["plan"])
    assert wider.json()["errors"][0]["allowed"] == ["draft"]
    review = await family.child(parent, workflow="review")
    assert review.document["grant"] == {"models": ["plan"], "tools": ["item"]}


async def test_a_tool_with_max_calls_is_handed_on_by_name_alone_and_its_calls_leave_the_parent(
    family: Family, service: Any
) -> None:
    parent = await family.domain.agent()
    assert (await family.child(parent)).document["grant"]["tools"] == ["item", "check"]
    child = await family.child(parent, workflow="paying", tools=["pay"])
    assert family.head(parent.task)["left"] == {"pay": 1}
    assert (await child.call("pay", {"order": "1", "amount": 1})).status_code == 200
    assert (await child.call("pay", {"order": "1", "amount": 2})).json()["code"] == "call_limit"
    assert (await parent.call("pay", {"order": "2", "amount": 1})).status_code == 200
    assert (await parent.call("pay", {"order": "3", "amount": 1})).json()["code"] == "call_limit"
    assert (await family.delegate(parent, workflow="paying", tools=["pay"])).json()["code"] == "call_limit"
    assert len(service.got("/pay")) == 2


async def test_calls_of_a_tool_that_a_child_has_not_made_come_back(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent, tools=["pay"])
    assert family.head(parent.task)["left"] == {"pay": 0}
    assert (await child.call("pay", {"order": "1", "amount": 1})).status_code == 200
    assert (await child.post("complete")).status_code == 200
    assert family.head(parent.task)["left"] == {"pay": 1}


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"peer": "partner"}, "invalid_request", "peer names another trust domain that buspass.yaml has"),
        ({"pool": "x"}, "unsupported", "field 'pool'"),
        ({"workflow": "nope"}, "not_found", "no workflow 'nope'"),
        ({"workflow": "others"}, "denied", "may not start 'others'"),
        ({"workflow": "personal"}, "denied", "acts for customer, and the parent for none of these"),
        ({"workflow": "unbound", "tools": ["pay"], "budget": {"tokens": 1, "calls": 1}}, "unsupported", "max_calls"),
        ({"workflow": "unbound", "budget": {}}, "invalid_request", "budget must name tokens, calls"),
        ({"host": "gcp"}, "invalid_request", "host names a host of this trust domain"),
        ({"tools": ["other"]}, "invalid_request", "tools is a list of names"),
        ({"budget": {"cost": 0.9, "tokens": 1, "calls": 1}}, "budget_exhausted", "the child needs cost 0.9"),
        ({"budget": {}}, "budget_exhausted", "ask for less: budget: {"),
        ({"budget": {"cost": 2.0}}, "invalid_request", "may only narrow"),
        ({"metadata": {"a": []}}, "invalid_request", "metadata.a"),
    ],
)
async def test_what_a_child_can_not_be(family: Family, body: dict[str, Any], code: str, says: str) -> None:
    parent = await family.domain.agent()
    assert (await parent.chat()).status_code == 200
    if code == "budget_exhausted" and body["budget"]:
        assert (await family.child(parent)).task
        assert (await parent.post("kill")).status_code == 200
        parent = await family.domain.agent(budget={"cost": 0.5})
        body = {"budget": {**body["budget"]}}
    refused = (await family.delegate(parent, **body)).json()
    assert refused["code"] == code, refused
    assert says in refused["detail"]
    family.conserved()


async def test_what_other_children_have_may_come_back(family: Family) -> None:
    parent = await family.domain.agent()
    most = {"tokens": 90_000, "cost": 0.9, "calls": 90}
    await family.child(parent, budget=most)
    refused = (await family.delegate(parent, budget=most)).json()
    assert (refused["code"], refused["limit"]) == ("budget_held", "tokens")


async def test_a_call_waits_for_what_its_children_may_give_back_and_is_not_told_that_all_is_gone(
    family: Family,
) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent, budget={"tokens": 100_000, "cost": 1.0, "calls": 100})
    assert (await parent.chat()).json()["error"]["code"] == "budget_held"
    assert (await child.post("complete")).status_code == 200
    assert (await parent.chat()).status_code == 200


async def test_sixteen_children_at_once(family: Family) -> None:
    parent = await family.domain.agent()
    one = {"tokens": 10, "cost": 0.001, "calls": 1}
    found = await asyncio.gather(
        *(family.delegate(parent, via=host, budget=one) for _ in range(10) for host in ("onprem", "aws"))
    )
    codes = sorted(answer.status_code for answer in found)
    assert codes == [201] * 16 + [429] * 4
    assert len(family.head(parent.task)["children"]) == 16
    family.conserved()


async def test_parallel_children_never_get_more_than_there_is(family: Family) -> None:
    parent = await family.domain.agent()
    third = {"tokens": 30_000, "cost": 0.3, "calls": 30}
    found = await asyncio.gather(
        *(family.delegate(parent, via=host, budget=third) for _ in range(6) for host in ("onprem", "aws"))
    )
    assert sum(answer.status_code == 201 for answer in found) == 3
    family.conserved()


async def test_a_repeated_key_gives_the_same_child_paid_once(family: Family) -> None:
    parent = await family.domain.agent()
    found = await asyncio.gather(*(family.delegate(parent, key="k", via=host) for host in ("onprem", "aws", "onprem")))
    assert {answer.status_code for answer in found} == {201}
    (task,) = {answer.json()["task"]["id"] for answer in found}
    assert [entry["task"] for entry in family.head(parent.task)["children"].values()] == [task]
    assert (await family.delegate(parent, key="k", models=["draft"])).json()["code"] == "idempotency_mismatch"


async def test_a_key_that_began_a_child_in_one_store_begins_no_twin_of_it_in_another(family: Family) -> None:
    """Both would live on the one entry of their parent: twice the money."""
    parent = await family.domain.agent()
    first = await family.child(parent, key="k", host="azure")
    elsewhere = await family.delegate(parent, key="k")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (422, "idempotency_mismatch")
    family.conserved()
    assert (await first.chat()).status_code == 200
    await first.post("complete")
    later = await family.delegate(parent, key="k")  # nobody remembers the key any more: another child, paid for
    assert later.status_code == 201
    assert later.json()["task"]["id"] != first.task
    family.conserved()


async def test_only_the_tasks_own_agent_hands_parts_of_it_on(family: Family) -> None:
    parent = await family.domain.agent()
    client = await family.domain.host()
    key = family.domain.apps["onprem"].house.operator_key
    workload = await family.domain.apps["onprem"].mint_workload("me")
    for token in (key, workload):
        answer = await client.post(
            f"/v1/tasks/{parent.task}/tasks", json={}, headers={"authorization": f"Bearer {token}"}
        )
        assert answer.json()["code"] == "denied"
    other = await family.domain.agent()
    other.task = parent.task
    assert (await family.delegate(other)).json()["code"] == "not_found"


async def test_a_child_at_a_host_that_shares_the_store_calls_there(family: Family) -> None:
    parent = await family.domain.agent()
    await family.domain.host("aws")
    child = await family.child(parent, host="aws")
    assert child.document["host"] == "aws"
    assert (await child.chat()).status_code == 200
    assert "lease" not in family.head(child.task)


async def test_money_that_a_late_settle_gives_back_reaches_the_parent_of_a_child_that_has_ended(
    family: Family, service: Any
) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    house = family.domain.apps["onprem"].house

    async def slow(_body: Any) -> None:
        family.advance(700)  # beyond every deadline
        await house.ledger.sweep(child.task)
        await family.task(child.task)

    service.hooks["/checks"] = slow
    assert (await child.call("check", {"order": "1"})).status_code == 200
    await family.task(child.task)
    assert family.head(parent.task)["children"] == {}
    assert used(await family.task(parent.task)) == used(await family.task(child.task))
    await family.sound(parent.task, child.task)
    assert family.pool()["available"]["cost"] == 5_000_000
