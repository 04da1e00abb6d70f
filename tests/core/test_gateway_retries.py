"""Attempts of one call: the pause before a retry, the hold of each billable attempt, and how many there may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.ledger import Claim, Ledger
from buspass.model import Limits
from buspass.routing.retries import RESERVE, Retries
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.provider import Fault

HELD = len("rolecontentuserhello") + 256 + 16
"""The bound of the input; a hundred tokens of output come on top."""


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


async def rows(agent: Agent) -> list[dict[str, Any]]:
    trace: list[dict[str, Any]] = (await agent.get("/trace")).json()["records"]
    return [row for row in trace if row["kind"] in {"inference", "attempt"}]


async def spent(agent: Agent) -> dict[str, Any]:
    assert (await agent.get("/trace/verify")).json()["ok"]
    found: dict[str, Any] = (await agent.get()).json()["budget"]
    assert set(found["held"].values()) == {0}
    return dict(found["spent"])


@pytest.mark.parametrize("failure", [500, 503, 408, RuntimeError("cut")])
async def test_after_an_ambiguous_failure_the_next_target_is_asked_under_a_hold_of_its_own(
    domain: Domain, upstream: Any, failure: Any
) -> None:
    upstream.script.append(failure if isinstance(failure, Exception) else JSONResponse({}, failure))
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert answer.status_code == 200, answer.text
    assert (answer.headers["buspass-target"], answer.headers["buspass-attempts"]) == ("first/planner-1", "2")
    failed, call = sorted(await rows(agent), key=lambda row: row["kind"])
    assert (failed["kind"], failed["cause"], failed["estimated"]) == ("attempt", call["id"], True)
    assert (failed["status"], failed["code"], failed["target"]) == ("unknown", "upstream_error", "second/planner-1")
    assert failed["use"]["tokens"] == HELD + 100
    assert (call["status"], call["estimated"]) == ("succeeded", False)
    assert answer.headers["buspass-cost"] == f"{failed['cost'] + call['cost']:.6f}", "the sum of both"
    found = await spent(agent)
    assert (found["calls"], found["model_calls"]) == (1, 1), "it is one call"
    assert found["tokens"] == failed["use"]["tokens"] + call["use"]["tokens"]


async def test_a_target_whose_silence_does_not_count_is_free_before_the_next_attempts_hold(
    tmp_path: Path, upstream: Any, feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.first, flying, hold = False, [], Ledger.hold

    async def watched(ledger: Ledger, claim: Claim, wait: float) -> Any:
        memory = domain.apps["onprem"].house.breakers.memory
        flying.append([known.flying for key, known in memory.items() if key.name == "second/planner-1"])
        return await hold(ledger, claim, wait)

    monkeypatch.setattr(Ledger, "hold", watched)
    config = Path(__file__).parents[1] / "data" / "domain" / "streaming.yaml"
    limits = Limits(request_bytes=10**6, response_bytes=10**6, first_byte=1.1, total=60)  # too little to judge it by
    async with Domain(config, tmp_path, {"127.0.0.1:9003": upstream.app}, limits=limits) as domain:
        agent = await domain.agent()
        await agent.chat(model="spare", stream=True)
    assert flying[1:] == [[0]], "the second hold is taken when it is not asked any more"


async def test_without_money_for_another_attempt_there_is_none(domain: Domain, upstream: Any) -> None:
    upstream.script.append(JSONResponse({}, 500))
    agent = await domain.agent(budget={"tokens": 2 * (HELD + 100) - 1})
    answer = await agent.chat(model="backed")
    assert (code(answer), answer.headers["buspass-attempts"]) == ("upstream_error", "1")
    assert (await spent(agent))["tokens"] == HELD + 100
    assert not domain.provider.requests


async def test_when_the_second_attempt_fails_too_both_are_charged(domain: Domain, upstream: Any) -> None:
    upstream.script.append(JSONResponse({}, 500))
    domain.provider.faults.append(Fault(kind="error"))
    agent = await domain.agent()
    answer = await agent.chat(model="backed")
    assert (code(answer), answer.headers["buspass-attempts"]) == ("upstream_error", "2")
    assert (await spent(agent))["tokens"] == 2 * (HELD + 100)


async def test_when_the_second_attempt_surely_cost_nothing_only_the_first_is_charged(
    domain: Domain, upstream: Any
) -> None:
    upstream.script.append(JSONResponse({}, 500))
    domain.provider.faults.append(Fault(kind="rate_limited", seconds=30))
    agent = await domain.agent()
    assert code(await agent.chat(model="backed")) == "no_target_available"
    assert (await spent(agent))["tokens"] == HELD + 100


async def test_a_kill_between_two_attempts_keeps_the_second_from_being_sent(domain: Domain, upstream: Any) -> None:
    agent = await domain.agent()

    async def killed(body: Any) -> Any:
        await agent.post("kill", reason="enough")
        return JSONResponse({}, 500)

    upstream.script.append(killed)
    assert code(await agent.chat(model="backed")) == "upstream_error"
    assert not domain.provider.requests


async def test_one_key_gives_one_answer_however_many_attempts(domain: Domain, upstream: Any) -> None:
    upstream.script.append(JSONResponse({}, 500))
    agent = await domain.agent()
    headers = {"Idempotency-Key": "k"}
    first = await agent.chat(model="backed", headers=headers)
    again = await agent.chat(model="backed", headers=headers)
    assert (first.status_code, again.json()) == (200, first.json())
    assert again.headers["buspass-replayed"] == "true"
    assert len(domain.outbound.exchanges) == 2


@pytest.mark.parametrize("failure", ["refused connection", "429"])
async def test_a_single_target_is_asked_again_after_a_short_pause(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    pauses = []
    sleep = clock.sleep
    away: set[str] = domain.outbound.inner.down  # type: ignore[attr-defined]  # it is an AsgiOutbound

    async def pausing(seconds: float) -> None:
        pauses.append(seconds)
        away.clear()
        await sleep(seconds)

    monkeypatch.setattr(clock, "sleep", pausing)
    if failure == "429":
        domain.provider.faults.append(Fault(kind="rate_limited"))
    else:
        away.add("127.0.0.1:9001")
    agent = await domain.agent()
    answer = await agent.chat()
    assert answer.status_code == 200, answer.text
    assert answer.headers["buspass-attempts"] == "2"
    (pause,) = pauses
    assert 0.05 <= pause <= 0.1 or failure == "429"
    assert (await spent(agent))["calls"] == 1


async def test_a_retry_waits_as_long_as_it_was_asked_to_or_not_at_all(domain: Domain) -> None:
    agent = await domain.agent()
    domain.provider.faults.append(Fault(kind="rate_limited", seconds=3))
    before = domain.clock.now()
    answer = await agent.chat()
    assert (answer.status_code, answer.headers["buspass-attempts"]) == (200, "2")
    assert domain.clock.now() - before == 3000
    domain.clock.advance(60)  # type: ignore[attr-defined]
    domain.provider.faults.append(Fault(kind="rate_limited", seconds=6))
    before = domain.clock.now()
    answer = await agent.chat()
    assert (code(answer), answer.headers["retry-after"]) == ("no_target_available", "6")
    assert domain.clock.now() == before, "longer than five seconds after the hold nothing may be sent"


async def test_retries_are_a_share_of_all_dispatches(domain: Domain, upstream: Any) -> None:
    agent = await domain.agent(workflow="many")
    purse = domain.apps["onprem"].house.retries
    while purse.spend("backed"):
        pass
    upstream.script.append(JSONResponse({}, 429))
    assert code(await agent.chat(model="backed")) == "no_target_available"
    assert not domain.provider.requests
    for _ in range(5):
        await agent.chat(model="backed")
    upstream.script.append(JSONResponse({}, 429))
    assert (await agent.chat(model="backed")).headers["buspass-attempts"] == "2"


def test_a_purse_of_retries_fills_with_dispatches_and_no_further_than_its_reserve() -> None:
    purse = Retries()
    assert sum(purse.spend("plan") for _ in range(100)) == RESERVE
    for _ in range(10):
        purse.earn("plan", 0.2)
    assert [purse.spend("plan") for _ in range(3)] == [True, True, False]
    for _ in range(1000):
        purse.earn("plan", 0.2)
    assert sum(purse.spend("plan") for _ in range(100)) == RESERVE
