"""The one path, seen from outside: its stations, its headers, and what a call costs to the last micro-dollar."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.errors import Problem
from buspass.testing.house import Agent, Domain
from buspass.testing.provider import Fault

STATIONS = [
    "authenticate",
    "parse",
    "recall",
    "guard",
    "plan",
    "inspect",
    "decide",
    "hold",
    "dispatch",
    "settle",
]
NAMES = {"name": "own_function", "parameters": {"type": "object"}}
OWN = {"type": "function", "function": NAMES}


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


def counted(usage: dict[str, Any] | None, text: str = "ok", **more: Any) -> JSONResponse:
    """An answer of a provider that says this usage."""
    message = {"role": "assistant", "content": text, **more}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    document: dict[str, Any] = {"id": "c-1", "object": "chat.completion", "created": 1, "choices": choices}
    return JSONResponse(document if usage is None else {**document, "usage": usage})


async def budget(agent: Agent) -> dict[str, Any]:
    found: dict[str, Any] = (await agent.get()).json()["budget"]
    return found


async def records(agent: Agent, kind: str) -> list[dict[str, Any]]:
    trace = (await agent.get("/trace")).json()
    return [row for row in trace["records"] if row["kind"] == kind]


async def test_the_stations_come_in_the_order_of_the_one_path(domain: Domain) -> None:
    agent = await domain.agent()
    for answer in (await agent.chat(), await agent.call("item", {"id": "1"})):
        assert answer.status_code == 200, answer.text
        assert re.findall(r"(\w+);dur=[0-9.]+", answer.headers["server-timing"]) == STATIONS


async def test_an_answer_says_task_call_target_attempts_cost_and_what_is_left(domain: Domain) -> None:
    agent = await domain.agent()
    answer = await agent.chat("hi")
    assert answer.headers["buspass-task"] == agent.task
    assert answer.headers["buspass-target"] == "first/planner-1"
    assert answer.headers["buspass-attempts"] == "1"
    (record,) = await records(agent, "inference")
    assert answer.headers["buspass-call"] == record["id"]
    cost, tokens = record["cost"], record["use"]["tokens"]
    assert cost > 0
    assert answer.headers["buspass-cost"] == f"{cost:.6f}"
    left = f"tokens={100_000 - tokens}, cost={1 - cost:.6f}".rstrip("0") + ", calls=99, wall=600"
    assert answer.headers["buspass-budget-remaining"] == left
    assert answer.json()["model"] == "plan", "the agent sees its alias, not the provider's name"


async def test_an_unlimited_account_is_absent_from_what_is_left(domain: Domain) -> None:
    agent = await domain.agent(workflow="free")
    answer = await agent.chat()
    assert re.fullmatch(r"wall=\d+", answer.headers["buspass-budget-remaining"])
    spent = await budget(agent)
    assert set(spent["spent"]) == {"tokens", "cost", "calls", "model_calls", "tool_calls"}
    assert spent["available"] == {}
    assert spent["limits"] == {"wall": 1800, "depth": 2}


@pytest.mark.parametrize(
    ("usage", "tokens", "micro_dollars"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 7}, 1007, 1000 + 70),
        ({"prompt_tokens": 1000, "completion_tokens": 7, "total_tokens": 1010}, 1010, 1000 + 100),
        ({"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 301}}, 1000, 730),
        ({"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 9}}, 9, 1),
        ({"prompt_tokens": 0, "completion_tokens": 0}, 0, 0),
    ],
)
async def test_cost_is_exact_and_rounded_up_once_for_a_call(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, usage: dict[str, Any], tokens: int, micro_dollars: int
) -> None:
    async def answered(body: dict[str, Any]) -> JSONResponse:
        return counted(usage)

    monkeypatch.setattr(domain.provider, "_answer", answered)
    agent = await domain.agent()
    answer = await agent.chat("x" * 2000)
    assert answer.status_code == 200, answer.text
    assert answer.headers["buspass-cost"] == f"{micro_dollars / 1e6:.6f}"
    spent = (await budget(agent))["spent"]
    assert (spent["tokens"], spent["cost"]) == (tokens, micro_dollars / 1e6)
    assert (spent["calls"], spent["model_calls"], spent["tool_calls"]) == (1, 1, 0)
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_an_answer_without_usage_is_charged_at_its_hold_and_says_estimated(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answered(body: dict[str, Any]) -> JSONResponse:
        return counted(None)

    monkeypatch.setattr(domain.provider, "_answer", answered)
    agent = await domain.agent()
    answer = await agent.chat("four")
    assert answer.status_code == 200
    assert "usage" not in answer.json()
    held = len("rolecontentuserfour") + 256 + 16  # the strings in bytes, what a request and a message add
    (record,) = await records(agent, "inference")
    assert record["estimated"]
    assert record["use"]["tokens"] == held + 100
    assert answer.headers["buspass-cost"] == f"{(held + 1000) / 1e6:.6f}"


async def test_usage_above_the_hold_is_charged_journalled_and_suspends_the_task(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answered(body: dict[str, Any]) -> JSONResponse:
        return counted({"prompt_tokens": 99_000, "completion_tokens": 2_000})

    monkeypatch.setattr(domain.provider, "_answer", answered)
    agent = await domain.agent()
    answer = await agent.chat()
    assert answer.status_code == 200, "the answer is paid for"
    task = (await agent.get()).json()
    assert task["status"] == "suspended"
    assert task["budget"]["spent"]["tokens"] == 101_000
    assert task["budget"]["available"]["tokens"] == -1_000, "only an overrun goes below nothing"
    (record,) = await records(agent, "inference")
    assert record["overrun"]
    (suspension,) = [row for row in await records(agent, "lifecycle") if row["operation"] == "suspend"]
    assert suspension["reason"] == "overrun"
    (line,) = [each.getMessage() for each in caplog.records if "overrun" in each.getMessage()]
    assert line == f"overrun of tokens cost in task {agent.task}: more was billed than was held"  # alarms listen for it
    verdict = (await agent.get("/trace/verify")).json()
    assert verdict["ok"]
    assert verdict["seals"] == 1, "a suspension seals"
    assert code(await agent.chat()) == "task_not_open"


async def test_a_model_outside_the_grant_is_refused_with_the_ones_inside(domain: Domain) -> None:
    agent = await domain.agent()
    answer = await agent.chat(model="gpt-9")
    assert (answer.status_code, code(answer)) == (403, "model_not_granted")
    assert answer.json()["error"]["errors"][0]["allowed"] == ["plan", "backed"]
    assert answer.json()["error"]["message"].endswith("it has plan, backed")
    assert answer.headers["x-should-retry"] == "false"
    assert not domain.provider.requests


async def test_a_function_outside_the_route_is_refused_and_without_a_route_it_is_the_agents_own(
    domain: Domain,
) -> None:
    agent = await domain.agent()
    assert code(await agent.chat(tools=[OWN])) == "tool_not_granted"
    free = await domain.agent(workflow="free")
    assert (await free.chat(tools=[OWN])).status_code == 200


async def test_a_grant_without_tools_in_a_workflow_with_a_route_offers_none(policed: Domain) -> None:
    agent = await policed.agent(workflow="bare")
    assert agent.document["grant"]["tools"] == []
    assert code(await agent.chat(tools=[OWN])) == "tool_not_granted"


async def test_a_target_without_a_price_is_refused_where_cost_is_limited_and_free_otherwise(domain: Domain) -> None:
    limited = await domain.agent(workflow="unlimited", budget={"cost": 1})
    assert code(await limited.chat(model="dear")) == "unpriced"
    agent = await domain.agent(workflow="unlimited")
    assert (await agent.chat(model="dear")).headers["buspass-cost"] == "0.000000"


@pytest.mark.parametrize("way", ["whole", "stream", "failed"])
async def test_functions_that_an_agent_brings_itself_are_journalled_as_local(domain: Domain, way: str) -> None:
    functions = [{"type": "function", "function": {"name": name}} for name in ("grep", "item")]
    if way == "failed":
        domain.provider.faults.append(Fault(kind="error"))
    for workflow, local in (("free", ["grep", "item"]), ("work", None)):
        agent = await domain.agent(workflow=workflow)
        await agent.chat(tools=functions[workflow == "work" :], stream=way == "stream")
        (row,) = (row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "inference")
        assert row.get("local") == local, "a workflow's own tools are not local"


async def test_labels_of_body_and_header_stand_in_the_record(domain: Domain) -> None:
    agent = await domain.agent()
    headers = {"buspass-metadata": '{"step": "plan", "team": "header"}'}
    answer = await agent.chat(metadata={"team": "body", "a": "b"}, headers=headers)
    assert answer.status_code == 200, answer.text
    record = await domain.state.read(agent.task, f"rec:{answer.headers['buspass-call']}")
    assert record is not None
    assert json.loads(str(record["labels"])) == {"team": "header", "a": "b", "step": "plan"}
    assert "metadata" not in domain.provider.requests[0].body, "a provider gets no labels of somebody's spend"


@pytest.mark.parametrize(
    ("workflow", "asked", "text", "digest"),
    [
        ("work", None, True, True),
        ("work", "metadata", False, True),
        ("work", "none", False, False),
        ("many", None, False, True),
        ("many", "full", False, True),
        ("many", "none", False, False),
    ],
)
async def test_a_client_may_only_lower_what_the_workflow_logs(
    domain: Domain, workflow: str, asked: str | None, text: bool, digest: bool
) -> None:
    agent = await domain.agent(workflow=workflow)
    headers = {} if asked is None else {"buspass-log": asked}
    await agent.chat("my thought", headers=headers)
    (record,) = await records(agent, "inference")
    assert (record.get("thought") == "my thought") is text
    assert ("digests" in record) is digest


async def test_the_record_tells_thought_and_arguments_where_payloads_are_full(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.call("check", {"order": "o-1"})
    (record,) = await records(agent, "action")
    assert record["arguments"] == {"order": "o-1"}
    assert record["result"] == {"approved": True, "order": "o-1"}
    assert record["name"] == "check"
    assert record["host"] == "onprem"
    assert record["left"]["calls"] == 99


async def test_what_fails_inside_is_charged_in_full_and_tells_nothing(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await domain.agent()

    async def breaks(request: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(domain.outbound, "send", breaks)
    for answer in (await agent.chat(), await agent.call("check", {"order": "1"})):
        assert (answer.status_code, code(answer)) == (500, "internal")
        assert "secret detail" not in answer.text
    found = await budget(agent)
    assert found["spent"]["calls"] == 2
    assert found["spent"]["cost"] > 0
    assert set(found["held"].values()) == {0}, "a hold is never left"


async def test_blobs_out_of_reach_lose_the_payload_and_never_the_settle(domain: Domain) -> None:
    agent = await domain.agent()
    domain.blobs.down = True
    answer = await agent.call("pay", {"order": "o", "amount": 1}, headers={"idempotency-key": "k"})
    assert code(answer) == "prerequisite_missing"
    answer = await agent.chat(headers={"idempotency-key": "k"})
    assert answer.status_code == 200, answer.text
    domain.blobs.down = False
    found = await budget(agent)
    assert found["spent"]["calls"] == 1
    assert found["held"]["calls"] == 0
    again = await agent.chat(headers={"idempotency-key": "k"})
    assert (again.status_code, code(again)) == (502, "outcome_unknown")
    assert again.json()["error"]["retryable"] is False
    assert len(domain.provider.requests) == 1, "what was done is not done again for a lost outcome"


async def test_a_seal_that_fails_costs_nobody_an_answer(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await domain.agent()

    async def away(task: str) -> None:
        raise Problem("state_unavailable", "no")

    monkeypatch.setattr("buspass.settling.SEAL_EVERY", 1)
    house = domain.apps["onprem"].house
    monkeypatch.setattr(house.sealer, "seal", away)
    assert (await agent.chat()).status_code == 200


async def test_the_journal_is_sealed_when_enough_records_wait(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buspass.settling.SEAL_EVERY", 3)
    agent = await domain.agent()
    await agent.chat()
    assert (await agent.get("/trace/verify")).json()["seals"] == 0
    await agent.chat()
    verdict = (await agent.get("/trace/verify")).json()
    assert (verdict["seals"], verdict["sealed"], verdict["ok"]) == (1, 3, True)


async def test_fifty_refusals_suspend_the_task(domain: Domain) -> None:
    agent = await domain.agent()
    for _ in range(49):
        assert code(await agent.call("pay", {"order": "1", "amount": 1})) == "prerequisite_missing"
    assert (await agent.get()).json()["status"] == "open"
    await agent.call("pay", {"order": "1", "amount": 1})
    assert (await agent.get()).json()["status"] == "suspended"
    seals = (await agent.get("/trace/verify")).json()["seals"]
    for _ in range(3):
        assert code(await agent.call("pay", {"order": "1", "amount": 1})) == "task_not_open"
    verdict = (await agent.get("/trace/verify")).json()
    assert verdict["seals"] == seals == 1, "a suspended task is not sealed again for each refusal"
    refusals = await records(agent, "refusal")
    assert sum(row["code"] == "prerequisite_missing" for row in refusals) == 20, "the first twenty are recorded"


async def test_a_settled_call_ends_the_run_of_refusals(domain: Domain) -> None:
    agent = await domain.agent()
    for _ in range(2):
        for _ in range(49):
            await agent.call("pay", {"order": "1", "amount": 1})
        assert (await agent.chat()).status_code == 200
    assert (await agent.get()).json()["status"] == "open"
