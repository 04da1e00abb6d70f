"""Rates on the one path: a tool's `rate` and a provider's `limits`, over all tasks and hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.provider import Fault


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document).get("code", response.status_code))


def clock_of(domain: Domain) -> FakeClock:
    assert isinstance(domain.clock, FakeClock)
    return domain.clock


@pytest.fixture
async def paced(tmp_path: Path, service: Any, upstream: Any, edited: Any) -> AsyncIterator[Domain]:
    """The domain with an item twice a second, and a provider of six requests a minute before one without limits."""
    changes = {
        "    description: An item.\n": "    description: An item.\n    rate: 2/s\n",
        "9003/v1, auth: none}": "9003/v1, auth: none, limits: {rpm: 6, tpm: 1000000}}",
    }
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(edited(changes), tmp_path, services) as domain:
        yield domain


async def test_a_tool_is_called_no_faster_than_its_rate_over_all_hosts(paced: Domain) -> None:
    agent = await paced.agent(workflow="many")
    there = await paced.at("aws", agent)
    begun = clock_of(paced).now()
    answers = await asyncio.gather(*(who.call("item", {"id": "1"}) for who in [agent, there] * 10))
    assert {answer.status_code for answer in answers} == {200}
    assert clock_of(paced).now() - begun == 9_500


async def test_who_would_wait_too_long_is_told_when_to_come_back(paced: Domain) -> None:
    agent = await paced.agent(workflow="many")
    house = paced.apps["onprem"].house
    pace = house.services["item"].pace
    assert pace is not None
    await house.rates.pause(pace, 40.0)
    before = clock_of(paced).now()
    last = await agent.call("item", {"id": "1"})
    assert code(last) == "rate_limited"
    assert clock_of(paced).now() == before, "at once"
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) >= 29
    assert last.headers["ratelimit-policy"] == '"item.calls";q=2;w=1'
    assert last.headers["ratelimit"].startswith('"item.calls";r=0;t=')
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_a_dead_service_costs_no_permits(paced: Domain) -> None:
    paced.outbound.inner.down.add("127.0.0.1:9002")  # type: ignore[attr-defined]  # it is an AsgiOutbound
    agent = await paced.agent(workflow="many")
    said = [code(await agent.call("item", {"id": "1"})) for _ in range(4)]
    assert said == ["upstream_error"] * 3 + ["circuit_open"]
    before = clock_of(paced).now()
    for _ in range(30):
        assert code(await agent.call("item", {"id": "1"})) == "circuit_open"
    assert clock_of(paced).now() == before


async def test_a_provider_whose_quota_is_used_up_leaves_the_call_to_the_next_target(
    paced: Domain, upstream: Any
) -> None:
    agent = await paced.agent()
    targets = [(await agent.chat(model="backed")).headers["buspass-target"] for _ in range(4)]
    assert targets == ["second/planner-1"] + ["first/planner-1"] * 3
    clock_of(paced).advance(10)
    assert (await agent.chat(model="backed")).headers["buspass-target"] == "second/planner-1"
    assert len(upstream.requests) == 2


async def test_a_model_of_one_provider_waits_for_its_quota(paced: Domain) -> None:
    agent = await paced.agent(workflow="unlimited")
    begun = clock_of(paced).now()
    for _ in range(3):
        assert (await agent.chat(model="dear")).status_code == 200
    assert clock_of(paced).now() - begun == 20_000


async def test_a_call_that_the_provider_turned_away_slows_all_hosts_down(paced: Domain, upstream: Any) -> None:
    agent = await paced.agent()
    upstream.script.append(busy())
    assert (await agent.chat(model="backed")).headers["buspass-target"] == "first/planner-1"
    clock_of(paced).advance(29)
    there = await paced.at("aws", agent)
    assert (await there.chat(model="backed")).headers["buspass-target"] == "first/planner-1"
    clock_of(paced).advance(1)
    assert (await there.chat(model="backed")).headers["buspass-target"] == "second/planner-1"
    clock_of(paced).advance(11)
    assert (await there.chat(model="backed")).headers["buspass-target"] == "first/planner-1", "half as fast"


def busy() -> Any:
    return JSONResponse({"error": {"message": "no"}}, 429, headers={"retry-after": "30"})


async def test_a_provider_without_limits_is_not_paced(paced: Domain) -> None:
    agent = await paced.agent()
    paced.provider.faults.append(Fault(kind="error"))
    for _ in range(20):
        await agent.chat()
    assert clock_of(paced).now() - 1_790_000_000_000 < 100
