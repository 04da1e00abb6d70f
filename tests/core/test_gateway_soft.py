"""The soft limit: told in a header, once in the journal, and to models that are to be told; it refuses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.calls.soft import past
from buspass.ledger import new_head
from buspass.model import Ask
from buspass.surfaces import anthropic_messages, openai_chat
from buspass.surfaces.wrap_up import with_system
from buspass.testing.house import Agent, Domain

DATA = Path(__file__).parents[1] / "data" / "domain"
HINT = "Most of your budget is spent. Finish with what you have."
LIMITED = "budget: {tokens: 100000, cost: 1.00, calls: 100, wall: 10m, wait: 20s}"


@pytest.fixture
async def told(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    """The usual domain with a soft limit of half, and a hint."""
    (tmp_path / "policies").symlink_to(DATA / "policies")
    text = (DATA / "buspass.yaml").read_text("utf-8")
    assert LIMITED in text
    more = f'{LIMITED[:-1]}, soft: 50%, wrap_up: "{HINT}"}}'
    (tmp_path / "buspass.yaml").write_text(text.replace(LIMITED, more), "utf-8")
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(tmp_path / "buspass.yaml", tmp_path, services) as domain:
        yield domain


async def entries(agent: Agent) -> list[Mapping[str, Any]]:
    """The journal's entries of soft limits; the journal must be whole."""
    verdict = (await agent.get("/trace/verify")).json()
    assert verdict["ok"], verdict
    return [row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "soft_limit"]


def soft(answer: httpx.Response) -> str | None:
    value: str | None = answer.headers.get("buspass-budget-soft")
    return value


async def test_from_four_fifths_on_every_answer_says_it_and_the_journal_once(domain: Domain) -> None:
    agent = await domain.agent(budget={"calls": 6})
    said = [soft(await agent.chat()) for _ in range(4)]
    assert said == [None] * 4, "four of six are less than 80%"
    assert await entries(agent) == []
    answer = await agent.call("item", {"id": "1"})
    assert (answer.status_code, soft(answer)) == (200, "calls=83%")
    answer = await agent.chat()
    assert (answer.status_code, soft(answer)) == (200, "calls=100%")
    (entry,) = await entries(agent)
    assert (entry["name"], entry["host"]) == ("calls", "onprem")
    assert entry["detail"] == "83% of the task's calls is spent; the soft limit is 80%"
    assert (await agent.chat()).status_code == 402


async def test_each_account_has_its_own_entry(told: Domain) -> None:
    agent = await told.agent(budget={"model_calls": 2, "calls": 4, "tool_calls": 2})
    assert soft(await agent.chat()) == "model_calls=50%"
    assert soft(await agent.call("item", {"id": "1"})) == "calls=50%, model_calls=50%, tool_calls=50%"
    assert {row["name"] for row in await entries(agent)} == {"calls", "model_calls", "tool_calls"}


async def test_calls_that_cross_it_together_at_two_hosts_leave_one_entry(domain: Domain) -> None:
    agent = await domain.agent(budget={"calls": 20})
    there = await domain.at("aws", agent)
    answers = await asyncio.gather(*(who.chat() for who in [agent, there] * 10))
    assert {answer.status_code for answer in answers} == {200}
    assert [row["name"] for row in await entries(agent)] == ["calls"]


async def test_an_entry_that_a_crash_left_uncounted_is_counted_once(domain: Domain) -> None:
    agent = await domain.agent(budget={"calls": 5})
    house = domain.apps["onprem"].house
    record = {
        "kind": "soft_limit",
        "name": "calls",
        "host": "onprem",
        "at": domain.clock.now(),
        "use": {},
        "attempt": "",
    }
    before = await domain.state.read(agent.task, "head")
    await house.ledger.mark(agent.task, "soft", "calls", record)
    await house.ledger.mark(agent.task, "soft", "calls", record)
    after = await domain.state.read(agent.task, "head")
    assert before is not None
    assert after is not None
    assert int(str(after["entries"])) == int(str(before["entries"])) + 1
    for _ in range(5):
        await agent.chat()
    assert len(await entries(agent)) == 1


async def test_an_entry_that_could_not_be_written_is_written_after_the_next_call(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await domain.agent(budget={"calls": 5})
    for _ in range(3):
        await agent.chat()
    house = domain.apps["onprem"].house
    mark = house.ledger.mark

    async def away(*_: Any) -> None:
        from buspass.errors import Problem  # noqa: PLC0415

        raise Problem("state_unavailable", "the store is away")

    monkeypatch.setattr(house.ledger, "mark", away)
    answer = await agent.chat()
    assert (answer.status_code, soft(answer)) == (200, "calls=80%")
    assert await entries(agent) == []
    monkeypatch.setattr(house.ledger, "mark", mark)
    await agent.chat()
    assert len(await entries(agent)) == 1


async def test_what_is_only_held_does_not_count(domain: Domain) -> None:
    head = new_head(limits={"tokens": 100}, expires_at=0, max_calls={})
    held = {"amounts": {"tokens": 90}}
    assert past({**head, "available": {**head["available"], "tokens": 10}, "open": {"k": held}}, 0.8) == {}  # type: ignore[dict-item]
    assert past({**head, "available": {**head["available"], "tokens": 10}}, 0.8) == {"tokens": 90}  # type: ignore[dict-item]
    assert past({**head, "available": {**head["available"], "tokens": -10}}, 0.8) == {"tokens": 110}  # type: ignore[dict-item]
    assert past({**head, "limits": {}}, 0.0) == {}


async def test_a_stream_says_it_in_its_last_event(streaming: Domain) -> None:
    agent = await streaming.agent(budget={"calls": 1})
    answer = await agent.chat(stream=True)
    last = json.loads([line for line in answer.text.splitlines() if line.startswith("data: {")][-1][6:])
    assert last["buspass"]["budget_soft"] == "calls=100%"


# ── what the model is told ──


async def test_the_next_inferences_tell_the_model_in_the_system_message(told: Domain) -> None:
    agent = await told.agent(budget={"calls": 4})
    for _ in range(2):
        await agent.chat()
        assert HINT not in json.dumps(told.provider.requests[-1].body)
    for _ in range(2):
        assert (await agent.chat()).status_code == 200
        assert told.provider.requests[-1].body["messages"] == [
            {"role": "system", "content": HINT},
            {"role": "user", "content": "hello"},
        ]


async def test_the_hint_is_paid_for_like_everything_that_is_sent(told: Domain) -> None:
    plain = len("rolecontentuserhello") + 256 + 16 + 100
    agent = await told.agent(budget={"tokens": 2 * plain, "calls": 3})
    for _ in range(2):
        answer = await agent.chat()
        assert answer.status_code == 200
    left = int(answer.headers["buspass-budget-remaining"].split("tokens=")[1].split(",")[0])
    assert left < 2 * plain
    refused = await agent.chat(max_completion_tokens=max(left - (plain - 100), 1))
    assert refused.status_code == 402, "without the hint it would have fitted to the last token"


@pytest.mark.parametrize(
    ("surface", "payload", "expected"),
    [
        (openai_chat.NAME, {"messages": []}, {"messages": [{"role": "system", "content": HINT}]}),
        (
            openai_chat.NAME,
            {"messages": [{"role": "developer", "content": "Be kind."}]},
            {"messages": [{"role": "developer", "content": f"Be kind.\n\n{HINT}"}]},
        ),
        (
            openai_chat.NAME,
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}]},
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": HINT}],
                    }
                ]
            },
        ),
        (anthropic_messages.NAME, {"messages": []}, {"messages": [], "system": HINT}),
        (
            anthropic_messages.NAME,
            {"messages": [], "system": "Be kind."},
            {"messages": [], "system": f"Be kind.\n\n{HINT}"},
        ),
        (
            anthropic_messages.NAME,
            {"messages": [], "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]},
            {
                "messages": [],
                "system": [
                    {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": HINT},
                ],
            },
        ),
    ],
)
def test_it_stands_behind_what_the_system_message_says(
    surface: str, payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps(payload)
    ask = Ask(
        surface=surface,
        model="m",
        payload=payload,
        tools=(),
        n=1,
        max_output=None,
        input_bytes=10,
        messages=1,
        metadata={},
    )
    found = with_system(ask, HINT)
    assert found.payload == expected
    assert found.input_bytes >= 10 + len(HINT)
    assert json.dumps(payload) == before


# ── every limit of the table ──


async def test_wall_ends_a_task_whatever_it_still_may_spend(domain: Domain) -> None:
    agent = await domain.agent(budget={"wall": 60})
    domain.clock.advance(59)  # type: ignore[attr-defined]  # the tests' clock
    answer = await agent.chat()
    assert answer.headers["buspass-budget-remaining"].endswith("wall=1")
    domain.clock.advance(1)  # type: ignore[attr-defined]
    answer = await agent.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "task_expired")
    assert len(domain.provider.requests) == 1
