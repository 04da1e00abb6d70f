"""Breakers on the one path: what reaches a service that does not work, what the agent is told, and when it is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from buspass.breakers import Breakers, Key
from buspass.ledger import Claim, Ledger
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain

PAGE = "<html><h1>404</h1> nothing to be found here, try another price"
HOST = "127.0.0.1:9002"


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document).get("code", response.status_code))


def clock_of(domain: Domain) -> FakeClock:
    assert isinstance(domain.clock, FakeClock)
    return domain.clock


def down(domain: Domain, *hosts: str) -> set[str]:
    found: set[str] = domain.outbound.inner.down  # type: ignore[attr-defined]  # it is an AsgiOutbound
    found.update(hosts)
    return found


async def breakers(domain: Domain) -> list[dict[str, Any]]:
    client = await domain.host()
    key = domain.apps["onprem"].house.operator_key
    answer = await client.get("/v1/breakers", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def vendor(domain: Domain) -> int:
    return sum(HOST in request.url for request in domain.outbound.requests)


DEAD = {
    "refuses": None,
    "a 404 page": HTMLResponse(PAGE, 404),
    "a page with 200": HTMLResponse(PAGE, 200),
    "a 503 page": HTMLResponse(PAGE, 503),
    "gone": JSONResponse({"error": "gone"}, 410),
    "truncated JSON": Response('{"price": 1', media_type="application/json"),
    "busy": JSONResponse({}, 429),
    "moved": Response("", 302, headers={"location": "http://127.0.0.1/login"}),
}


@pytest.mark.parametrize("how", DEAD)
@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
async def test_insistent_calls_from_two_hosts_reach_a_dead_vendor_at_most_five_times(
    domain: Domain, service: Any, monkeypatch: pytest.MonkeyPatch, how: str, at_once: bool
) -> None:
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 60)  # on a busy machine nobody takes it for slow
    if DEAD[how] is None:
        down(domain, HOST)
    else:
        service.answers["/checks"] = DEAD[how]
    agent = await domain.agent(workflow="many")
    elsewhere = await domain.at("aws", agent)
    now = clock_of(domain).now()

    async def insist(who: Agent, first: int) -> list[httpx.Response]:
        return [await who.call("check", {"order": f"offer {n}"}) for n in range(first, first + 15)]

    if at_once:
        some = await asyncio.gather(*(insist(who, n) for n, who in enumerate([agent, elsewhere] * 10)))
        answers = [answer for part in some for answer in part]
    else:
        answers = await insist(agent, 0) + await insist(elsewhere, 15)
    assert vendor(domain) <= 5
    assert {code(answer) for answer in answers} == {"upstream_error", "circuit_open"}
    for answer in answers:
        assert "<h1>" not in answer.text
        if "do not repeat it" in answer.text:  # a payment, say, that may have been made
            continue
        assert "tell the user" in answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["retry_at"] > "2026"
    last = answers[-1].json()
    assert "it was not called. Do not retry before" in last["detail"]
    assert last["upstream"]["kind"]
    assert clock_of(domain).now() == now


async def test_a_vendor_is_not_taken_for_slow_while_the_first_call_waits_for_its_hold(
    domain: Domain, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["/checks"] = DEAD["a 503 page"]
    agent = await domain.agent(workflow="many")
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 0)
    hold, enter, holds, waiting, stored = Ledger.hold, Breakers.enter, [], [], asyncio.Event()

    async def slowly(ledger: Ledger, claim: Claim, wait: float) -> Any:
        holds.append(claim.call)
        await stored.wait()
        return await hold(ledger, claim, wait)

    async def watched(breakers: Breakers, key: Key, **more: float) -> Any:
        waiting.append(key)
        return await enter(breakers, key, **more)

    monkeypatch.setattr(Ledger, "hold", slowly)
    monkeypatch.setattr(Breakers, "enter", watched)
    calls = [asyncio.create_task(agent.call("check", {"order": f"offer {n}"})) for n in range(10)]
    async with asyncio.timeout(30):
        while len(waiting) < 10:
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(holds) == 1
    monkeypatch.setattr("buspass.breakers.breakers.COLD", 60)
    stored.set()
    answers = await asyncio.gather(*calls)
    assert vendor(domain) == 3
    assert [code(answer) for answer in answers].count("circuit_open") == 7


async def test_what_is_refused_costs_nothing_and_suspends_nobody(domain: Domain) -> None:
    down(domain, HOST)
    agent = await domain.agent(workflow="many")
    for _ in range(80):
        await agent.call("item", {"id": "1"})
    found = (await agent.get()).json()
    assert found["status"] == "open"
    assert set(found["budget"]["spent"].values()) == {0}
    assert set(found["budget"]["held"].values()) == {0}
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_the_log_says_who_failed_and_how_and_the_agent_is_told_no_address(
    domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    down(domain, HOST, "127.0.0.1:9003", "127.0.0.1:9001")
    agent = await domain.agent(workflow="many")
    answers = [await agent.chat(model="backed"), await agent.call("item", {"id": "1"})]
    inference, action = (str(answer.json().get("error", answer.json())["call"]) for answer in answers)
    assert [each.getMessage() for each in caplog.records if each.name == "buspass.calls.upstreams"] == [
        f"call {inference}: second/planner-1, attempt 1: unreachable: nobody listens at 127.0.0.1:9003",
        f"call {inference}: first/planner-1, attempt 2: unreachable: nobody listens at 127.0.0.1:9001",
        f"call {action}: the service behind tool item: nobody listens at {HOST}",
    ]
    assert not any("127.0.0.1" in answer.text for answer in answers)


async def test_a_killed_agent_is_told_so_and_not_that_the_service_is_away(domain: Domain) -> None:
    down(domain, HOST)
    agent = await domain.agent(workflow="many")
    for _ in range(4):
        await agent.call("item", {"id": "1"})
    await (await domain.at("aws", agent)).post("kill", reason="enough")
    assert code(await agent.call("item", {"id": "1"})) == "task_killed"


async def test_when_the_vendor_is_back_who_kept_to_the_time_finishes(domain: Domain) -> None:
    away = down(domain, HOST)
    agent = await domain.agent(workflow="many")
    while code(answer := await agent.call("item", {"id": "1"})) != "circuit_open":
        pass
    away.clear()
    clock_of(domain).advance(int(answer.headers["retry-after"]) - 1.5)
    assert code(await agent.call("item", {"id": "1"})) == "circuit_open"
    clock_of(domain).advance(1.5)
    for _ in range(5):
        assert (await agent.call("item", {"id": "1"})).status_code == 200
    trace = (await agent.get("/trace")).json()["records"]
    changes = [row["breaker"].partition(": ")[2].partition(" until")[0] for row in trace if "breaker" in row]
    assert changes == ["suspect", "open", "recovering", "closed"]


async def test_one_tasks_wrong_address_is_no_other_tasks_trouble(domain: Domain, service: Any) -> None:
    service.answers["/items/1"] = HTMLResponse(PAGE, 404)
    wrong, right = await domain.agent(workflow="many"), await domain.agent(workflow="many")
    for _ in range(10):
        await wrong.call("item", {"id": "1"})
    assert vendor(domain) == 3
    assert code(await wrong.call("check", {"order": "1"})) == "circuit_open", "of this service, whatever the tool"
    assert (await right.call("item", {"id": "2"})).status_code == 200
    rows = {(row["breaker"], row["name"]): row for row in await breakers(domain)}
    assert rows["tool", HOST]["state"] == "closed"
    assert (rows["task", HOST]["state"], rows["task", HOST]["task"]) == ("open", wrong.task)


@pytest.mark.parametrize(
    "answer", [JSONResponse({"error": "no"}, 400), JSONResponse({"error": "no"}, 403), JSONResponse({"approved": 7})]
)
async def test_a_service_that_answers_is_not_broken_whatever_it_answers(
    domain: Domain, service: Any, answer: Response
) -> None:
    service.answers["/checks"] = answer
    agent = await domain.agent(workflow="many")
    for _ in range(10):
        found = await agent.call("check", {"order": "1"})
        assert code(found) == "upstream_error"
        assert "retry-after" not in found.headers
    assert vendor(domain) == 10


async def test_an_action_that_may_have_taken_effect_is_not_to_be_repeated(domain: Domain, service: Any) -> None:
    service.answers["/pay"] = JSONResponse({}, 500)
    agent = await domain.agent(workflow="many")
    await agent.call("check", {"order": "1"})
    answer = await agent.call("pay", {"order": "1", "amount": 1})
    assert code(answer) == "upstream_error"
    assert "do not repeat it" in answer.text
    assert "retry_at" not in answer.json()


async def test_a_larger_answer_than_the_tool_takes_never_comes_in(domain: Domain, service: Any) -> None:
    service.answers["/items/1"] = JSONResponse({"text": "x" * 1_100_000})
    agent = await domain.agent(workflow="many")
    answer = await agent.call("item", {"id": "1"})
    assert (code(answer), answer.json()["upstream"]) == ("upstream_error", {"kind": "too_large"})
    assert "more than 1000000 bytes" in answer.json()["detail"]


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_target_is_passed_over_and_asked_again_when_its_time_is_over(
    domain: Domain, upstream: Any
) -> None:
    away = down(domain, "127.0.0.1:9003")
    agent = await domain.agent(workflow="many")
    tried = [(await agent.chat(model="backed")).headers["buspass-attempts"] for _ in range(6)]
    assert tried == ["2", "2", "2", "1", "1", "1"]
    away.clear()
    clock_of(domain).advance(31)
    answer = await agent.chat(model="backed")
    assert (answer.headers["buspass-target"], answer.headers["buspass-attempts"]) == ("second/planner-1", "1")
    assert len(upstream.requests) == 1


async def test_a_provider_that_moved_is_not_held_off_by_what_its_old_address_came_to(
    domain: Domain, tmp_path: Path, upstream: Any, edited: Any
) -> None:
    down(domain, "127.0.0.1:9003")
    agent = await domain.agent(workflow="many")
    tried = [(await agent.chat(model="backed")).headers["buspass-attempts"] for _ in range(4)]
    assert tried == ["2", "2", "2", "1"], "the old address's breaker is open, in the store"
    moved = edited({"127.0.0.1:9003/v1": "127.0.0.1:9005/v1"})
    services = {"127.0.0.1:9005": upstream.app}
    async with Domain(moved, tmp_path / "moved", services, clock=domain.clock, state=domain.state.inner) as after:
        answer = await (await after.agent(workflow="many")).chat(model="backed")
    assert (answer.headers["buspass-target"], answer.headers["buspass-attempts"]) == ("second/planner-1", "1")


async def test_when_no_target_is_left_it_says_until_when(domain: Domain) -> None:
    down(domain, "127.0.0.1:9003", "127.0.0.1:9001")
    agent = await domain.agent(workflow="many")
    answers = [await agent.chat(model="backed") for _ in range(30)]
    assert len(domain.outbound.requests) <= 6
    assert {code(answer) for answer in answers} == {"no_target_available"}
    last = answers[-1]
    assert last.status_code == 503
    assert int(last.headers["retry-after"]) == 30
    assert "Do not retry before" in last.text
    assert set((await agent.get()).json()["budget"]["spent"].values()) == {0}


async def test_a_model_that_answers_with_a_web_page_is_broken_too(domain: Domain, upstream: Any) -> None:
    upstream.script.extend(HTMLResponse(PAGE, 200) for _ in range(10))
    agent = await domain.agent(workflow="many")
    answers = [await agent.chat(model="once") for _ in range(10)]
    assert len(upstream.requests) == 3
    assert all("<h1>" not in answer.text for answer in answers)
    assert [code(answer) for answer in answers] == ["upstream_error"] * 3 + ["200"] * 7


async def test_a_target_that_says_when_to_come_back_is_left_alone_until_then(domain: Domain, upstream: Any) -> None:
    upstream.script.append(JSONResponse({}, 429, headers={"retry-after": "20"}))
    agent = await domain.agent()
    for _ in range(5):
        assert (await agent.chat(model="backed")).headers["buspass-target"] == "first/planner-1"
    assert len(upstream.requests) == 1
    clock_of(domain).advance(20)
    assert (await agent.chat(model="backed")).headers["buspass-target"] == "second/planner-1"


async def test_only_operators_see_the_breakers(domain: Domain) -> None:
    agent = await domain.agent()
    answer = await agent.client.get("/v1/breakers", headers=agent.headers)
    assert code(answer) == "denied"
    rows = await breakers(domain)
    assert {row["state"] for row in rows} == {"closed"}
    assert {(row["breaker"], row["name"]) for row in rows} >= {("model", "first/planner-1"), ("tool", HOST)}
