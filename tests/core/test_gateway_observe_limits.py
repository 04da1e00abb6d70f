"""What observing never relaxes; and money: overdrafts to the unit, and enforcement after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.errors import Problem
from buspass.journal import Journal
from buspass.ledger import Claim, Held, Ledger, Outcome, new_head, overdrafts
from buspass.ledger.holds import OBSERVED
from buspass.model import SLOTS
from buspass.ports.state import Put
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.state_memory import MemoryState

DATA = Path(__file__).parents[1] / "data" / "domain"
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3

type Act = Callable[[Domain, Agent], Awaitable[httpx.Response]]


def services(service: Any, upstream: Any) -> Mapping[str, Any]:
    return {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}


@pytest.fixture
async def watched(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    async with Domain(DATA / "observed.yaml", tmp_path, services(service, upstream)) as domain:
        yield domain


def changed(folder: Path, old: str, new: str) -> Path:
    """The same configuration with something else in it, beside its policies."""
    if not (folder / "observed").exists():
        (folder / "observed").symlink_to(DATA / "observed")
    path = folder / "changed.yaml"
    text = (DATA / "observed.yaml").read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return path


def code(answer: httpx.Response) -> str:
    document = answer.json()
    return str(document.get("error", document)["code"])


async def operated(domain: Domain, agent: Agent, path: str = "") -> Any:
    key = domain.apps["onprem"].house.operator_key
    return (await agent.client.get(f"/v1/tasks/{agent.task}{path}", headers={"authorization": f"Bearer {key}"})).json()


# ── never relaxed ──


async def forged(_: Domain, agent: Agent) -> httpx.Response:
    return await Agent(client=agent.client, task=agent.task, token=agent.token[:-4] + "AAAA", document={}).chat()


async def killed(_: Domain, agent: Agent) -> httpx.Response:
    await agent.post("kill")
    return await agent.chat()


async def expired(domain: Domain, agent: Agent) -> httpx.Response:
    domain.clock.advance(601)  # type: ignore[attr-defined]  # the tests' clock
    return await agent.chat()


async def suspended(_: Domain, agent: Agent) -> httpx.Response:
    await agent.post("suspend")
    return await agent.chat()


async def fenced(domain: Domain, agent: Agent) -> httpx.Response:
    token = await domain.apps["onprem"].mint_workload("me")
    await agent.client.post(f"/v1/tasks/{agent.task}/resume", json={}, headers={"authorization": f"Bearer {token}"})
    return await agent.chat()


async def mismatched(_: Domain, agent: Agent) -> httpx.Response:
    await agent.chat(headers={"idempotency-key": "k"})
    return await agent.chat("something else", headers={"idempotency-key": "k"})


NEVER: list[tuple[str, Act, str]] = [
    ("a forged token", forged, "unauthenticated"),
    ("a killed task", killed, "task_killed"),
    ("an expired task", expired, "task_expired"),
    ("a suspended task", suspended, "task_not_open"),
    ("an old fence", fenced, "fenced"),
    ("another request under a key", mismatched, "idempotency_mismatch"),
    ("a secret to a model", lambda _, agent: agent.chat(f"use {SECRET}"), "content_blocked"),
    ("a secret to a tool", lambda _, agent: agent.call("check", {"order": SECRET}), "content_blocked"),
    ("an unknown field", lambda _, agent: agent.chat(web_search_options={}), "unsupported"),
    ("a provider's own tool", lambda _, agent: agent.chat(tools=[{"type": "web_search"}]), "unsupported"),
    ("a model that nobody configured", lambda _, agent: agent.chat(model="gpt-9"), "model_not_granted"),
    ("a tool that nobody configured", lambda _, agent: agent.call("rm", {}), "tool_not_granted"),
    ("a tool that is called elsewhere", lambda _, agent: agent.call("away", {}), "tool_not_granted"),
    ("arguments that do not fit", lambda _, agent: agent.call("check", {"order": 1}), "invalid_arguments"),
    ("a path that leads elsewhere", lambda _, agent: agent.call("item", {"id": ".."}), "invalid_arguments"),
    ("an answer of no tokens", lambda _, agent: agent.chat(max_completion_tokens=0), "invalid_request"),
]


@pytest.mark.parametrize(("act", "refused"), [row[1:] for row in NEVER], ids=[row[0] for row in NEVER])
async def test_observing_never_relaxes(watched: Domain, service: Any, act: Act, refused: str) -> None:
    agent = await watched.agent()
    answer = await act(watched, agent)
    assert code(answer) == refused, answer.text
    assert not service.requests
    assert SECRET not in str([exchange.body for exchange in watched.provider.requests])


async def test_a_refusal_while_observing_is_marked_and_suspends_nobody(watched: Domain) -> None:
    agent = await watched.agent()
    for _ in range(60):
        assert code(await agent.call("rm", {})) == "tool_not_granted"
    records = (await agent.get("/trace")).json()["records"]
    refusals = [row for row in records if row["kind"] == "refusal"]
    assert len(refusals) == 20
    assert all(row["observed"] == [] for row in refusals)
    assert (await agent.get()).json()["status"] == "open"


async def test_a_store_that_cannot_be_written_sends_nothing(watched: Domain) -> None:
    agent = await watched.agent()
    watched.state.inner.trouble = 1.0  # type: ignore[attr-defined]  # the memory store's
    answer = await agent.chat()
    assert answer.status_code == 503
    assert not watched.provider.requests


async def test_a_start_that_policy_denies_is_noted(watched: Domain) -> None:
    agent = await watched.agent(workflow="closed")
    opening = (await agent.get("/trace")).json()["records"][0]
    assert [(row["verdict"], row["code"], row["rule"]) for row in opening["observed"]] == [
        ("would_deny", "denied", "closed_today")
    ]


# ── money ──


async def test_parallel_calls_all_pass_and_the_account_is_short_by_exactly_what_they_overdrew(watched: Domain) -> None:
    agent = await watched.agent(workflow="many")
    there = await watched.at("aws", agent)
    answers = await asyncio.gather(*(who.chat() for who in [agent, there] * 100))
    assert {answer.status_code for answer in answers} == {200}
    task = await operated(watched, agent)
    assert task["budget"]["available"]["calls"] == 40 - 200
    assert task["budget"]["spent"]["calls"] == 200
    assert task["budget"]["held"]["calls"] == 0
    assert (await operated(watched, agent, "/trace/verify"))["ok"]
    records = (await operated(watched, agent, "/trace?limit=500"))["records"]
    short = [row for row in records if any(seen.get("rule") == "calls" for seen in row.get("observed", ()))]
    assert len(short) == 160
    assert max(seen["below"] for row in short for seen in row["observed"]) == 160


async def test_a_claim_that_calls_in_flight_would_give_back_is_noted_as_held(watched: Domain, upstream: Any) -> None:
    opened, begun = asyncio.Event(), asyncio.Event()

    async def gate(_: Any) -> None:
        begun.set()
        await opened.wait()

    upstream.script.append(gate)
    agent = await watched.agent(budget={"calls": 1})
    first = asyncio.create_task(agent.chat(model="slow"))
    await begun.wait()
    answer = await agent.chat()
    assert answer.headers["buspass-observed"] == "would_hold budget_held"
    opened.set()
    assert (await first).headers.get("buspass-observed") is None


async def test_more_calls_in_flight_than_a_task_may_have_pass(watched: Domain, service: Any) -> None:
    opened = asyncio.Event()
    waiting = 0

    async def gate(_: Any) -> None:
        nonlocal waiting
        waiting += 1
        await opened.wait()

    service.hooks["/checks"] = gate
    agent = await watched.agent()
    calls = [asyncio.create_task(agent.call("check", {"order": str(n)})) for n in range(70)]
    async with asyncio.timeout(60):
        while waiting < len(calls):
            await asyncio.sleep(0)
    opened.set()
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    noted = [answer for answer in answers if answer.headers.get("buspass-observed") == "would_hold too_many_in_flight"]
    assert len(noted) == 70 - 64


async def test_as_many_as_a_head_can_hold_are_in_flight_at_most() -> None:
    clock, state = FakeClock(), MemoryState()
    ledger = Ledger(state, clock, Journal(b"k" * 32).stamp)
    head = new_head(limits={"calls": 1}, expires_at=clock.now() + 60_000, max_calls={})
    await state.apply("t", [Put("head", {**head, "slots": SLOTS - OBSERVED + 1})])

    def claim(call: str) -> Claim:
        amounts = {"calls": 1, "tool_calls": 1}
        deadline = clock.now() + 9_000
        return Claim(
            task="t", call=call, kind="action", name="x", amounts=amounts, fence=1, deadline=deadline, observed=True
        )

    held = await ledger.hold(claim("last"), 0)
    assert isinstance(held, Held)
    assert [row.problem.code for row in overdrafts(held)] == ["too_many_in_flight"]
    with pytest.raises(Problem, match="too_many_in_flight"):
        await ledger.hold(claim("more"), 0)
    await ledger.settle(held, Outcome(use={"calls": 1, "tool_calls": 1}), {})
    held = await ledger.hold(claim("next"), 0)
    assert isinstance(held, Held)
    assert [(row.problem.code, row.below, row.limit) for row in overdrafts(held)] == [
        ("budget_exhausted", 1, 1),
        ("too_many_in_flight", OBSERVED - SLOTS, None),
    ]


async def test_a_swept_observed_call_is_marked() -> None:
    clock, state = FakeClock(), MemoryState()
    ledger = Ledger(state, clock, Journal(b"k" * 32).stamp)
    head = new_head(limits={"calls": 0}, expires_at=clock.now() + 600_000, max_calls={"x": 0})
    await state.apply("t", [Put("head", head)])
    amounts = {"calls": 1, "tool_calls": 1}
    claim = Claim(
        task="t",
        call="k",
        kind="action",
        name="x",
        amounts=amounts,
        fence=1,
        deadline=clock.now() + 9_000,
        capped=True,
        observed=True,
    )
    held = await ledger.hold(claim, 0)
    assert isinstance(held, Held)
    assert {row.problem.code for row in overdrafts(held)} == {"budget_exhausted", "call_limit"}
    clock.advance(60)
    assert await ledger.sweep("t") == 1
    record = await state.read("t", "rec:k")
    assert record is not None
    assert (record["state"], record["observed"], record["use"]) == ("expired", [], amounts)


async def test_enforced_again_an_overdrawn_task_gets_402_until_somebody_gives_it_more(
    watched: Domain, tmp_path: Path, service: Any, upstream: Any
) -> None:
    agent = await watched.agent(budget={"calls": 2})
    for _ in range(5):
        assert (await agent.chat()).status_code == 200
    path = changed(tmp_path, "enforce: observe", "enforce: on")
    more = services(service, upstream)
    async with Domain(path, tmp_path, more, clock=watched.clock, state=watched.state) as strict:
        there = await strict.at("onprem", agent)
        answer = await there.chat()
        assert (answer.status_code, code(answer)) == (402, "budget_exhausted")
        assert answer.json()["error"]["left"] == -3
        assert (await operated(strict, there, "/trace/verify"))["ok"]
        assert (await agent.chat()).status_code == 200, "the host that still observes goes on"
        assert code(await there.chat()) == "budget_exhausted"
        task = await operated(strict, there)
        assert task["budget"]["available"]["calls"] == -4
        assert (await operated(strict, there, "/trace/verify"))["ok"]


async def test_a_provider_that_bills_more_than_was_held_suspends_nobody_while_observed(
    watched: Domain, upstream: Any
) -> None:
    from starlette.responses import JSONResponse  # noqa: PLC0415

    from buspass.testing.provider_wire import completion  # noqa: PLC0415

    async def dear(body: Any) -> JSONResponse:
        answer = completion(body, lambda _: {"content": "x"})
        answer["usage"] = {"prompt_tokens": 5000, "completion_tokens": 5000, "total_tokens": 10000}
        return JSONResponse(answer)

    upstream.script.append(dear)
    agent = await watched.agent()
    answer = await agent.chat(model="slow")
    assert answer.status_code == 200
    row = next(r for r in (await agent.get("/trace")).json()["records"] if r["id"] == answer.headers["buspass-call"])
    assert row["overrun"] is True
    assert (await agent.get()).json()["status"] == "open"
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_a_keys_overdraft_is_paid_by_its_pool_when_the_standing_task_ends(watched: Domain) -> None:
    client = await watched.host()
    operator = {"authorization": f"Bearer {watched.apps['onprem'].house.operator_key}"}
    body = {"name": "bot", "workflow": "keyed", "pool": "support", "budget": {"cost": 0.000001}}
    key = (await client.post("/v1/keys", json=body, headers=operator)).json()["key"]
    headers = {"authorization": f"Bearer {key}"}
    asked = {"model": "plan", "messages": [{"role": "user", "content": "hello"}]}
    answer = await client.post("/v1/chat/completions", json=asked, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["buspass-observed"] == "would_hold budget_exhausted"
    spent = round(float(answer.headers["buspass-cost"]) * 1e6)
    assert spent > 1
    watched.clock.advance(1801)  # type: ignore[attr-defined]  # the tests' clock
    answer = await client.post("/v1/chat/completions", json=asked, headers=headers)
    assert answer.status_code == 200, "the next generation"
    head = await watched.state.read("pool:support", "head")
    assert head is not None
    assert head["available"] == {"cost": 5_000_000 - spent - 1}
    assert head["allocated"] == {"cost": 1}
