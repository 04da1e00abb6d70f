"""Prices that other gateways' users report as wrong: the thread's own figures, sent through the whole gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.responses import JSONResponse, StreamingResponse

from buspass.testing.provider_stream import chunks, events

TOKENS_904 = {"plain": 51_232, "cached": 1_188_096, "output": 12_909}
COST_904 = 341_642
"""51,232 x 1.25 + 1,188,096 x 0.125 + 12,909 x 10 = 64,040 + 148,512 + 129,090 micro-dollars."""
WRONG_904 = 1_678_250
"""The same with all input at 1.25: 1,549,160 + 129,090; the thread's "~$1.68"."""

COST_3451 = 1_063_762
"""6 x 5 + 159,217 x 6.25 + 2,745 x 25 = 30 + 995,106.25 + 68,625 micro-dollars, rounded up once."""
WRONG_3451 = 1_859_847
"""And 159,217 x 5 more, as the thread's gateway logged: 1.85984625 dollars."""


def completion() -> dict[str, Any]:
    """The thread's call as OpenAI answers it."""
    given = TOKENS_904["plain"] + TOKENS_904["cached"]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "thread-904",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": TOKENS_904["output"],
            "total_tokens": given + TOKENS_904["output"],
            "prompt_tokens_details": {"cached_tokens": TOKENS_904["cached"]},
        },
        "service_tier": "default",
        "system_fingerprint": "fp",
    }


def micro(record: Mapping[str, Any]) -> int:
    return round(record["cost"] * 1e6)


@pytest.mark.parametrize("streamed", [False, True])
async def test_bifrost_904_cached_tokens_have_their_own_price(
    streaming: Any, upstream: Any, listen: Any, books: Any, streamed: bool
) -> None:
    """maximhq/bifrost#904: cached tokens are counted as regular input, which makes $0.34 into $1.68.

    Its figures: 51,232 input, 1,188,096 cached and 12,909 output tokens at $1.25, $0.125 and $10 a million. OpenAI
    counts what was cached within `prompt_tokens`.
    """

    async def answered(body: Any) -> Any:
        if not streamed:
            return JSONResponse(completion())
        assert body["stream_options"]["include_usage"], "asked for, whether or not the agent asks"
        return StreamingResponse(iter(chunks(completion(), usage=True)), media_type="text/event-stream")

    upstream.script.append(answered)
    agent = await streaming.agent()
    prompt = "x" * 1_240_000  # as long as its tokens at least, so that the bill is within what is held
    if streamed:
        async with listen(agent, prompt, model="cached") as stream:
            cost = (await stream.rest())[-2]["buspass"]["cost"]
    else:
        cost = (await agent.chat(prompt, model="cached")).headers["buspass-cost"]
    (record,) = await books(agent).calls()
    assert micro(record) == COST_904 == round(float(cost) * 1e6)
    assert micro(record) != WRONG_904
    assert (record["estimated"], record.get("overrun", False)) == (False, False)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_bifrost_3451_what_is_written_to_a_cache_is_charged_once(
    streaming: Any, claude: Any, listen: Any, books: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """maximhq/bifrost#3451: an Anthropic stream's cache-creation tokens are charged at their price and again as input.

    Its figures: 6 input, 159,217 written, 2,745 output tokens at $5, $6.25 and $25 a million are $1.06376125; $1.85984625
    was logged. Anthropic counts what was written beside `input_tokens`, not within.
    """
    document = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "thread-3451",
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 159_217,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 159_217, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 2_745,
        },
    }

    async def answered(body: Any) -> Any:
        assert "cache_control" in json.dumps(body) or path != "/v1/messages"
        return StreamingResponse(iter(events(document)), media_type="text/event-stream")

    monkeypatch.setattr(claude, "_answer", answered)
    agent = await streaming.agent()
    text = "x" * 160_000
    part = {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [part] if path == "/v1/messages" else text}]
    async with listen(agent, text, model="opus", path=path, max_tokens=4000, messages=messages) as stream:
        await stream.rest()
    (record,) = await books(agent).calls()
    assert micro(record) == COST_3451 != WRONG_3451
    assert record["use"]["tokens"] == 6 + 159_217 + 2_745
    assert not record["estimated"]
