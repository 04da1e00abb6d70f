"""Streams whose end is lost: what other gateways' users report of their cost, and what it is here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from naive import Borrows

from buspass.testing.house import PROVIDER_KEY
from buspass.testing.provider import SERVER_ERROR
from buspass.testing.provider_stream import BrokenOffError, frame

TEXT = "one two three four five six seven eight nine ten eleven twelve"
INPUT = len("rolecontentuser" + TEXT) + 256 + 16
HELD = INPUT + 100 * 10
"""Micro-dollars held for a stream of the model `fed`, at 1 dollar a million of input and 10 of output."""
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
by_path = pytest.mark.parametrize("path", [CHAT, MESSAGES])


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def counted(**usage: int) -> bytes:
    """The event in which a provider says at a stream's end what it will bill."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "planner-1", "choices": []}
    return frame({**head, "usage": usage})


def micro(record: Mapping[str, Any]) -> int:
    return round(record["cost"] * 1e6)


# ── a client that goes away ─────────────────────────────────────────────────────────────────────────────────────────


@by_path
@pytest.mark.parametrize("given", [0, 1, 4])
async def test_litellm_14457_a_client_that_hangs_up_loses_no_usage(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str, given: int
) -> None:
    """BerriAI/litellm#14457: a client that ends a stream before its last chunk "loses all usage/token tracking".

    Providers tell usage in the last chunk only. Here the call is charged as held, which no provider's bill exceeds,
    and its record says that this is an estimate.
    """
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path, max_tokens=100):
        await feed.give(given)
        await turns(100)
    (record,) = await books(agent).calls()
    assert (record["estimated"], record["use"]["model_calls"]) == (True, 1)
    assert (record["use"]["tokens"], micro(record)) == (INPUT + 100, HELD)
    assert (await agent.get()).json()["budget"]["spent"]["cost"] == HELD / 1e6


@by_path
async def test_litellm_14457_a_client_that_hangs_up_after_the_count_pays_what_was_counted(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path):
        await feed.give(len(feed.frames) - 1 if feed.frames else 0)
        await feed.asked.wait()
        feed.say(counted(prompt_tokens=30, completion_tokens=7, total_tokens=37))
        await turns(200)
    (record,) = await books(agent).calls()
    assert (record["estimated"], record["use"]["tokens"], micro(record)) == (False, 37, 30 + 70)


@by_path
async def test_litellm_14457_nobody_gets_out_of_a_bill_above_the_hold_by_hanging_up(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str
) -> None:
    """A provider that counts more than was held is believed, client or no client, and the task is suspended for it."""
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path):
        await feed.asked.wait()
        feed.say(counted(prompt_tokens=9_000, completion_tokens=7_000, total_tokens=16_000))
        await turns(200)
    (record,) = await books(agent).calls()
    assert (record["estimated"], record["overrun"], micro(record)) == (False, True, 79_000)
    task = (await agent.get()).json()
    assert (task["status"], task["budget"]["spent"]["cost"]) == ("suspended", 0.079)


# ── a provider that breaks off ──────────────────────────────────────────────────────────────────────────────────────


@by_path
@pytest.mark.parametrize(
    "end", [BrokenOffError(), frame(SERVER_ERROR), None], ids=["reset", "error event", "cut short"]
)
async def test_litellm_30667_a_stream_that_fails_midway_is_not_logged_as_zero(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str, end: Any
) -> None:
    """BerriAI/litellm#30667: usage "is logged only when the stream completes successfully".

    A time-out, a reset or a 5xx in the middle "logs no usage at all, even though the provider has already generated and
    billed the tokens produced before the failure".
    """
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path, max_tokens=100) as stream:
        await feed.give(3)
        feed.say(end)
        if end is not None:
            feed.say(None)
        last = (await stream.rest())[-1]
    (record,) = await books(agent).calls()
    assert (record["code"], record["estimated"]) == ("upstream_error", True)
    assert (record["use"]["tokens"], micro(record)) == (INPUT + 100, HELD)
    assert last["buspass"]["cost"] == f"{HELD / 1e6:.6f}", "and the agent is told"


async def test_litellm_30667_a_long_stream_that_fails_costs_all_that_it_may_have_used(
    streaming: Any, listen: Any, books: Any, feed: Any
) -> None:
    """ "The largest requests contribute zero": here the larger the context, the larger what is charged."""
    agent = await streaming.agent()
    async with listen(agent, "word " * 50_000, model="fed", max_tokens=100) as stream:
        await feed.give(3)
        feed.say(BrokenOffError())
        await stream.rest()
    (record,) = await books(agent).calls()
    assert record["use"]["tokens"] > 250_000
    assert micro(record) > 250_000


# ── a count of zero ─────────────────────────────────────────────────────────────────────────────────────────────────


@by_path
@pytest.mark.parametrize("stays", [True, False], ids=["to the end", "hangs up"])
async def test_litellm_37992_a_count_of_zero_is_a_count(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str, stays: bool
) -> None:
    """BerriAI/litellm#37992: an explicit zero is taken as missing and "replaced with locally estimated" tokens.

    `prompt_tokens or token_counter(…)` prices them, "even though the provider reported zero billable usage".
    """
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path) as stream:
        await feed.asked.wait()
        while b'"usage":{' not in feed.frames[0]:
            feed.say(feed.frames.popleft())
        feed.say(counted(prompt_tokens=0, completion_tokens=0, total_tokens=0))
        if stays:
            feed.say(b"data: [DONE]\n\n")
            feed.say(None)
            await stream.rest()
        await turns(200)
    (record,) = await books(agent).calls()
    assert (record["estimated"], record["use"]["tokens"], record["cost"]) == (False, 0, 0)
    assert (record["status"] == "succeeded") is stays


@by_path
async def test_litellm_37992_and_no_count_is_none(
    streaming: Any, listen: Any, books: Any, feed: Any, path: str
) -> None:
    """The other half: what the provider did not say is charged as held."""
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path, max_tokens=100) as stream:
        await feed.asked.wait()
        while b'"usage":{' not in feed.frames[0]:
            feed.say(feed.frames.popleft())
        feed.say(b"data: [DONE]\n\n")
        feed.say(None)
        await stream.rest()
    (record,) = await books(agent).calls()
    assert (record["estimated"], micro(record)) == (True, HELD)


# ── what was borrowed for a stream that nobody reads any more ───────────────────────────────────────────────────────


async def ten_dropped(app: Any, agent: Any, listener: Any, upstream: Any, feeds: Any) -> dict[str, Any]:
    for feed in feeds:
        upstream.script.append(feed)
        body = {"model": "fed", "stream": True, "messages": [{"role": "user", "content": TEXT}]}
        async with listener(app, agent, body, CHAT, {}) as stream:
            assert stream.status == 200, "what was borrowed for dropped streams is missing"
            await feed.give(2)
            await stream.event()
        await asyncio.wait_for(feed.gone.wait(), 60)
    budget: dict[str, Any] = (await agent.get()).json()["budget"]
    assert not any(budget["held"].values()), "borrowed and never returned"
    return budget


async def test_tensorzero_3751_a_dropped_connection_returns_what_was_borrowed(
    streaming: Any, listener: Any, upstream: Any, books: Any, feeds: Any
) -> None:
    """tensorzero/tensorzero#3751: when the client's connection was dropped, "we would never call `return_tickets`".

    So the state drifted "if we consistently under-borrow or over-borrow". The budget here pays for ten such streams: each
    is charged what was held for it, once, and nothing of it stays borrowed.
    """
    agent = await streaming.agent(budget={"cost": 10 * HELD / 1e6, "calls": 11})
    budget = await ten_dropped(streaming.apps["onprem"], agent, listener, upstream, feeds)
    assert round(budget["spent"]["cost"] * 1e6) == 10 * HELD
    assert budget["available"]["cost"] == 0
    assert [micro(record) for record in await books(agent).calls()] == [HELD] * 10
    head = await streaming.state.read(agent.task, "head")
    assert head["slots"] == 64, "every slot is free again"


async def test_tensorzero_3751_is_lost_by_a_gateway_that_returns_at_the_streams_end(
    outbound: Any, naive_agent: Any, listener: Any, upstream: Any, feeds: Any
) -> None:
    naive = Borrows(outbound, PROVIDER_KEY, 10 * HELD)
    with pytest.raises(AssertionError, match="what was borrowed for dropped streams is missing"):
        await ten_dropped(naive.app, naive_agent(naive), listener, upstream, feeds)
    assert (naive.spent["s"], naive.held["s"]) == (0, 9 * Borrows.estimate), (
        "the tenth is refused for nine that are gone"
    )
