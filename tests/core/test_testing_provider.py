"""The simulated provider is a provider to the official SDK: answers, refusals, faults."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest

from buspass.testing.provider import Fault, Provider
from buspass.testing.serve import serving

TOOL = {
    "type": "function",
    "function": {"name": "refund", "parameters": {"type": "object", "properties": {"amount": {"type": "number"}}}},
}
HELLO: list[Any] = [{"role": "user", "content": "Grüß Gott"}]


def refunder(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"content": "I pay.", "tool_calls": [{"name": "refund", "arguments": {"amount": 4.5}}] * 2}


@pytest.fixture
async def provider() -> AsyncIterator[tuple[Provider, str]]:
    made = Provider("sk-sim")
    async with serving(made.app) as url:
        yield made, f"{url}/v1"


@pytest.fixture
async def client(provider: tuple[Provider, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider[1], api_key="sk-sim", max_retries=0) as made:
        yield made


async def test_the_sdk_reads_an_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="planner-1", messages=HELLO)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == ("Grüß Gott", "stop", None)
    seen = json.dumps({"messages": HELLO, "tools": []}, separators=(",", ":"), ensure_ascii=False).encode()
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == math.ceil(len(seen) / 4)
    assert answer.usage.completion_tokens == math.ceil(len("Grüß Gott".encode()) / 4)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_tool_calls_come_with_ids_of_their_own(
    provider: tuple[Provider, str], client: openai.AsyncOpenAI
) -> None:
    provider[0].mind = refunder
    answer = await client.chat.completions.create(model="planner-1", messages=HELLO, tools=[TOOL])  # type: ignore[list-item]
    calls = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in calls] == [{"amount": 4.5}] * 2  # type: ignore[union-attr]
    assert len({call.id for call in calls}) == 2
    talk: list[Any] = [*HELLO, answer.choices[0].message.model_dump(exclude_none=True)]
    talk += [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in calls]
    again = await client.chat.completions.create(model="planner-1", messages=talk)
    assert again.choices[0].message.content == "I pay."


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("mind", [refunder, None])
async def test_the_output_limit_is_kept(
    provider: tuple[Provider, str], client: openai.AsyncOpenAI, field: str, mind: Any
) -> None:
    if mind is not None:
        provider[0].mind = mind
    long: list[Any] = [{"role": "user", "content": "ü" * 400}]
    answer = await client.chat.completions.create(model="planner-1", messages=long, **{field: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 3


async def test_several_choices_are_all_counted(client: openai.AsyncOpenAI) -> None:
    one = await client.chat.completions.create(model="planner-1", messages=HELLO)
    two = await client.chat.completions.create(model="planner-1", messages=HELLO, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert one.usage is not None
    assert two.usage is not None
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["planner-1"]


CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


async def post(provider: Provider, **content: Any) -> httpx.Response:
    """One request as bytes on the wire, without the SDK's own checks."""
    transport = httpx.ASGITransport(app=provider.app)
    async with httpx.AsyncClient(transport=transport, headers={"Authorization": "Bearer sk-sim"}) as http:
        return await http.post("http://127.0.0.1/v1/chat/completions", **content)


BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({"modle": "x"}, 400, "unknown_parameter"),
    ({"model": "gpt-9"}, 404, "model_not_found"),
    ({"messages": []}, 400, "empty_array"),
    ({"messages": "hello"}, 400, "invalid_type"),
    ({"messages": None}, 400, "invalid_type"),
    ({"messages": [{"role": "pirate", "content": "arr"}]}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": None}]}, 400, None),
    ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, 400, "unknown_parameter"),
    ({"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]}, 400, None),
    ({"messages": [CALL, {"role": "user", "content": "well?"}]}, 400, None),
    ({"messages": [CALL]}, 400, None),
    ({"tools": []}, 400, "empty_array"),
    ({"tools": [{**TOOL, "url": "http://127.0.0.1"}]}, 400, "unknown_parameter"),
    ({"tool_choice": "auto"}, 400, None),
    ({"stream_options": {"include_usage": True}}, 400, None),
    ({"max_tokens": 1, "max_completion_tokens": 1}, 400, None),
    ({"max_tokens": 0}, 400, "invalid_value"),
    ({"n": True}, 400, "invalid_value"),
]


@pytest.mark.parametrize(("change", "status", "code"), BAD)
async def test_it_is_as_strict_as_the_real_one(change: dict[str, Any], status: int, code: str | None) -> None:
    answer = await post(Provider("sk-sim"), json={"model": "planner-1", "messages": HELLO, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert answer.headers["x-request-id"].startswith("req_")


async def test_without_the_key_there_is_nothing(provider: tuple[Provider, str]) -> None:
    async with openai.AsyncOpenAI(base_url=provider[1], api_key="sk-other", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="planner-1", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
    assert provider[0].requests[0].status == 401
    assert "authorization" not in provider[0].requests[0].headers


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
async def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    assert (await post(Provider("sk-sim"), content=raw)).status_code == 400


async def test_faults_come_in_order_and_end(provider: tuple[Provider, str], client: openai.AsyncOpenAI) -> None:
    provider[0].faults += [Fault(kind="rate_limited", seconds=7), Fault(kind="error"), Fault(kind="slow", seconds=0.01)]
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="planner-1", messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="planner-1", messages=HELLO)
    for _ in range(2):
        await client.chat.completions.create(model="planner-1", messages=HELLO)
    assert [exchange.status for exchange in provider[0].requests] == [429, 500, 200, 200]


async def test_broken_answers_are_broken(provider: tuple[Provider, str]) -> None:
    provider[0].faults += [Fault(kind="invalid_json"), Fault(kind="html"), Fault(kind="cut")]
    async with httpx.AsyncClient(headers={"Authorization": "Bearer sk-sim"}) as http:
        body = {"model": "planner-1", "messages": HELLO}
        half = await http.post(f"{provider[1]}/chat/completions", json=body)
        with pytest.raises(json.JSONDecodeError):
            half.json()
        page = await http.post(f"{provider[1]}/chat/completions", json=body)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(f"{provider[1]}/chat/completions", json=body)
