"""Policy beside the file's own rules: it denies, it narrows, and where it fails nobody passes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from buspass.policy.decide import Decision
from buspass.terms import narrowed, terms_of
from buspass.testing.house import Domain


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


async def start(domain: Domain, workflow: str, **body: Any) -> httpx.Response:
    client = await domain.host()
    token = await domain.apps["onprem"].mint_workload("me")
    headers = {"authorization": f"Bearer {token}"}
    return await client.post("/v1/tasks", json={"workflow": workflow, **body}, headers=headers)


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("pay", {"order": "1", "amount": 101}, "amount_too_high"),
        ("item", {"id": "secret"}, "item_is_secret"),
        ("pay", {"order": "1", "amount": 100}, None),
        ("item", {"id": "plain"}, None),
    ],
)
async def test_a_rule_about_arguments_denies_with_its_reason(
    domain: Domain, service: Any, tool: str, arguments: dict[str, Any], reason: str | None
) -> None:
    agent = await domain.agent(workflow="guarded")
    answer = await agent.call(tool, arguments)
    if reason is None:
        assert answer.status_code == 200, answer.text
        return
    assert (answer.status_code, code(answer)) == (403, "denied")
    assert answer.json()["reasons"] == [reason]
    assert not service.requests
    assert (await agent.get()).json()["budget"]["spent"]["calls"] == 0


async def test_obligations_narrow_the_targets_and_the_output(domain: Domain, upstream: Any) -> None:
    agent = await domain.agent(workflow="guarded")
    answer = await agent.chat(model="backed")
    assert answer.headers["buspass-target"] == "first/planner-1", "the permitted one, not the first"
    assert domain.provider.requests[0].body["max_completion_tokens"] == 50
    assert not upstream.requests
    answer = await agent.chat(model="backed", max_completion_tokens=7)
    assert domain.provider.requests[1].body["max_completion_tokens"] == 7, "they only narrow"


async def test_the_hold_is_the_narrowed_one(domain: Domain) -> None:
    bound = len("rolecontentuserhello") + 256 + 16 + 50
    agent = await domain.agent(workflow="guarded", budget={"tokens": bound})
    assert (await agent.chat(model="backed")).status_code == 200


async def test_targets_that_leave_none_are_a_denial(policed: Domain) -> None:
    agent = await policed.agent(workflow="nowhere")
    answer = await agent.chat()
    assert (answer.status_code, code(answer)) == (403, "denied")
    assert not policed.outbound.exchanges


async def test_a_module_that_gives_nonsense_lets_nobody_pass(policed: Domain) -> None:
    agent = await policed.agent(workflow="broken")
    for answer in (await agent.chat(), await agent.call("item", {"id": "1"})):
        assert (answer.status_code, code(answer)) == (503, "policy_unavailable")
        assert "retry-after" in answer.headers
    assert not policed.outbound.exchanges
    assert set((await agent.get()).json()["budget"]["spent"].values()) == {0}


@pytest.mark.parametrize(("workflow", "digest", "text"), [("quiet", False, False), ("masked", True, True)])
async def test_policy_may_lower_what_is_logged(policed: Domain, workflow: str, digest: bool, text: bool) -> None:
    agent = await policed.agent(workflow=workflow)
    await agent.chat("my thought", headers={"buspass-log": "full"})
    (record,) = (row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "inference")
    assert ("digests" in record, "thought" in record) == (digest, text)


async def test_a_rule_that_reads_the_history_counts_calls_over_two_hosts_at_once(policed: Domain, service: Any) -> None:
    for _ in range(10):
        agent = await policed.agent(workflow="once")
        there = await policed.at("aws", agent)
        service.bodies.clear()
        answers = await asyncio.gather(*(who.call("item", {"id": "1"}) for who in [agent, there] * 5))
        assert sum(answer.status_code == 200 for answer in answers) == 2
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {tuple(answer.json()["reasons"]) for answer in refused} == {("item_was_asked_twice",)}
        assert len(service.bodies) == 2


async def test_a_start_may_be_denied(policed: Domain) -> None:
    closed, red, blue = (
        await start(policed, "closed"),
        await start(policed, "once", metadata={"team": "red"}),
        await start(policed, "once", metadata={"team": "blue"}),
    )
    assert (closed.status_code, closed.json()["reasons"]) == (403, ["closed_today"])
    assert red.json()["reasons"] == ["wrong_team"]
    assert blue.status_code == 201


async def test_the_grant_of_policy_narrows_models_tools_budget_and_life(policed: Domain) -> None:
    task = (await start(policed, "narrowed")).json()
    assert task["task"]["grant"] == {"models": ["cheap"], "tools": ["item"]}
    limits = task["task"]["budget"]["limits"]
    assert (limits["cost"], limits["calls"], limits["wall"]) == (0.5, 3, 60)
    assert task["expires_in"] == 60


async def test_the_grant_of_policy_widens_nothing(policed: Domain) -> None:
    limits = (await start(policed, "narrowed", budget={"cost": 0.1, "calls": 2, "wall": 30})).json()
    found = limits["task"]["budget"]["limits"]
    assert (found["cost"], found["calls"], found["wall"]) == (0.1, 2, 30)


async def test_a_tool_outside_the_grant_is_refused_and_not_offered(policed: Domain) -> None:
    agent = await policed.agent(workflow="narrowed")
    assert code(await agent.call("check", {"order": "1"})) == "tool_not_granted"
    listed = (await agent.client.get("/v1/tools", headers=agent.headers)).json()["data"]
    assert [row["function"]["name"] for row in listed] == ["item"]


@pytest.mark.parametrize("reason", ["no_second_worker", None])
async def test_a_resume_is_asked_for_too(policed: Domain, reason: str | None) -> None:
    agent = await policed.agent(workflow="once", metadata={"once": reason is not None})
    token = await policed.apps["onprem"].mint_workload("me")
    answer = await agent.client.post(f"/v1/tasks/{agent.task}/resume", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == (200 if reason is None else 403)
    assert answer.json().get("reasons") == (None if reason is None else [reason])
    assert (await agent.get()).status_code == (409 if reason is None else 200), "a denial moves no fence"


async def test_a_grant_at_resume_is_not_ignored(policed: Domain) -> None:
    agent = await policed.agent(workflow="bare")
    token = await policed.apps["onprem"].mint_workload("me")
    answer = await agent.client.post(f"/v1/tasks/{agent.task}/resume", headers={"authorization": f"Bearer {token}"})
    assert (answer.status_code, code(answer)) == (503, "policy_unavailable")


@pytest.mark.parametrize(
    "grant",
    [
        "all",
        {"models": "plan"},
        {"tools": 7},
        {"budget": "none"},
        {"budget": {"depth": 1}},
        {"lifetime": "1h"},
        {"x": 1},
    ],
)
async def test_a_grant_that_cant_be_understood_starts_nothing(policed: Domain, grant: Any) -> None:

    answer = await start(policed, "garbled", metadata={"grant": str(grant)})
    assert (answer.status_code, code(answer)) == (503, "policy_unavailable")
    if isinstance(grant, dict):
        workflow = policed.apps["onprem"].house.settings.workflows["garbled"]
        with pytest.raises(Exception, match="policy_unavailable"):
            narrowed(terms_of(workflow, {}), Decision(grant=grant))
