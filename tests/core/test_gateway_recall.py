"""Recall: a repeated call meets its receipt, over every host of the domain, and a model's tool call is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.provider import Fault

KEY = {"idempotency-key": "once"}
FUNCTIONS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("item", "check")
]


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


async def calls(agent: Agent) -> int:
    return int((await agent.get()).json()["budget"]["spent"]["calls"])


class Gate:
    """Holds every request that comes until it is opened."""

    def __init__(self) -> None:
        self.opened, self.waiting = asyncio.Event(), asyncio.Event()

    async def __call__(self, body: Any) -> Response | None:
        self.waiting.set()
        await self.opened.wait()
        return None


def mind(domain: Domain, *wanted: tuple[str, Mapping[str, Any]]) -> None:
    """Let the model ask for these tool calls from now on."""
    offers = [{"name": name, "arguments": dict(arguments)} for name, arguments in wanted]
    domain.provider.mind = lambda request: {"content": "I think so", "tool_calls": offers}


async def think(agent: Agent) -> list[str]:
    """Ask the model; give the ids of the tool calls that it wants."""
    answer = await agent.chat(tools=FUNCTIONS)
    assert answer.status_code == 200, answer.text
    return [call["id"] for call in answer.json()["choices"][0]["message"]["tool_calls"]]


# ── Idempotency-Key ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_failure_that_is_told_again_can_no_longer_be_mended_by_a_retry(domain: Domain, upstream: Any) -> None:
    upstream.script.append(JSONResponse({}, 429))
    domain.provider.faults.append(Fault(kind="rate_limited"))
    agent = await domain.agent()
    first = await agent.chat("a", model="backed", headers=KEY)
    assert (code(first), first.json()["error"]["retryable"]) == ("no_target_available", True)
    assert "retry-after" in first.headers
    again = await agent.chat("a", model="backed", headers=KEY)
    assert (again.status_code, code(again)) == (503, "no_target_available")
    assert again.headers["buspass-replayed"] == "true"
    assert again.json()["error"]["retryable"] is False
    assert again.headers["x-should-retry"] == "false"
    assert "retry-after" not in again.headers


async def test_the_same_key_and_body_bring_the_same_answer_at_no_cost_on_every_host(domain: Domain) -> None:
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    first = await agent.chat("a", headers=KEY)
    spent = (await agent.get()).json()["budget"]["spent"]
    for who in (agent, there):
        again = await who.chat("a", headers=KEY)
        assert again.status_code == 200
        assert again.json() == first.json()
        assert again.headers["buspass-replayed"] == "true"
        assert again.headers["buspass-call"] == first.headers["buspass-call"]
    assert "buspass-replayed" not in first.headers
    assert (await agent.get()).json()["budget"]["spent"] == spent
    assert len(domain.provider.requests) == 1


async def test_a_key_used_with_another_request_is_a_mismatch(domain: Domain, service: Any) -> None:
    agent = await domain.agent()
    await agent.chat("a", headers=KEY)
    answer = await agent.chat("b", headers=KEY)
    assert (answer.status_code, code(answer)) == (422, "idempotency_mismatch")
    await agent.call("check", {"order": "1"}, headers=KEY)
    assert code(await agent.call("check", {"order": "2"}, headers=KEY)) == "idempotency_mismatch"
    assert len(service.got("/checks")) == 1


async def test_one_key_may_serve_a_model_and_a_tool_and_two_tasks(domain: Domain) -> None:
    one, other = await domain.agent(), await domain.agent()
    for agent in (one, other):
        assert (await agent.chat("a", headers=KEY)).status_code == 200
        assert (await agent.call("check", {"order": "1"}, headers=KEY)).status_code == 200
    assert len(domain.provider.requests) == 2


@pytest.mark.parametrize("host", ["onprem", "aws"])
async def test_the_twin_of_a_call_in_flight_is_told_to_come_back(domain: Domain, service: Any, host: str) -> None:
    service.hooks["/checks"] = gate = Gate()
    agent = await domain.agent()
    there = await domain.at(host, agent)
    first = asyncio.create_task(agent.call("check", {"order": "1"}, headers=KEY))
    await gate.waiting.wait()
    twin = await there.call("check", {"order": "1"}, headers=KEY)
    assert (twin.status_code, code(twin)) == (409, "conflict")
    assert int(twin.headers["retry-after"]) >= 1
    gate.opened.set()
    done = await first
    again = await there.call("check", {"order": "1"}, headers=KEY)
    assert again.json() == done.json()
    assert len(service.got("/checks")) == 1


async def test_a_repeated_payment_meets_its_twin_or_its_receipt_and_not_its_max_calls(
    domain: Domain, service: Any
) -> None:
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    assert (await there.call("check", {"order": "1"})).status_code == 200
    service.hooks["/pay"] = gate = Gate()
    pay = {"order": "1", "amount": 5}
    first = asyncio.create_task(agent.call("pay", pay, headers=KEY))
    await gate.waiting.wait()
    twin = await agent.call("pay", pay, headers=KEY)
    assert (twin.status_code, code(twin)) == (409, "conflict"), "its only call is taken by itself"
    gate.opened.set()
    receipt = await first
    assert receipt.status_code == 200, receipt.text
    assert (await agent.call("pay", pay, headers=KEY)).json() == receipt.json()
    assert code(await agent.call("pay", pay)) == "call_limit"
    assert service.got("/pay") == [pay]


async def test_a_twin_that_lost_the_race_for_the_last_money_meets_the_other(domain: Domain, service: Any) -> None:
    service.hooks["/checks"] = gate = Gate()
    agent = await domain.agent(workflow="many", budget={"tool_calls": 1})
    first = asyncio.create_task(agent.call("check", {"order": "1"}, headers=KEY))
    await gate.waiting.wait()
    assert code(await agent.call("check", {"order": "1"}, headers=KEY)) == "conflict"
    gate.opened.set()
    assert (await first).status_code == 200
    assert (await agent.call("check", {"order": "1"}, headers=KEY)).status_code == 200


async def test_a_refused_first_call_may_be_made_again_with_its_key(domain: Domain) -> None:
    agent = await domain.agent()
    pay = {"order": "1", "amount": 1}
    assert code(await agent.call("pay", pay, headers=KEY)) == "prerequisite_missing"
    await agent.call("check", {"order": "1"})
    assert (await agent.call("pay", pay, headers=KEY)).status_code == 200


async def test_a_failed_first_call_brings_its_problem_again(domain: Domain, service: Any) -> None:
    service.answers["/checks"] = JSONResponse({}, 503)
    agent = await domain.agent()
    first = await agent.call("check", {"order": "1"}, headers=KEY)
    assert code(first) == "upstream_error"
    service.answers.clear()
    again = await agent.call("check", {"order": "1"}, headers=KEY)
    assert (again.status_code, again.json()["detail"]) == (first.status_code, first.json()["detail"])
    assert again.json()["upstream"] == first.json()["upstream"]
    assert again.headers["buspass-replayed"] == "true"
    assert again.headers["x-should-retry"] == "false"
    assert len(service.got("/checks")) == 1
    assert (await agent.call("check", {"order": "1"}, headers={"idempotency-key": "new"})).status_code == 200


async def test_parallel_twins_over_two_hosts_are_one_call(domain: Domain, service: Any) -> None:
    async def takes_its_time(body: Any) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    service.hooks["/checks"] = takes_its_time
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    for number in range(20):
        key = {"idempotency-key": f"k{number}"}
        answers = await asyncio.gather(
            *(who.call("check", {"order": str(number)}, headers=key) for who in [agent, there] * 4)
        )
        assert {code(answer) for answer in answers if answer.status_code != 200} <= {"conflict"}
        assert any(answer.status_code == 200 for answer in answers)
        assert len(service.got("/checks")) == number + 1
    assert await calls(agent) == 20


async def test_a_killed_task_and_an_old_fence_are_refused_before_any_receipt(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat("a", headers=KEY)
    token = await domain.apps["onprem"].mint_workload("me")
    resumed = await agent.client.post(f"/v1/tasks/{agent.task}/resume", headers={"authorization": f"Bearer {token}"})
    assert resumed.status_code == 200, resumed.text
    assert code(await agent.chat("a", headers=KEY)) == "fenced"
    new = Agent(client=agent.client, task=agent.task, token=resumed.json()["token"], document={})
    assert (await new.chat("a", headers=KEY)).headers["buspass-replayed"] == "true"
    await new.post("kill", reason="enough")
    assert code(await new.chat("a", headers=KEY)) == "task_killed"
    assert code(await (await domain.at("aws", new)).chat("a", headers=KEY)) == "task_killed"


async def test_an_expired_task_is_refused_before_any_receipt(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(budget={"wall": 60})
    await agent.chat("a", headers=KEY)
    clock.advance(61)
    assert code(await agent.chat("a", headers=KEY)) == "task_expired"


@pytest.mark.parametrize("verb", ["complete", "suspend"])
async def test_a_parked_or_completed_task_still_gives_receipts(domain: Domain, verb: str) -> None:
    agent = await domain.agent()
    first = await agent.chat("a", headers=KEY)
    await agent.post(verb)
    assert (await agent.chat("a", headers=KEY)).json() == first.json()
    assert code(await agent.chat("b", headers={"idempotency-key": "new"})) == "task_not_open"


async def test_a_call_whose_host_died_is_swept_and_its_key_says_so(domain: Domain, service: Any) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    service.hooks["/checks"] = gate = Gate()
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    dead = asyncio.create_task(agent.call("check", {"order": "1"}, headers=KEY))
    await gate.waiting.wait()
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)
    assert code(await there.call("check", {"order": "1"}, headers=KEY)) == "conflict"
    clock.advance(21)
    answer = await there.call("check", {"order": "1"}, headers=KEY)
    assert (answer.status_code, code(answer)) == (504, "upstream_timeout")
    assert await calls(agent) == 1, "charged in full: it may have been done"
    assert (await agent.get("/trace/verify")).json()["ok"]


# ── licences ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_action_is_linked_to_the_thought_that_asked_for_it(domain: Domain) -> None:
    mind(domain, ("item", {"id": "7"}))
    agent = await domain.agent(workflow="thoughtful")
    (offer,) = await think(agent)
    answer = await agent.call("item", {"id": "7"}, tool_call_id=offer)
    assert answer.status_code == 200, answer.text
    trace = (await agent.get("/trace")).json()["records"]
    thought = next(row for row in trace if row["kind"] == "inference")
    action = next(row for row in trace if row["kind"] == "action")
    assert action["cause"] == thought["id"]
    assert action["tool_call_id"] == offer


async def test_a_licence_is_found_by_what_is_done_where_no_id_is_sent(domain: Domain, service: Any) -> None:
    mind(domain, ("item", {"id": "7"}), ("item", {"id": "7"}))
    agent = await domain.agent(workflow="thoughtful")
    await think(agent)
    answers = [await agent.call("item", {"id": "7"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403], "two licences, two actions"
    assert code(answers[2]) == "thought_required"
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("tool", "arguments", "problem"),
    [
        ("item", {"id": "8"}, "idempotency_mismatch"),
        ("check", {"order": "7"}, "idempotency_mismatch"),
    ],
)
async def test_a_licence_is_for_one_tool_and_its_very_arguments(
    domain: Domain, tool: str, arguments: dict[str, str], problem: str
) -> None:
    mind(domain, ("item", {"id": "7"}))
    agent = await domain.agent(workflow="thoughtful")
    (offer,) = await think(agent)
    assert code(await agent.call(tool, arguments, tool_call_id=offer)) == problem
    assert (await agent.call("item", {"id": "7"}, tool_call_id=offer)).status_code == 200, "it is not used up"


async def test_the_second_use_of_a_licence_brings_the_first_ones_receipt_on_every_host(
    domain: Domain, service: Any
) -> None:
    mind(domain, ("item", {"id": "7"}))
    agent = await domain.agent(workflow="thoughtful")
    (offer,) = await think(agent)
    first = await agent.call("item", {"id": "7"}, tool_call_id=offer)
    again = await (await domain.at("aws", agent)).call("item", {"id": "7"}, tool_call_id=offer)
    assert again.json() == first.json()
    assert again.headers["buspass-replayed"] == "true"
    assert len(service.requests) == 1
    assert await calls(agent) == 2


@pytest.mark.parametrize("extra", [{}, {"tool_call_id": "call_made_up"}])
async def test_an_action_without_a_thought_is_refused_where_one_is_required(
    domain: Domain, service: Any, extra: dict[str, str]
) -> None:
    agent = await domain.agent(workflow="thoughtful")
    answer = await agent.call("item", {"id": "7"}, **extra)
    assert (answer.status_code, code(answer)) == (403, "thought_required")
    await agent.post("thoughts", text="I want item 7")
    assert code(await agent.call("item", {"id": "7"}, **extra)) == "thought_required", "its own words license nothing"
    assert not service.requests


async def test_another_tasks_thought_licenses_nothing(domain: Domain) -> None:
    mind(domain, ("item", {"id": "7"}))
    thinker, doer = await domain.agent(workflow="thoughtful"), await domain.agent(workflow="thoughtful")
    (offer,) = await think(thinker)
    assert code(await doer.call("item", {"id": "7"}, tool_call_id=offer)) == "thought_required"


async def test_arguments_that_are_no_object_license_nothing(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd(body: Any) -> JSONResponse:
        names = [("a", "item", '["7"]'), ("b", "item", "{broken"), ("c", "item", '{"id": "7"}')]
        offers = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in names
        ]
        message = {"role": "assistant", "content": None, "tool_calls": offers}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return JSONResponse({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]})

    monkeypatch.setattr(domain.provider, "_answer", odd)
    agent = await domain.agent(workflow="thoughtful")
    assert await think(agent) == ["a", "b", "c"]
    for offer in "ab":
        assert code(await agent.call("item", {"id": "7"}, tool_call_id=offer)) == "idempotency_mismatch"
    assert (await agent.call("item", {"id": "7"}, tool_call_id="c")).status_code == 200


async def test_a_dead_task_is_told_so_before_it_is_asked_for_a_thought(domain: Domain) -> None:
    agent = await domain.agent(workflow="thoughtful")
    await agent.post("kill")
    assert code(await agent.call("item", {"id": "7"})) == "task_killed"


async def test_a_journal_out_of_reach_is_the_stores_problem(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await domain.agent(workflow="thoughtful")
    await agent.chat()
    domain.state.inner.down = True  # type: ignore[attr-defined]  # it is a MemoryState
    for answer in (
        await agent.call("item", {"id": "7"}),
        await agent.chat(headers=KEY),
        await agent.get("/trace"),
        await agent.get(),
    ):
        assert (answer.status_code, code(answer)) == (503, "state_unavailable"), answer.text
        assert "retry-after" in answer.headers
