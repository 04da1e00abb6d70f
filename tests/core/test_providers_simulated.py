"""The simulated providers' streams, and the simulated Anthropic, as the official SDKs and a raw client see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from buspass.testing.provider import Provider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_stream import Fault
from buspass.testing.serve import serving

HELLO: list[Any] = [{"role": "user", "content": "Grüß Gott, wie geht es?"}]
TOOL: Any = {"name": "refund", "input_schema": {"type": "object"}}


@pytest.fixture
async def claude() -> AsyncIterator[tuple[AnthropicProvider, str]]:
    made = AnthropicProvider("sk-ant")
    async with serving(made.app) as url:
        yield made, url


@pytest.fixture
async def client(claude: tuple[AnthropicProvider, str]) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=claude[1], api_key="sk-ant", max_retries=0) as made:
        yield made


async def test_the_sdk_reads_an_answer_whole_and_streaming(client: anthropic.AsyncAnthropic) -> None:
    body: Any = {"model": "claude-planner-1", "max_tokens": 50, "messages": HELLO}
    whole = await client.messages.create(**body)
    async with client.messages.stream(**body) as told:
        streamed = await told.get_final_message()
    assert whole.content[0].text == streamed.content[0].text == HELLO[0]["content"]  # type: ignore[union-attr] # texts
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 7  # 26 bytes
    assert (await client.messages.count_tokens(model="claude-planner-1", messages=HELLO)).input_tokens == whole.usage.input_tokens  # fmt: skip
    assert [model.id async for model in client.models.list()] == ["claude-planner-1"]


async def test_a_mind_may_think_and_call(claude: Any, client: anthropic.AsyncAnthropic) -> None:
    claude[0].mind = lambda _: {"thinking": "Hm.", "tool_calls": [{"name": "refund", "arguments": {"amount": 4.5}}]}
    async with client.messages.stream(model="claude-planner-1", max_tokens=50, messages=HELLO, tools=[TOOL]) as told:
        found = await told.get_final_message()
    assert [block.type for block in found.content] == ["thinking", "tool_use"]
    assert (found.content[1].input, found.stop_reason) == ({"amount": 4.5}, "tool_use")  # type: ignore[union-attr] # just asserted


async def test_faults_come_in_order_and_end(claude: Any, client: anthropic.AsyncAnthropic) -> None:
    body: Any = {"model": "claude-planner-1", "max_tokens": 50, "messages": HELLO}
    claude[0].faults += [Fault(kind="rate_limited"), Fault(kind="overloaded"), Fault(kind="error"), Fault(kind="slow", seconds=0.01)]  # fmt: skip
    for expected in (anthropic.RateLimitError, anthropic.InternalServerError, anthropic.InternalServerError):
        with pytest.raises(expected):
            await client.messages.create(**body)
    await client.messages.create(**body)
    assert [exchange.status for exchange in claude[0].requests] == [429, 529, 500, 200]
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(**{**body, "model": "claude-9"})


async def test_without_the_key_there_is_nothing(claude: Any) -> None:
    async with anthropic.AsyncAnthropic(base_url=claude[1], api_key="sk-other", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.create(model="claude-planner-1", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.models.list()
    assert {"authorization", "x-api-key"}.isdisjoint(claude[0].requests[0].headers)


BAD: list[dict[str, Any]] = [
    {"stop": "x"},
    {"max_tokens": None, "messages": []},
    {"temperature": 0.5},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
    {"messages": [{"role": "pirate", "content": "arr"}]},
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "forged"}]}]},
    {"tools": [{"name": "f"}]},
]


@pytest.mark.parametrize("change", BAD)
async def test_it_is_as_strict_as_the_real_one(change: dict[str, Any]) -> None:
    transport = httpx.ASGITransport(app=AnthropicProvider("k").app)
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    async with httpx.AsyncClient(transport=transport, headers=headers) as http:
        body = {"model": "claude-planner-1", "max_tokens": 9, "messages": HELLO, **change}
        answer = await http.post("http://127.0.0.1/v1/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_stream_may_stall_break_or_end_too_early() -> None:
    made = Provider("sk-sim", pace=0.001)
    async with serving(made.app) as url, httpx2.AsyncClient() as http:
        sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-sim", max_retries=0, http_client=http)
        body: Any = {"model": "planner-1", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        for slow in ("slow_first_token", "stall"):
            made.faults.append(Fault(kind=slow, seconds=0.05))  # type: ignore[arg-type] # one of its kinds
            chunks = [chunk async for chunk in await sdk.chat.completions.create(**body)]
            assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == HELLO[0]["content"]
            assert chunks[-1].usage.completion_tokens == 7
        made.faults.append(Fault(kind="truncated"))
        chunks = [chunk async for chunk in await sdk.chat.completions.create(**body)]
        assert not any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        made.faults.append(Fault(kind="error_event"))
        with pytest.raises(openai.APIError):
            [chunk async for chunk in await sdk.chat.completions.create(**body)]
        made.faults.append(Fault(kind="cut"))
        with pytest.raises((httpx2.RemoteProtocolError, openai.APIConnectionError)):
            [chunk async for chunk in await sdk.chat.completions.create(**body)]
