"""A stream through the gateway: what comes when, what it costs, and what its tool calls are worth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from buspass.model import Limits
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.provider_stream import frame
from buspass.testing.provider_wire import completion

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TEXT = "say these few words again"
PAIRS = [(path, model) for path in (CHAT, MESSAGES) for model in ("plan", "claude")]
by_pair = pytest.mark.parametrize(("path", "model"), PAIRS)
by_path = pytest.mark.parametrize("path", [CHAT, MESSAGES])


def words(events: list[Any]) -> str:
    """The text that these events bring, in either format."""
    said = []
    for event in events:
        if isinstance(event, dict):
            said += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
            said.append(event.get("delta", {}).get("text", ""))
    return "".join(said)


def told(events: list[Any]) -> dict[str, Any]:
    """The member `buspass`, which the last data event alone carries."""
    data = [event for event in events if event != "[DONE]"]
    assert all("buspass" not in event for event in data[:-1])
    return dict(data[-1]["buspass"])


@by_pair
async def test_a_stream_begins_with_the_headers_that_can_be_known(
    streaming: Domain, listen: Any, path: str, model: str
) -> None:
    agent = await streaming.agent()
    async with listen(agent, path=path, model=model) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["buspass-task"] == agent.task
        assert stream.headers["buspass-attempts"] == "1"
        assert stream.headers["buspass-target"].startswith({"plan": "first/", "claude": "claude/"}[model])
        assert "hold;dur=" in stream.headers["server-timing"]
        assert not {"content-length", "buspass-cost", "buspass-budget-remaining"} & set(stream.headers)


@by_pair
async def test_all_that_was_said_arrives_under_the_agents_name_for_the_model(
    streaming: Domain, listen: Any, books: Any, path: str, model: str
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, path=path, model=model) as stream:
        events = await stream.rest()
    assert words(events) == TEXT
    assert {event["model"] for event in events if "model" in event} <= {model}
    assert b"planner-1" not in stream.all.replace(told(events)["target"].encode(), b""), "targets have their own place"
    assert (events[-1] == "[DONE]") is (path == CHAT)
    (record,) = await books(agent).calls()
    assert (record["status"], record["thought"], record["estimated"]) == ("succeeded", TEXT, False)


@by_path
async def test_events_leave_as_they_come(streaming: Domain, listen: Any, feed: Any, path: str) -> None:
    agent = await streaming.agent()
    async with listen(agent, "one two three four five six seven", model="fed", path=path) as stream:
        heard = [await stream.event()]
        for _ in range(2):
            before = words(heard)
            await feed.give(1)
            while words(heard) == before:
                heard.append(await stream.event())
        assert words(heard) == "one two three four five "
        assert len(feed.frames) == 4, "the provider has not said more than this"


@by_pair
async def test_the_settle_precedes_the_last_event(
    streaming: Domain, listen: Any, books: Any, path: str, model: str
) -> None:
    agent = await streaming.agent()
    held: list[tuple[bool, int]] = []

    async def look(piece: bytes) -> None:
        held.append((b'"buspass"' in piece, await books(agent).held()))

    stream = listen(agent, TEXT, path=path, model=model)
    stream.before = look
    async with stream:
        last = told(await stream.rest())
    assert held[-1] == (True, 0), "settled when the last event leaves"
    assert len(held) > 2
    assert set(held[:-1]) == {(False, 1)}, "and held until then"
    (record,) = await books(agent).calls()
    assert last["cost"] == f"{record['cost']:.6f}"
    assert (last["task"], last["call"]) == (agent.task, record["id"])
    assert (last["target"], last["attempts"]) == (record["target"], "1")
    left = record["left"]
    assert last["budget_remaining"].startswith(f"tokens={left['tokens']}, cost={left['cost']}, calls={left['calls']}")


async def test_a_stream_costs_what_the_same_answer_costs_whole(streaming: Domain, listen: Any, books: Any) -> None:
    agent = await streaming.agent()
    for path, model in PAIRS:
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": TEXT}]}
        whole = await agent.client.post(path, json=body, headers=agent.headers)
        assert whole.status_code == 200, whole.text
        async with listen(agent, TEXT, path=path, model=model, max_tokens=50) as stream:
            assert told(await stream.rest())["cost"] == whole.headers["buspass-cost"]
    assert len(await books(agent).calls()) == 2 * len(PAIRS)


@pytest.mark.parametrize("model", ["plan", "claude"])
@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_hidden_unless_it_is_asked_for(
    streaming: Domain, listen: Any, books: Any, model: str, asked: bool
) -> None:
    agent = await streaming.agent()
    options = {"stream_options": {"include_usage": True}} if asked else {}
    async with listen(agent, TEXT, model=model, **options) as stream:
        events = await stream.rest()
    shown = [event["usage"] for event in events if isinstance(event, dict) and event.get("usage")]
    assert len(shown) == asked
    (record,) = await books(agent).calls()
    assert not record["estimated"], "the gateway counts all the same"
    if asked:
        assert shown[0]["total_tokens"] == record["use"]["tokens"]
        assert events[-2]["choices"] == [], "in an event of its own"
    if model == "plan":
        assert streaming.provider.requests[0].body["stream_options"] == {"include_usage": True}


# ── tool calls ──────────────────────────────────────────────────────────────────────────────────────────────────────


def asks_for_item(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"content": None, "tool_calls": [{"name": "item", "arguments": {"id": "7"}}]}


@by_pair
async def test_a_tool_call_in_a_stream_is_a_licence_for_one_action(
    streaming: Domain, listen: Any, books: Any, claude: Any, path: str, model: str
) -> None:
    streaming.provider.mind = claude.mind = asks_for_item
    agent = await streaming.agent()
    schema = {"type": "object", "properties": {"id": {"type": "string"}}}
    function = {"name": "item", "parameters": schema}
    tools = [{"type": "function", "function": function}] if path == CHAT else [{"name": "item", "input_schema": schema}]
    early = await agent.call("item", {"id": "7"})
    assert early.json()["code"] == "thought_required"
    async with listen(agent, path=path, model=model, tools=tools) as stream:
        await stream.rest()
    (thought,) = await books(agent).calls()
    ((offer, tool, arguments),) = thought["tool_calls"]
    assert (tool, json.loads(arguments)) == ("item", {"id": "7"})
    assert offer.encode() in stream.all
    done = await agent.call("item", {"id": "7"}, tool_call_id=offer)
    assert done.status_code == 200, done.text
    (action,) = await books(agent).calls("action")
    assert action["cause"] == thought["id"]
    other = await agent.call("item", {"id": "8"}, tool_call_id=offer)
    assert other.json()["code"] == "idempotency_mismatch", "one licence, one action"


def asks_for_two(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"content": None, "tool_calls": [{"name": "item", "arguments": {"id": str(number)}} for number in (7, 8)]}


def called(choice: Mapping[str, Any]) -> list[Any]:
    return [call for call in choice["delta"].get("tool_calls", ()) if "id" in call]


async def test_a_tool_call_of_a_stream_that_broke_licenses_nothing(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    feed.mind = asks_for_two  # the first is whole when the second begins
    agent = await streaming.agent()
    function = {"type": "function", "function": {"name": "item", "parameters": {"type": "object"}}}
    async with listen(agent, model="fed", tools=[function]) as stream:
        await feed.give(len(feed.frames) - 3)
        feed.say(None)
        events = await stream.rest()
    offer, _ = (call["id"] for event in events for choice in event.get("choices", ()) for call in called(choice))
    await books(agent).calls()
    answer = await agent.call("item", {"id": "7"}, tool_call_id=offer)
    assert answer.json()["code"] == "thought_required"


# ── targets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@by_path
async def test_another_target_is_tried_before_the_first_event(
    streaming: Domain, upstream: Any, listen: Any, books: Any, path: str
) -> None:
    upstream.script.append(JSONResponse({"error": {"message": "no"}}, 429))
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="spare", path=path) as stream:
        assert stream.headers["buspass-target"] == "first/planner-1"
        assert stream.headers["buspass-attempts"] == "2"
        events = await stream.rest()
    assert words(events) == TEXT
    assert told(events)["attempts"] == "2"
    (record,) = await books(agent).calls()
    assert (record["use"]["calls"], record["target"]) == (1, "first/planner-1")


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@by_pair
async def test_a_keyed_stream_is_told_again_byte_for_byte_at_no_cost(
    streaming: Domain, listen: Any, books: Any, claude: Any, path: str, model: str
) -> None:
    agent = await streaming.agent()
    runs = []
    for _ in range(2):
        async with listen(agent, TEXT, path=path, model=model, headers={"idempotency-key": "k"}) as stream:
            runs.append((stream.headers, await stream.rest(), stream.all))
    (_, first, raw), (headers, second, again) = runs
    assert headers["buspass-replayed"] == "true"
    assert headers["content-type"].startswith("text/event-stream")
    assert "buspass-cost" not in headers
    assert told(second) == {"replayed": "true"}
    written = json.dumps(told(first), separators=(",", ":")).encode()
    assert again == raw.replace(written, b'{"replayed":"true"}'), "all but what it cost"
    assert len(await books(agent).calls()) == 1
    assert len(streaming.provider.requests) + len(claude.requests) == 1


async def test_the_twin_of_a_stream_in_flight_waits(streaming: Domain, listen: Any, feed: Any) -> None:
    agent = await streaming.agent()
    key = {"headers": {"idempotency-key": "k"}, "model": "fed"}
    async with listen(agent, **key) as stream:
        async with listen(agent, **key) as twin:
            assert twin.status == 409
            assert twin.headers["retry-after"] == "1"
        await feed.give()
        assert (await stream.rest())[-1] == "[DONE]"
    async with listen(agent, **key) as twin:
        assert twin.headers["buspass-replayed"] == "true"


async def test_a_keyed_stream_that_broke_is_told_again_as_its_problem(
    streaming: Domain, listen: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    key = {"headers": {"idempotency-key": "k"}, "model": "fed"}
    async with listen(agent, **key) as stream:
        feed.say(None)
        assert (await stream.rest())[-1]["error"]["code"] == "upstream_error"
    async with listen(agent, **key) as again:
        assert again.status == 502
        (problem,) = await again.rest()
    assert problem["error"]["code"] == "upstream_error"
    assert again.headers["x-should-retry"] == "false"
    assert again.headers["buspass-replayed"] == "true"


# ── money ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_usage_above_the_hold_is_charged_and_suspends_the_task(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        usage = completion({"model": "m", "messages": [{"role": "user", "content": "x"}]}, feed.mind)["usage"]
        feed.frames[-2] = frame({"choices": [], "usage": {**usage, "completion_tokens": 5000}})
        await feed.give()
        events = await stream.rest()
    assert events[-1] == "[DONE]", "the agent gets what is paid for"
    (record,) = await books(agent).calls()
    assert record["overrun"]
    assert record["use"]["tokens"] == 5000 + usage["prompt_tokens"]
    shown = await books(agent).get()
    assert shown["status"] == "suspended"


async def test_a_provider_that_counts_nothing_is_charged_as_held(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        del feed.frames[-2]
        await feed.give()
        assert (await stream.rest())[-1] == "[DONE]"
    (record,) = await books(agent).calls()
    assert (record["status"], record["estimated"]) == ("succeeded", True)
    assert record["use"]["tokens"] > 100, "input's bound and the whole output"


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_may_last_longer_than_a_host_allows_for_its_first_byte(
    tmp_path: Path, upstream: Any, feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(__file__).parents[1] / "data" / "domain" / "streaming.yaml"
    limits = Limits(request_bytes=10**6, response_bytes=10**6, first_byte=10, total=60)
    services = {"127.0.0.1:9003": upstream.app}
    async with Domain(config, tmp_path, services, limits=limits) as domain:
        agent = await domain.agent()
        assert isinstance(domain.clock, FakeClock)
        body = {"model": "fed", "stream": True, "messages": [{"role": "user", "content": "a b c d e f g h i j k l"}]}
        asking = asyncio.create_task(agent.client.post(CHAT, json=body, headers=agent.headers))
        for seconds, left in ((20, 5), (20, 4), (30, 3)):
            await feed.asked.wait()
            domain.clock.advance(seconds)
            await feed.give(len(feed.frames) - left)
            for _ in range(50):
                await asyncio.sleep(0)
            assert feed.gone.is_set() is (left == 3), "40 seconds are not too long; 70 are"
        answer = await asking
        assert "deadline_exceeded" in answer.text
