"""`enforce: observe`: what would have been refused passes and is journalled; what must never pass never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.calls.enforcement import WOULD
from buspass.errors import CODES
from buspass.testing.house import Agent, Domain

DATA = Path(__file__).parents[1] / "data" / "domain"
MAIL, CARD = "alice@example.com", "4111111111111111"
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

type Act = Callable[[Agent], Awaitable[httpx.Response]]


def enforced(folder: Path) -> Path:
    """The same configuration with every workflow enforced, beside its policies."""
    (folder / "observed").symlink_to(DATA / "observed")
    path = folder / "enforced.yaml"
    path.write_text((DATA / "observed.yaml").read_text("utf-8").replace("enforce: observe", "enforce: on"), "utf-8")
    return path


@pytest.fixture
async def watched(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(DATA / "observed.yaml", tmp_path, services) as domain:
        yield domain


@pytest.fixture
async def strict(tmp_path: Path, service: Any, upstream: Any, watched: Domain) -> AsyncIterator[Domain]:
    """The same domain after its workflows were enforced: same store, same keys, same clock."""
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    await watched.host()
    path = enforced(tmp_path)
    async with Domain(path, tmp_path, services, clock=watched.clock, state=watched.state) as domain:
        domain.blobs = watched.blobs
        yield domain


def code(answer: httpx.Response) -> str:
    document = answer.json()
    return str(document.get("error", document)["code"])


async def observed(agent: Agent, answer: httpx.Response) -> list[Mapping[str, Any]]:
    """What the journal says of a call; the journal itself must be whole."""
    verdict = (await agent.get("/trace/verify")).json()
    assert verdict["ok"], verdict
    records = (await agent.get("/trace")).json()["records"]
    found: list[Mapping[str, Any]] = next(row for row in records if row["id"] == answer.headers["buspass-call"])[
        "observed"
    ]
    return found


def chat(text: str = "hello", **more: Any) -> Act:
    return lambda agent: agent.chat(text, **more)


def call(tool: str, **arguments: Any) -> Act:
    return lambda agent: agent.call(tool, arguments)


def after(*acts: Act) -> Act:
    """Do these one after the other; the last one's answer counts."""

    async def run(agent: Agent) -> httpx.Response:
        for act in acts:
            answer = await act(agent)
        return answer

    return run


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def picture() -> Act:
    async def run(agent: Agent) -> httpx.Response:
        content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
        body = {"model": "plan", "messages": [{"role": "user", "content": content}]}
        return await agent.client.post("/v1/chat/completions", json=body, headers=agent.headers)

    return run


RELAXED: list[tuple[str, dict[str, Any], Act, str, str]] = [
    ("work", {}, chat(model="other"), "model_not_granted", "other"),
    ("work", {}, chat(tools=[function("foreign")]), "tool_not_granted", "foreign"),
    ("narrowed", {}, chat(model="other"), "model_not_granted", "other"),
    ("narrowed", {}, call("item", id="1"), "tool_not_granted", "item"),
    ("ordered", {}, call("item", id="1"), "tool_not_granted", "item"),
    ("work", {}, call("item", id="2"), "denied", "argument_bound: id"),
    ("work", {}, call("pay", order="o", amount=1), "prerequisite_missing", "after check (done)"),
    (
        "work",
        {},
        after(call("check", order="another"), call("pay", order="o", amount=1)),
        "prerequisite_missing",
        "after check (where)",
    ),
    (
        "work",
        {},
        after(call("check", order="o"), call("pay", order="o", amount=1), call("pay", order="o", amount=1)),
        "call_limit",
        "max_calls",
    ),
    ("repeating", {}, after(*[call("check", order="o")] * 4), "repeated_call", "identical"),
    ("repeating", {}, after(call("status", id="1"), call("status", id="1")), "rate_limited", "polling"),
    ("thoughtful", {}, call("check", order="o"), "thought_required", "require_thought"),
    ("policed", {}, call("check", order="o"), "denied", "never_on_a_monday"),
    ("untargeted", {}, chat(), "denied", "targets"),
    ("broken", {}, chat(), "policy_unavailable", ""),
    ("work", {"tokens": 100}, chat(), "budget_exhausted", "tokens"),
    ("work", {"cost": 0.0001}, chat(), "budget_exhausted", "cost"),
    ("work", {"calls": 0}, chat(), "budget_exhausted", "calls"),
    ("work", {"model_calls": 0}, chat(), "budget_exhausted", "model_calls"),
    ("work", {"tool_calls": 0}, call("check", order="o"), "budget_exhausted", "tool_calls"),
    ("uncosted", {"cost": 1.0}, chat(model="dear"), "unpriced", "second/planner-9"),
    ("work", {}, picture(), "unbounded", "messages[0].content[1]"),
    ("private", {}, chat(f"pay with {CARD}"), "content_blocked", "credit_card to a model"),
    ("private", {}, call("check", order=CARD), "content_blocked", "credit_card to check"),
]


@pytest.mark.parametrize(
    ("workflow", "budget", "act", "refused", "rule"), RELAXED, ids=[f"{row[3]} {row[0]} {row[4]}" for row in RELAXED]
)
async def test_each_control_refuses_when_enforced_and_is_only_noted_when_observed(
    watched: Domain, strict: Domain, workflow: str, budget: dict[str, Any], act: Act, refused: str, rule: str
) -> None:
    answer = await act(await strict.agent(workflow=workflow, budget=budget))
    assert code(answer) == refused, answer.text
    assert answer.status_code == CODES[refused].status
    assert "buspass-observed" not in answer.headers
    agent = await watched.agent(workflow=workflow, budget=budget)
    answer = await act(agent)
    assert answer.status_code == 200, answer.text
    rows = await observed(agent, answer)
    found = [(row["verdict"], row["code"], row["rule"]) for row in rows if row["code"] != "mask"]
    assert found == [(WOULD[refused], refused, rule)]
    assert answer.headers["buspass-observed"].split(", ")[0] == f"{WOULD[refused]} {refused}"


def test_every_code_that_is_relaxed_has_a_row_here() -> None:
    shown = {row[3] for row in RELAXED} | {
        "prerequisite_in_flight",
        "budget_held",
        "too_many_in_flight",
        "idempotency_mismatch",
    }
    assert shown == WOULD.keys()


async def test_a_call_that_nothing_is_said_against_is_marked_and_its_answer_is_not(watched: Domain) -> None:
    agent = await watched.agent()
    answer = await agent.chat()
    assert "buspass-observed" not in answer.headers
    assert await observed(agent, answer) == []


async def test_an_enforced_call_says_nothing_of_it(strict: Domain) -> None:
    agent = await strict.agent()
    await agent.chat()
    rows = (await agent.get("/trace")).json()["records"]
    assert [row for row in rows if "observed" in row] == []


async def test_a_tool_call_that_the_model_did_not_ask_for_passes_without_its_licence(
    watched: Domain, strict: Domain, service: Any
) -> None:
    asked = {"name": "check", "arguments": {"order": "o"}}
    for domain in (watched, strict):
        domain.provider.mind = lambda _: {"content": None, "tool_calls": [asked]}
    for domain, expected in ((strict, 422), (watched, 200)):
        agent = await domain.agent(workflow="thoughtful")
        message = (await agent.chat(tools=[function("check")])).json()["choices"][0]["message"]
        name = message["tool_calls"][0]["id"]
        answer = await agent.call("check", {"order": "another"}, tool_call_id=name)
        assert answer.status_code == expected, answer.text
    assert [row["code"] for row in await observed(agent, answer)] == ["idempotency_mismatch"]
    answer = await agent.call("check", {"order": "o"}, tool_call_id=name)
    assert answer.status_code == 200
    assert await observed(agent, answer) == []
    assert [body["order"] for body in service.got("/checks")] == ["another", "o"]


async def test_what_waits_for_a_prerequisite_does_not_wait_while_observed(
    watched: Domain, strict: Domain, service: Any
) -> None:
    opened, began = asyncio.Event(), asyncio.Event()

    async def gate(_: Any) -> None:
        began.set()
        await opened.wait()

    service.hooks["/checks"] = gate
    for domain, expected in ((strict, 409), (watched, 200)):
        began.clear()
        agent = await domain.agent(workflow="ordered")
        first = asyncio.create_task(agent.call("check", {"order": "o"}))
        await began.wait()
        answer = await agent.call("pay", {"order": "o", "amount": 1})
        assert answer.status_code == expected
        opened.set()
        assert (await first).status_code == 200
        opened.clear()
    found = [row["observed"] for row in (await agent.get("/trace")).json()["records"] if row.get("name") == "pay"]
    assert [row["code"] for row in found[0]] == ["prerequisite_in_flight"]


async def test_nothing_is_noted_on_an_old_copy_of_the_task(watched: Domain) -> None:
    agent = await watched.agent(workflow="ordered")
    await agent.chat()  # from now on this host has a copy, in which nothing was checked
    there = await watched.at("aws", agent)
    assert (await there.call("check", {"order": "o"})).status_code == 200
    answer = await agent.call("pay", {"order": "o", "amount": 1})
    assert await observed(agent, answer) == []


# ── what reaches whom ──


async def test_personal_data_reaches_the_model_as_it_is_and_the_record_says_what_would_have_been_replaced(
    watched: Domain, strict: Domain
) -> None:
    agent = await watched.agent(workflow="private")
    answer = await agent.chat(f"write to {MAIL}")
    assert MAIL in json.dumps(watched.provider.requests[-1].body)
    assert MAIL in answer.text
    rows = await observed(agent, answer)
    assert [(row["verdict"], row["code"], row["rule"]) for row in rows] == [
        ("would_block", "placeholder", "email to a model"),
        ("would_block", "placeholder", "email to the agent"),
    ]
    assert rows[0]["detail"] == "1 at messages[0].content"
    trace = (await agent.get("/trace")).text
    assert MAIL not in trace, "what would have been replaced is not logged as it is, though payloads are"
    agent = await strict.agent(workflow="private")
    await agent.chat(f"write to {MAIL}")
    assert MAIL not in json.dumps(strict.provider.requests[-1].body)


async def test_a_tool_gets_what_it_would_not_have_got(watched: Domain, service: Any) -> None:
    agent = await watched.agent(workflow="private")
    answer = await agent.call("check", {"order": f"for {MAIL}", "by": MAIL})
    assert answer.status_code == 200
    assert service.got("/checks")[-1] == {"order": f"for {MAIL}", "by": MAIL}
    rules = {row["rule"]: row["code"] for row in await observed(agent, answer)}
    assert rules["email to check"] == "placeholder"
    answer = await agent.call("check", {"order": "o", "by": MAIL})
    assert answer.status_code == 200
    assert "email to check" not in {row["rule"] for row in await observed(agent, answer)}, "it may get it there"


async def test_policys_shorter_answers_are_noted_and_not_sent(watched: Domain, strict: Domain) -> None:
    agent = await watched.agent(workflow="shortened")
    answer = await agent.chat()
    assert watched.provider.requests[-1].body["max_completion_tokens"] == 100
    assert [(row["verdict"], row["code"]) for row in await observed(agent, answer)] == [("would_hold", "max_tokens")]
    await (await strict.agent(workflow="shortened")).chat()
    assert strict.provider.requests[-1].body["max_completion_tokens"] == 7


async def test_a_stream_says_it_in_its_headers_and_at_its_end(watched: Domain) -> None:
    agent = await watched.agent(workflow="private", budget={"cost": 0})
    answer = await agent.chat(f"write to {MAIL}", stream=True)
    assert answer.status_code == 200
    assert "would_hold budget_exhausted" in answer.headers["buspass-observed"]
    last = json.loads([line for line in answer.text.splitlines() if line.startswith("data: {")][-1][6:])
    assert "would_block placeholder" in last["buspass"]["observed"]
    assert {row["code"] for row in await observed(agent, answer)} == {"budget_exhausted", "placeholder"}
    assert last["buspass"]["budget_remaining"].startswith("cost=-")


async def test_a_keyed_call_is_replayed_with_no_second_charge(watched: Domain) -> None:
    agent = await watched.agent(budget={"calls": 0})
    key = {"headers": {"idempotency-key": "k"}}
    first, again = await agent.chat(**key), await agent.chat(**key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["buspass-replayed"] == "true"
    assert (await agent.get()).json()["budget"]["available"]["calls"] == -1
