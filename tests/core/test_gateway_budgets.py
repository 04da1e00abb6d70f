"""What a task may spend: each account refuses by itself, and waits while money may come back."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from buspass.testing.house import Agent, Domain

BOUND = len("rolecontentuserhello") + 256 + 16 + 100
"""Tokens that `agent.chat()` may need: what is sent in bytes, overhead, and the alias's max_output."""
DEAREST = BOUND - 100 + 100 * 10
"""The same in micro-dollars at the first provider's price."""


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


def problem(response: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    return document.get("error", document)


class Gate:
    """Holds every request that comes until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def __call__(self, body: Any) -> Response | None:
        self.waiting += 1
        await self.opened.wait()
        return None

    async def until(self, number: int) -> None:
        """Return once so many requests wait here."""
        async with asyncio.timeout(60):
            while self.waiting < number:
                await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("limits", "limit", "needed", "left"),
    [
        ({"tokens": BOUND - 1}, "tokens", BOUND, BOUND - 1),
        ({"cost": (DEAREST - 1) / 1e6}, "cost", DEAREST / 1e6, (DEAREST - 1) / 1e6),
        ({"calls": 0}, "calls", 1, 0),
        ({"model_calls": 0}, "model_calls", 1, 0),
    ],
)
async def test_a_call_that_may_cost_more_than_is_left_is_not_sent(
    domain: Domain, limits: dict[str, float], limit: str, needed: float, left: float
) -> None:
    agent = await domain.agent(budget=limits)
    answer = await agent.chat()
    assert answer.status_code == 402
    found = problem(answer)
    assert (found["code"], found["limit"], found["needed"], found["left"]) == ("budget_exhausted", limit, needed, left)
    assert answer.headers["x-should-retry"] == "false"
    assert not domain.provider.requests


@pytest.mark.parametrize("limits", [{"tokens": BOUND}, {"cost": DEAREST / 1e6}, {"calls": 1}, {"model_calls": 1}])
async def test_a_call_that_fits_to_the_last_unit_is_sent(domain: Domain, limits: dict[str, float]) -> None:
    agent = await domain.agent(budget=limits)
    assert (await agent.chat()).status_code == 200
    if "calls" in str(limits):
        assert (await agent.chat()).status_code == 402


@pytest.mark.parametrize("limits", [{"tool_calls": 1}, {"calls": 1}])
async def test_tool_calls_are_counted_like_money(domain: Domain, limits: dict[str, int]) -> None:
    agent = await domain.agent(budget=limits)
    assert (await agent.call("item", {"id": "1"})).status_code == 200
    answer = await agent.call("item", {"id": "1"})
    assert answer.status_code == 402
    assert problem(answer)["limit"] == next(iter(limits))


async def test_tool_calls_leave_the_models_calls_alone(domain: Domain) -> None:
    agent = await domain.agent(budget={"tool_calls": 1, "model_calls": 1})
    assert (await agent.call("item", {"id": "1"})).status_code == 200
    assert (await agent.chat()).status_code == 200


async def test_the_clients_own_limit_makes_a_call_cheaper(domain: Domain) -> None:
    agent = await domain.agent(budget={"tokens": BOUND - 1})
    assert (await agent.chat()).status_code == 402
    assert (await agent.chat(max_completion_tokens=99)).status_code == 200
    assert domain.provider.requests[0].body["max_completion_tokens"] == 99


async def test_the_aliass_limit_is_sent_where_the_client_sends_none(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat()
    assert domain.provider.requests[0].body["max_completion_tokens"] == 100


async def test_what_is_held_by_calls_in_flight_is_waited_for_and_then_429(domain: Domain, service: Any) -> None:
    await (await domain.agent()).call("item", {"id": "1"})  # the service is known to answer
    service.hooks["/checks"] = gate = Gate()
    agent = await domain.agent(workflow="many", budget={"tool_calls": 1})
    first = asyncio.create_task(agent.call("check", {"order": "1"}))
    await gate.until(1)
    second = await agent.call("check", {"order": "2"})
    assert (second.status_code, code(second)) == (429, "budget_held")
    assert int(second.headers["retry-after"]) >= 1
    assert "x-should-retry" not in second.headers
    gate.opened.set()
    assert (await first).status_code == 200
    assert code(await agent.call("check", {"order": "2"})) == "budget_exhausted", "now it is really gone"
    assert len(service.got("/checks")) == 1


async def test_money_that_comes_back_while_a_call_waits_is_taken(domain: Domain, upstream: Any) -> None:
    gate = Gate()
    upstream.script.append(gate)
    agent = await domain.agent(budget={"tokens": 600})
    first = asyncio.create_task(agent.chat(model="backed"))
    await gate.until(1)
    second = asyncio.create_task(agent.chat())
    await asyncio.sleep(0.02)
    assert not second.done()
    gate.opened.set()
    assert [(await first).status_code, (await second).status_code] == [200, 200]


async def test_the_sixty_fifth_call_in_flight_is_one_too_many(domain: Domain, service: Any) -> None:
    agent = await domain.agent(workflow="many")
    await agent.call("item", {"id": "1"})  # the service is known to answer
    service.hooks["/checks"] = gate = Gate()
    calls = [asyncio.create_task(agent.call("check", {"order": str(n)})) for n in range(64)]
    await gate.until(64)
    answer = await agent.call("check", {"order": "65"})
    assert (answer.status_code, code(answer)) == (429, "too_many_in_flight")
    assert (await agent.get()).json()["budget"]["held"]["tool_calls"] == 64
    gate.opened.set()
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    assert (await agent.call("check", {"order": "65"})).status_code == 200


async def test_parallel_calls_never_spend_more_than_the_limit(domain: Domain) -> None:
    agent = await domain.agent(budget={"calls": 40})
    there = await domain.at("aws", agent)
    answers = await asyncio.gather(*(who.chat() for who in [agent, there] * 60))
    assert sorted({answer.status_code for answer in answers}) in ([200, 402], [200, 402, 429])
    assert sum(answer.status_code == 200 for answer in answers) == len(domain.provider.requests) == 40
    found = (await agent.get()).json()["budget"]
    assert (found["spent"]["calls"], found["available"]["calls"], found["held"]["calls"]) == (40, 0, 0)


async def test_a_task_whose_time_is_over_takes_no_call(domain: Domain) -> None:
    agent = await domain.agent(budget={"wall": 60})
    assert agent.document["budget"]["limits"]["wall"] == 60
    domain.clock.advance(59)  # type: ignore[attr-defined]  # the clock of a test
    assert (await agent.chat()).status_code == 200
    domain.clock.advance(2)  # type: ignore[attr-defined]
    answer = await agent.chat()
    assert (answer.status_code, code(answer)) == (403, "task_expired")
    assert len(domain.provider.requests) == 1


async def test_the_five_budgets_add_up_while_calls_are_in_flight(domain: Domain, service: Any) -> None:
    service.hooks["/checks"] = gate = Gate()
    agent: Agent = await domain.agent()
    await agent.chat()
    call = asyncio.create_task(agent.call("check", {"order": "1"}))
    await gate.until(1)
    found = (await agent.get()).json()["budget"]
    for name in ("tokens", "cost", "calls"):
        parts = sum(found[part][name] for part in ("spent", "held", "allocated", "available"))
        assert parts == pytest.approx(found["limits"][name], abs=1e-9), name
    assert (found["held"]["calls"], found["spent"]["calls"]) == (1, 1)
    gate.opened.set()
    await call
