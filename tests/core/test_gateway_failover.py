"""From one target to the next: only after a failure that surely was not billed, in time, and under one hold."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.provider import Fault


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


def refused(status: int, **headers: str) -> JSONResponse:
    return JSONResponse({"error": {"message": "no"}}, status, headers=headers)


def down(domain: Domain, *hosts: str) -> None:
    domain.outbound.inner.down.update(hosts)  # type: ignore[attr-defined]  # it is an AsgiOutbound


async def spent(agent: Agent) -> dict[str, Any]:
    found: dict[str, Any] = (await agent.get()).json()["budget"]
    assert set(found["held"].values()) == {0}
    return dict(found["spent"])


async def row(agent: Agent, kind: str = "inference") -> dict[str, Any]:
    trace = (await agent.get("/trace")).json()["records"]
    (found,) = (row for row in trace if row["kind"] == kind)
    return dict(found)


@pytest.mark.parametrize("failure", ["refused connection", 429, 401, 403, 404])
async def test_the_next_target_is_asked_after_a_surely_unbilled_failure(
    domain: Domain, upstream: Any, failure: str | int
) -> None:
    if isinstance(failure, int):
        upstream.script.append(refused(failure))
    else:
        down(domain, "127.0.0.1:9003")
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert answer.status_code == 200, answer.text
    assert answer.headers["buspass-target"] == "first/planner-1"
    assert answer.headers["buspass-attempts"] == "2"
    found = await row(agent)
    assert found["use"]["calls"] == 1, "one call, however many attempts"
    assert f"{found['cost']:.6f}" == answer.headers["buspass-cost"], "at the price of the one that answered"
    assert not found["estimated"]


@pytest.mark.parametrize(
    ("failure", "status", "problem"),
    [
        (500, 502, "upstream_error"),
        (503, 502, "upstream_error"),
        (408, 502, "upstream_error"),
        (RuntimeError("cut"), 502, "upstream_error"),
        (JSONResponse({"hello": "there"}), 502, "upstream_error"),
        (Response("<html>Welcome", media_type="text/html"), 502, "upstream_error"),
    ],
)
async def test_what_may_have_been_billed_is_charged_in_full_and_not_tried_again_where_one_attempt_is_all(
    domain: Domain, upstream: Any, failure: Any, status: int, problem: str
) -> None:
    upstream.script.append(refused(failure) if isinstance(failure, int) else failure)
    agent = await domain.agent(workflow="many")
    answer = await agent.chat(model="once")
    assert (answer.status_code, code(answer)) == (status, problem)
    assert answer.headers["buspass-attempts"] == "1"
    assert "Welcome" not in answer.text
    assert not domain.provider.requests, "the second target was not asked"
    found = await row(agent)
    assert (found["estimated"], found["status"]) == (True, "unknown")
    held = len("rolecontentuserhello") + 256 + 16
    assert found["use"]["tokens"] == held + 100
    assert found["cost"] == pytest.approx((2 * held + 20 * 100) / 1e6), "the dearest target's price"
    assert (await spent(agent))["calls"] == 1


async def test_a_time_out_is_charged_in_full_and_not_tried_again(domain: Domain, upstream: Any) -> None:
    async def never(body: Any) -> Response:
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    upstream.script.append(never)
    agent = await domain.agent(workflow="many")
    answer = await agent.chat(model="quick")
    assert (answer.status_code, code(answer)) == (504, "upstream_timeout")
    assert not domain.provider.requests
    assert (await row(agent))["estimated"]


async def test_a_request_that_the_provider_rejects_is_the_agents_to_mend_and_costs_nothing(
    domain: Domain, upstream: Any
) -> None:
    upstream.script.append(JSONResponse({"error": {"message": "too many stops"}}, 400))
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert "too many stops" in answer.text
    assert not domain.provider.requests
    assert set((await spent(agent)).values()) == {0}


async def test_nothing_is_spent_when_no_target_takes_the_call(domain: Domain, upstream: Any) -> None:
    upstream.script.append(refused(429, **{"retry-after": "7"}))
    domain.provider.faults.append(Fault(kind="rate_limited", seconds=3))
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert (answer.status_code, code(answer)) == (503, "no_target_available")
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["buspass-attempts"] == "2"
    assert answer.headers["buspass-cost"] == "0.000000"
    assert set((await spent(agent)).values()) == {0}
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_a_call_is_tried_as_often_as_its_alias_says_and_no_more(domain: Domain, upstream: Any) -> None:
    upstream.script.extend([refused(429), refused(429)])
    agent = await domain.agent(workflow="many")
    answer = await agent.chat(model="thrice")
    assert code(answer) == "no_target_available"
    assert answer.headers["buspass-attempts"] == "2"
    assert not domain.provider.requests, "two attempts are the default"


async def test_a_provider_that_does_not_take_the_gateway_is_its_operators_to_mend(
    domain: Domain, upstream: Any
) -> None:
    upstream.script.append(refused(401))
    domain.provider.key = "another"
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert (answer.status_code, code(answer)) == (502, "upstream_error")
    assert set((await spent(agent)).values()) == {0}


@pytest.mark.parametrize(("tool", "arguments"), [("", {}), ("sealed", {"order": "1"})])
async def test_a_secret_that_the_host_lacks_costs_nothing_and_is_named(
    domain: Domain, tool: str, arguments: dict[str, str]
) -> None:
    agent = await domain.agent(workflow="many")
    answer = await (agent.call(tool, arguments) if tool else agent.chat(model="locked"))
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "NOBODY_SET_THIS" in answer.text
    assert set((await spent(agent)).values()) == {0}
    assert not domain.outbound.exchanges


@pytest.mark.parametrize(("late", "sent"), [(4.9, 2), (5.1, 1)])
async def test_nothing_is_sent_later_than_five_seconds_after_its_hold(
    domain: Domain, upstream: Any, late: float, sent: int
) -> None:
    async def slow(body: Any) -> Response:
        domain.clock.advance(late)  # type: ignore[attr-defined]  # the clock of a test
        return refused(429)

    upstream.script.append(slow)
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert len(domain.outbound.exchanges) == sent
    assert answer.status_code == (200 if sent == 2 else 504)
    if sent == 1:
        assert code(answer) == "deadline_exceeded"
        assert set((await spent(agent)).values()) == {0}


@pytest.mark.parametrize("tool", ["item", "brief", "quick"])
async def test_a_call_that_its_host_could_not_send_in_time_is_not_sent(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(workflow="many")
    house = domain.apps["onprem"].house
    hold = house.ledger.hold

    async def slow(*claim: Any) -> Any:
        held = await hold(*claim)
        clock.advance(6 if tool == "item" else 0.3)
        return held

    monkeypatch.setattr(house.ledger, "hold", slow)
    arguments = {"id": "1"} if tool == "item" else {}
    answer = await (agent.chat(model="quick") if tool == "quick" else agent.call(tool, arguments))
    assert (answer.status_code, code(answer)) == (504, "deadline_exceeded")
    assert not domain.outbound.exchanges
    monkeypatch.undo()
    assert set((await spent(agent)).values()) == {0}


async def test_the_deadline_of_the_host_bounds_the_call(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat()
    assert domain.outbound.requests[-1].timeout == pytest.approx(59), "a second is kept to settle and to answer"


@pytest.mark.parametrize(
    ("tool", "failure", "status", "problem", "spends", "ends"),
    [
        ("item", "refused connection", 502, "upstream_error", 0, "failed"),
        ("item", 404, 502, "upstream_error", 1, "failed"),
        ("item", 500, 502, "upstream_error", 1, "failed"),
        ("check", 500, 502, "upstream_error", 1, "unknown"),
        ("check", 400, 502, "upstream_error", 1, "failed"),
        ("check", RuntimeError("cut"), 502, "upstream_error", 1, "unknown"),
        ("check", Response("<html>oops", media_type="text/html"), 502, "upstream_error", 1, "succeeded"),
        ("check", JSONResponse({"approved": "perhaps"}), 502, "upstream_error", 1, "succeeded"),
    ],
)
async def test_a_tool_that_fails_is_a_problem_and_never_text_for_the_model(
    domain: Domain, service: Any, tool: str, failure: Any, status: int, problem: str, spends: int, ends: str
) -> None:
    async def fails(body: Any) -> Any:
        if isinstance(failure, Exception):
            raise failure
        return refused(failure) if isinstance(failure, int) else failure

    path, arguments = ("/items/1", {"id": "1"}) if tool == "item" else ("/checks", {"order": "1"})
    service.hooks[path] = fails
    if failure == "refused connection":
        down(domain, "127.0.0.1:9002")
    agent = await domain.agent()
    answer = await agent.call(tool, arguments)
    assert (answer.status_code, code(answer)) == (status, problem)
    assert "oops" not in answer.text
    assert (await spent(agent))["tool_calls"] == spends
    head = await domain.state.read(agent.task, "head")
    assert head is not None
    last = head["last"]
    assert isinstance(last, dict)
    assert last[tool] == ends
    assert code(await agent.call("pay", {"order": "1", "amount": 1})) == "prerequisite_missing"


async def test_a_tool_that_hangs_is_cut_at_its_own_time(domain: Domain, service: Any) -> None:
    async def hangs(body: Any) -> None:
        await asyncio.sleep(30)

    service.hooks["/pay"] = hangs
    agent = await domain.agent(workflow="many")
    answer = await agent.call("brief", {"amount": 1})
    assert (answer.status_code, code(answer)) == (504, "upstream_timeout")
    assert (await row(agent, "action"))["status"] == "unknown", "a POST may have taken effect"
