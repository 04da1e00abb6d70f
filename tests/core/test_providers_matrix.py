"""Each surface over each provider, whole and streaming, through the official SDKs: what is asked arrives, and returns."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from msgspec.structs import replace
from pydantic import BaseModel

from buspass.config.settings import Auth, Price, Provider, Target
from buspass.errors import Problem
from buspass.model import Answer, Failure
from buspass.ports.outbound import Response
from buspass.providers import bounds
from buspass.providers.wires import WIRES
from buspass.surfaces import anthropic_messages, openai_chat
from buspass.testing.provider import Provider as OpenAIProvider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_anthropic_wire import signature
from buspass.testing.provider_stream import Fault

PRICE = Price(input=1_000_000, output=5_000_000, cached_input=100_000, version="test")
SIMULATED = {
    "openai": (OpenAIProvider, Auth(kind="bearer", secret="K"), "https://openai.test/v1", "gpt-5-mini"),
    "anthropic": (AnthropicProvider, Auth(kind="header", header="x-api-key", secret="K"), "https://anthropic.test", "claude-1"),
}  # fmt: skip
CALLS = [{"name": "lookup", "arguments": {"id": "C-1 ü"}}, {"name": "lookup", "arguments": {}}]
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}}


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


class Between:
    """The smallest thing between an SDK and a simulated provider: what the gateway does, without task and money."""

    def __init__(self, api: str) -> None:
        made, auth, url, model = SIMULATED[api]
        self.api, self.simulator = api, made("key", models=(model,))
        self.provider = Provider(name=api, api=api, base_url=url, auth=auth)
        self.target = Target(provider=api, model=model, weight=1, price=PRICE)
        self.answers: list[Answer] = []
        self.sent: list[Mapping[str, Any]] = []

    async def handle(self, request: httpx2.Request) -> httpx2.Response:
        surface: Any = anthropic_messages if request.url.path.endswith("/messages") else openai_chat
        try:
            body = json.loads(request.content)
            headers = {"headers": dict(request.headers)} if surface is anthropic_messages else {}
            return await self._answered(surface, surface.parse(body, streaming=True, **headers))
        except Problem as problem:
            status, headers, document = surface.problem(problem)
            return httpx2.Response(status, headers=headers, json=document)

    async def _answered(self, surface: Any, ask: Any) -> httpx2.Response:
        """Send on, and show what came; nothing that any test asks may cost more than its bound."""
        wire, most = WIRES[self.api], bounds.bound(ask, self.target, 4096, api=self.api)
        out = wire.request(self.provider, self.target, ask, most, "key", 10)
        self.sent.append(json.loads(out.body))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.simulator.app)) as client:
            got = await client.post(out.url, headers=dict(out.headers), content=out.body)
        response = Response(status=got.status_code, headers=dict(got.headers), body=got.content)
        try:
            if not ask.stream or got.status_code != 200:
                answer = wire.answer(response, ask)
                content = json.dumps(surface.render(answer, ask.model)).encode()
                kind = "application/json"
            else:
                answer, content, kind = self._streamed(surface, ask, got.content)
        except Failure as failure:
            raise Problem("upstream_error", failure.kind) from failure
        self.answers.append(answer)
        assert answer.usage.known
        assert answer.usage.input <= most.input_tokens
        assert answer.usage.output <= most.output_tokens
        assert bounds.cost(PRICE, answer.usage) <= bounds.ceiling([self.target], most, limited=True)
        return httpx2.Response(200, headers={"content-type": kind}, content=content)

    def _streamed(self, surface: Any, ask: Any, body: bytes) -> tuple[Answer, bytes, str]:
        decoder, out = WIRES[self.api].decoder(ask), b""
        try:
            for start in range(0, len(body), 7):
                out += b"".join(map(surface.stream_event, decoder.feed(body[start : start + 7])))
            decoder.close()
        except Failure as failure:
            out += surface.stream_problem(Problem("upstream_error", failure.kind))
            return _known(decoder.answer()), out, "text/event-stream"
        answer = decoder.answer()
        return answer, out + surface.stream_end(ask, answer, {"cost": 0.5}), "text/event-stream"


def _known(answer: Answer) -> Answer:
    return replace(answer, usage=replace(answer.usage, known=True))


@pytest.fixture(params=SIMULATED)
def between(request: pytest.FixtureRequest) -> Between:
    return Between(request.param)


@asynccontextmanager
async def chat(between: Between) -> AsyncIterator[openai.AsyncOpenAI]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(between.handle)) as http:
        yield openai.AsyncOpenAI(base_url="http://gateway/v1", api_key="k", http_client=http, max_retries=0)


@asynccontextmanager
async def messages(between: Between) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(between.handle)) as http:
        yield anthropic.AsyncAnthropic(base_url="http://gateway", api_key="k", http_client=http, max_retries=0)


async def ask_chat(between: Between, stream: bool, **body: Any) -> Any:
    """The completion, either way; a stream is put together by the SDK."""
    body = {"model": "plan", "messages": [{"role": "user", "content": "Grüß Gott, wie geht es?"}], **body}
    async with chat(between) as client:
        if not stream:
            return await client.chat.completions.create(**body)
        async with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as told:
            async for _ in told:
                pass
            return await told.get_final_completion()


async def ask_messages(between: Between, stream: bool, **body: Any) -> Any:
    body = {"model": "plan", "max_tokens": 500, "messages": [{"role": "user", "content": "Grüß Gott, wie geht es?"}], **body}  # fmt: skip
    async with messages(between) as client:
        if not stream:
            return await client.messages.create(**body)
        async with client.messages.stream(**body) as told:
            async for _ in told:
                pass
            return await told.get_final_message()


STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@STREAMS
async def test_text_on_the_chat_surface(between: Between, stream: bool) -> None:
    found = await ask_chat(between, stream)
    choice = found.choices[0]
    assert (found.model, choice.message.content, choice.finish_reason) == ("plan", "Grüß Gott, wie geht es?", "stop")
    used = between.answers[0].usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (used.input, used.output)
    assert between.answers[0].text == "Grüß Gott, wie geht es?"


@STREAMS
async def test_text_on_the_messages_surface(between: Between, stream: bool) -> None:
    found = await ask_messages(between, stream, system="Be kind.")
    assert (found.model, found.content[0].text, found.stop_reason) == ("plan", "Grüß Gott, wie geht es?", "end_turn")
    used = between.answers[0].usage
    assert (found.usage.input_tokens, found.usage.output_tokens) == (used.input, used.output)


CHAT_TOOL = {"type": "function", "function": {"name": "lookup", "description": "Looks.", "parameters": SCHEMA}}
TOOL = {"name": "lookup", "description": "Looks.", "input_schema": SCHEMA}


@STREAMS
@pytest.mark.parametrize("calls", [CALLS[:1], CALLS], ids=["one", "parallel"])
async def test_tool_calls_and_their_results_on_the_chat_surface(between: Between, stream: bool, calls: Any) -> None:
    between.simulator.mind = lambda _: {"content": "I look.", "tool_calls": calls}
    found = await ask_chat(between, stream, tools=[CHAT_TOOL], tool_choice="required")
    message = found.choices[0].message
    assert found.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [call["arguments"] for call in calls]
    offers = between.answers[0].offers
    assert [(o.id, o.name) for o in offers] == [(c.id, c.function.name) for c in message.tool_calls]
    said = message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    for call in said["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
        call.pop("index", None)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "found"} for call in message.tool_calls]
    between.simulator.mind = lambda _: {"content": "Done."}
    history = [{"role": "user", "content": "Look."}, said, *results, {"role": "user", "content": "And?"}]
    assert (await ask_chat(between, stream, messages=history, tools=[CHAT_TOOL])).choices[0].message.content == "Done."


@STREAMS
@pytest.mark.parametrize("calls", [CALLS[:1], CALLS], ids=["one", "parallel"])
async def test_tool_calls_and_their_results_on_the_messages_surface(between: Between, stream: bool, calls: Any) -> None:
    between.simulator.mind = lambda _: {"content": "I look.", "tool_calls": calls}
    found = await ask_messages(between, stream, tools=[TOOL], tool_choice={"type": "any"})
    assert [block.type for block in found.content] == ["text"] + ["tool_use"] * len(calls)
    assert [block.input for block in found.content[1:]] == [call["arguments"] for call in calls]
    assert found.stop_reason == "tool_use"
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "found"} for block in found.content[1:]]
    said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in found.content]}
    between.simulator.mind = lambda _: {"content": "Done."}
    turns = [{"role": "user", "content": "Look."}, said, {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]}]  # fmt: skip
    assert (await ask_messages(between, stream, messages=turns, tools=[TOOL])).content[0].text == "Done."


class Verdict(BaseModel):
    approved: bool


@STREAMS
async def test_structured_output_on_the_chat_surface(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"content": '{"approved": true}'}
    found = await ask_chat(between, stream, response_format={"type": "json_schema", "json_schema": {"name": "v", "schema": Verdict.model_json_schema()}})  # fmt: skip
    assert Verdict.model_validate_json(found.choices[0].message.content).approved
    assert _schema(between.sent[0]) == Verdict.model_json_schema()


@STREAMS
async def test_structured_output_on_the_messages_surface(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"content": '{"approved": true}'}
    schema = Verdict.model_json_schema()
    found = await ask_messages(between, stream, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert Verdict.model_validate_json(found.content[0].text).approved
    assert _schema(between.sent[0]) == schema


def _schema(sent: Mapping[str, Any]) -> Any:
    if "output_config" in sent:
        return sent["output_config"]["format"]["schema"]
    return sent["response_format"]["json_schema"]["schema"]


@STREAMS
async def test_thinking_stays_byte_for_byte_where_the_format_has_it(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"thinking": "Let me see …\n", "content": "Yes."}
    found = await ask_messages(between, stream, thinking={"type": "adaptive"})
    if between.api == "openai":  # its chat format shows no thought
        assert [block.type for block in found.content] == ["text"]
        return
    thought, said = found.content
    assert (thought.thinking, thought.signature, said.text) == ("Let me see …\n", signature("Let me see …\n"), "Yes.")
    assert between.answers[0].thinking == "Let me see …\n"
    assert between.answers[0].usage.reasoning > 0
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [thought.model_dump(), said.model_dump(exclude_none=True)]}, {"role": "user", "content": "y"}]  # fmt: skip
    await ask_messages(between, stream, messages=turns)  # the simulator verifies the signature
    assert between.sent[-1]["messages"][1]["content"][0] == {"type": "thinking", "thinking": thought.thinking, "signature": thought.signature}  # fmt: skip


@STREAMS
async def test_thinking_is_kept_from_the_chat_format_and_for_the_journal(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"thinking": "Hm.", "content": "Yes."}
    found = await ask_chat(between, stream, reasoning_effort="low")
    assert found.choices[0].message.content == "Yes."
    assert between.answers[0].thinking == ("Hm." if between.api == "anthropic" else "")


@STREAMS
async def test_pictures_arrive_and_are_bounded(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"content": "A pixel."}
    url = f"data:image/png;base64,{png(640, 480)}"
    part = {"type": "image_url", "image_url": {"url": url}}
    found = await ask_chat(between, stream, messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}])  # fmt: skip
    assert found.choices[0].message.content == "A pixel."
    source = {"type": "base64", "media_type": "image/png", "data": png(640, 480)}
    block = {"type": "image", "source": source}
    shown = await ask_messages(between, stream, messages=[{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}])  # fmt: skip
    assert shown.content[0].text == "A pixel."
    sent = [next(each for each in body["messages"][0]["content"] if each["type"] != "text") for body in between.sent]
    assert sent == [part, {"type": "image_url", "image_url": {"url": url}}] if between.api == "openai" else [block] * 2


@STREAMS
async def test_an_answer_that_was_cut_says_so(between: Between, stream: bool) -> None:
    between.simulator.mind = lambda _: {"content": "x" * 400}
    assert (await ask_messages(between, stream, max_tokens=10)).stop_reason == "max_tokens"
    if stream:
        with pytest.raises(openai.LengthFinishReasonError):
            await ask_chat(between, stream, max_completion_tokens=10, response_format={"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA}})  # fmt: skip
    assert (await ask_chat(between, stream=False, max_completion_tokens=10)).choices[0].finish_reason == "length"


@STREAMS
async def test_what_is_written_to_a_cache_is_counted_and_priced_apart(stream: bool) -> None:
    between = Between("anthropic")
    mark = {"type": "ephemeral", "ttl": "1h"}
    system = [{"type": "text", "text": "A long manual. " * 50, "cache_control": mark}]
    found = await ask_messages(between, stream, system=system)
    used = between.answers[0].usage
    assert found.usage.cache_creation_input_tokens == used.cache_write == used.cache_write_1h == used.input > 100
    assert found.usage.input_tokens == 0
    assert bounds.cost(PRICE, used) == used.input * 2 + used.output * 5


async def test_a_chat_stream_hides_usage_from_whom_did_not_ask(between: Between) -> None:
    async with chat(between) as client:
        told = await client.chat.completions.create(model="plan", messages=[{"role": "user", "content": "Hello"}], stream=True)  # fmt: skip
        chunks = [chunk async for chunk in told]
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert all(chunk.choices for chunk in chunks)  # naive clients take the first choice of every chunk
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].buspass == {"cost": 0.5}  # type: ignore[attr-defined] # ours, beside the SDK's own members
    assert between.answers[0].usage.known


async def test_a_messages_stream_ends_with_what_it_cost(between: Between) -> None:
    async with messages(between) as client:
        told = await client.messages.create(model="plan", max_tokens=9, messages=[{"role": "user", "content": "Hello"}], stream=True)  # fmt: skip
        events = [event async for event in told]
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    assert events[-1].buspass == {"cost": 0.5}  # type: ignore[union-attr] # ours, beside the SDK's own members


FAULTS = ["truncated", "error_event"]


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_stream_that_fails_raises_in_the_chat_sdk(between: Between, kind: Any) -> None:
    between.simulator.faults.append(Fault(kind=kind))
    with pytest.raises(openai.APIError, match="broken" if kind == "truncated" else "failed|throttled"):
        await ask_chat(between, stream=True, messages=[{"role": "user", "content": "long " * 20}])


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_stream_that_fails_raises_in_the_messages_sdk(between: Between, kind: Any) -> None:
    between.simulator.faults.append(Fault(kind=kind))
    with pytest.raises(anthropic.APIStatusError, match="broken" if kind == "truncated" else "failed|throttled"):
        await ask_messages(between, stream=True, messages=[{"role": "user", "content": "long " * 20}])


@pytest.mark.parametrize("kind", ["rate_limited", "overloaded", "error", "html", "invalid_json"])
@STREAMS
async def test_a_provider_that_fails_at_once_raises_too(between: Between, kind: Any, stream: bool) -> None:
    between.simulator.faults += [Fault(kind=kind), Fault(kind=kind)]
    with pytest.raises((openai.InternalServerError, openai.APIError)):
        await ask_chat(between, stream)
    with pytest.raises((anthropic.InternalServerError, anthropic.APIStatusError)):
        await ask_messages(between, stream)
