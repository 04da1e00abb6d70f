"""What providers say of a quota in their headers lowers the rate that all hosts share, at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from buspass.providers.quotas import Quota, quotas
from buspass.rates import Pace, Rates
from buspass.rates.pace import SECOND, Limit
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.provider import echo
from buspass.testing.provider_wire import completion
from buspass.testing.state_counting import Counting
from buspass.testing.state_memory import MemoryState

ANSWERED = "Thu, 20 Nov 2026 12:00:00 GMT"


def openai(left: str, whole: str = "60", reset: str = "30s", of: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{of}": whole, f"x-ratelimit-remaining-{of}": left, f"x-ratelimit-reset-{of}": reset,
    }  # fmt: skip


def anthropic(left: str, reset: str, of: str = "tokens") -> dict[str, str]:
    names = {"limit": "100", "remaining": left, "reset": reset}
    return {"date": ANSWERED, **{f"anthropic-ratelimit-{of}-{part}": value for part, value in names.items()}}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (openai("59", reset="1s"), Quota(kind="requests", left=59, whole=60, seconds=1)),
        (openai("5", reset="6m0s", of="tokens"), Quota(kind="tokens", left=5, whole=60, seconds=360)),
        (openai("5", reset="12ms"), Quota(kind="requests", left=5, whole=60, seconds=0.012)),
        (openai("0", reset="1m2.5s"), Quota(kind="requests", left=0, whole=60, seconds=62.5)),
        (openai("0", reset="9h0m0s"), Quota(kind="requests", left=0, whole=60, seconds=3600)),
        (anthropic("7", "2026-11-20T12:00:20Z"), Quota(kind="tokens", left=7, whole=100, seconds=20)),
        (anthropic("7", "2026-11-20T12:00:20Z", "input-tokens"), Quota(kind="tokens", left=7, whole=100, seconds=20)),
        (anthropic("7", "2026-11-20T11:59:00Z", "requests"), Quota(kind="requests", left=7, whole=100, seconds=0)),
        ({}, None),
        (openai("many"), None),
        (openai("-1"), None),
        (openai("1", whole="0"), None),
        (openai("1", reset="soon"), None),
        (openai("1", reset="1s soon"), None),
        (openai("1", reset=""), None),
        (anthropic("1", "tomorrow"), None),
        (anthropic("1", "2026-11-20T12:00:20"), None),
        ({**anthropic("1", "2026-11-20T12:00:20Z"), "date": "x"}, None),
    ],
)
def test_headers_are_read_as_the_providers_write_them(headers: Mapping[str, str], found: Quota | None) -> None:
    assert list(quotas(headers)) == ([found] if found else [])


PACE = Pace(name="provider:p", shown="p", limits={"requests": Limit(amount=10, period=SECOND)})
ONE = {"requests": 1}


async def test_what_one_host_hears_slows_the_other_down_and_heals_within_a_minute() -> None:
    clock, state = FakeClock(), Counting(MemoryState())
    here, there = Rates(state, clock), Rates(state, clock)
    await there.take(PACE, ONE, 60)
    await here.brake(PACE, "requests", 0.25, 2.0)

    async def ten() -> int:
        begun = clock.now()
        for _ in range(10):
            await there.take(PACE, ONE, 60)
        return clock.now() - begun

    assert 5_000 < await ten() <= 5_600, "two seconds of rest, then a quarter of the rate, which is healing"
    clock.advance(60)
    assert await ten() <= 1_000


async def test_what_changes_next_to_nothing_is_not_written() -> None:
    clock, state = FakeClock(), Counting(MemoryState())
    host = Rates(state, clock)
    await host.brake(PACE, "requests", 0.5, 0.0)
    writes = state.count.writes
    for left in (0.5, 0.49, 0.6, 1.0):
        await host.brake(PACE, "requests", left, 0.0)
    assert state.count.writes == writes
    await host.brake(PACE, "requests", 0.3, 0.0)
    assert state.count.writes == writes + 1


@pytest.fixture
async def paced(tmp_path: Path, service: Any, upstream: Any, edited: Any) -> AsyncIterator[Domain]:
    """The domain whose second provider has six hundred requests a minute, before one without limits."""
    changes = {"9003/v1, auth: none}": "9003/v1, auth: none, limits: {rpm: 600}}"}
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(edited(changes), tmp_path, services) as domain:
        yield domain


def saying(headers: Mapping[str, str]) -> Any:
    async def answer(body: Any) -> Response:
        return JSONResponse(completion(body, echo), headers=dict(headers))

    return answer


@pytest.mark.parametrize(
    ("headers", "waits"),
    [(openai("0"), True), (anthropic("0", "2026-11-20T12:01:40Z", "requests"), True), (openai("30"), False)],
    ids=["openai", "anthropic", "enough is left"],
)
async def test_a_quota_that_is_used_up_is_heeded_by_every_host_before_a_429(
    paced: Domain, upstream: Any, headers: Mapping[str, str], waits: bool
) -> None:
    agent = await paced.agent()
    there = await paced.at("aws", agent)
    upstream.script.append(saying(headers))
    assert (await agent.chat(model="backed")).headers["buspass-target"] == "second/planner-1"
    assert isinstance(paced.clock, FakeClock)
    paced.clock.advance(0.11)
    answer = await there.chat(model="backed")
    assert answer.headers["buspass-target"] == ("first/planner-1" if waits else "second/planner-1")
    paced.clock.advance(3)
    assert (await there.chat(model="backed")).headers["buspass-target"] == "second/planner-1", "one permit is back"
    paced.clock.advance(0.11)
    answer = await agent.chat(model="backed")
    assert answer.headers["buspass-target"] == ("first/planner-1" if waits else "second/planner-1"), "slowly"


async def test_a_store_that_is_away_costs_nobody_an_answer(paced: Domain, upstream: Any) -> None:
    agent = await paced.agent()
    house = paced.apps["onprem"].house
    upstream.script.append(saying(openai("0")))
    away = False

    async def fail(*_: Any) -> None:
        nonlocal away
        away = True
        from buspass.errors import Problem  # noqa: PLC0415 - said where it is raised

        raise Problem("state_unavailable", "away")

    house.rates.brake = fail  # type: ignore[method-assign]  # the store, at this one moment
    assert (await agent.chat(model="backed")).status_code == 200
    assert away
