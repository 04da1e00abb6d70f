"""The official SDKs, unchanged, against the whole application in this process: each surface on each provider."""

import json
from pathlib import Path

import anthropic
import httpx
import httpx2
import openai
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.testing.house import Domain
from buspass.testing.provider import Fault
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_wire import text_of

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "streaming.yaml"
TEXT = "say these few words again"
ASKED = [{"role": "user", "content": TEXT}]
MODELS = ["plan", "claude"]
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
by_model = pytest.mark.parametrize("model", MODELS)


class Item(BaseModel):
    id: str
    owner: str


def mind(request):
    """Asks for an item once where it may, tells what it was given, answers a format with JSON, else says it again."""
    last = request["messages"][-1]
    content = last.get("content")
    blocks = content if isinstance(content, list) else []
    results = [block for block in blocks if block["type"] == "tool_result"]
    if last["role"] == "tool" or results:
        return {"content": f"the answer was {text_of(results[0]['content'] if results else content)}"}
    if request.get("tools"):
        return {"content": "let me look", "tool_calls": [{"name": "item", "arguments": {"id": "7"}}]}
    if request.get("response_format") or request.get("output_config"):
        return {"content": '{"id": "7", "owner": "C-1"}'}
    return {"content": text_of(content)}


@pytest.fixture
async def buspass(tmp_path):
    async def item(request):
        return JSONResponse({"id": request.path_params["id"], "owner": "C-1"})

    claude = AnthropicProvider("provider-key", mind=mind)
    services = {"127.0.0.1:9002": Starlette(routes=[Route("/items/{id}", item)]), "127.0.0.1:9004": claude.app}
    async with Domain(CONFIG, tmp_path, services) as domain:
        domain.provider.mind = mind
        domain.claude = claude
        yield domain


@pytest.fixture
async def agent(buspass):
    return await buspass.agent()


@pytest.fixture
async def http(buspass, agent):
    """What OpenAI's SDK sends through; `sent` are its requests."""
    async with counting(httpx, buspass) as client:
        yield client


@pytest.fixture
async def http2(buspass, agent):
    """What Anthropic's SDK sends through."""
    async with counting(httpx2, buspass) as client:
        yield client


def counting(library, domain):
    sent = []

    async def count(request):
        sent.append(request)

    transport = library.ASGITransport(domain.apps["onprem"])
    client = library.AsyncClient(transport=transport, event_hooks={"request": [count]})
    client.sent = sent
    return client


@pytest.fixture
def gpt(agent, http):
    return openai.AsyncOpenAI(api_key=agent.token, base_url="http://onprem/v1", http_client=http)


@pytest.fixture
def claude(agent, http2):
    return anthropic.AsyncAnthropic(api_key=agent.token, base_url="http://onprem", http_client=http2)


async def spent(agent):
    found = (await agent.get()).json()["budget"]
    assert set(found["held"].values()) == {0}
    assert (await agent.get("/trace/verify")).json()["ok"]
    return found["spent"]


# ── OpenAI's ────────────────────────────────────────────────────────────────────────────────────────────────────────


@by_model
async def test_openai_chat(gpt, agent, model):
    answer = await gpt.chat.completions.create(model=model, messages=ASKED)
    assert answer.choices[0].message.content == TEXT
    assert (answer.model, answer.choices[0].finish_reason) == (model, "stop")
    assert answer.usage.total_tokens == (await spent(agent))["tokens"]


@by_model
async def test_openai_stream(gpt, agent, model):
    stream = await gpt.chat.completions.create(
        model=model, messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == TEXT
    assert chunks[-1].usage.total_tokens == (await spent(agent))["tokens"]
    assert float(chunks[-1].buspass["cost"]) == (await spent(agent))["cost"]


@by_model
async def test_openai_streaming_helper(gpt, agent, model):
    async with gpt.chat.completions.stream(model=model, messages=ASKED) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert kinds[-1] == "content.done"
    assert final.choices[0].message.content == TEXT
    assert (await spent(agent))["calls"] == 1


@by_model
async def test_openai_structured_output(gpt, model):
    asking = {"model": model, "messages": ASKED, "response_format": Item}
    answer = await gpt.chat.completions.parse(**asking)
    assert answer.choices[0].message.parsed == Item(id="7", owner="C-1")
    async with gpt.chat.completions.stream(**asking) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Item(id="7", owner="C-1")


class Wanted(BaseModel):
    id: str


FUNCTION = openai.pydantic_function_tool(Wanted, name="item", description="An item.")


@by_model
@pytest.mark.parametrize("streamed", [False, True])
async def test_openai_tool_loop(gpt, agent, model, streamed):
    messages, tools = list(ASKED), [FUNCTION]
    for _ in range(2):
        if streamed:
            async with gpt.chat.completions.stream(model=model, messages=messages, tools=tools) as stream:
                said = (await stream.get_final_completion()).choices[0].message
        else:
            said = (await gpt.chat.completions.create(model=model, messages=messages, tools=tools)).choices[0].message
        messages.append(said)
        for call in said.tool_calls or ():
            done = await agent.call("item", json.loads(call.function.arguments), tool_call_id=call.id)
            assert done.status_code == 200, done.text
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(done.json()["result"])})
    assert said.content == 'the answer was {"id": "7", "owner": "C-1"}'
    assert (await spent(agent))["tool_calls"] == 1


@by_model
async def test_azures_client(agent, http, model):
    azure = openai.AsyncAzureOpenAI(
        api_key=agent.token, azure_endpoint="http://onprem", api_version="2024-10-21", http_client=http
    )
    answer = await azure.chat.completions.create(model=model, messages=ASKED)
    assert answer.choices[0].message.content == TEXT
    assert http.sent[0].url.path == f"/openai/deployments/{model}/chat/completions"
    stream = await azure.chat.completions.create(model=model, messages=ASKED, stream=True)
    said = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(said) == TEXT
    newer = openai.AsyncOpenAI(api_key=agent.token, base_url="http://onprem/openai/v1/", http_client=http)
    assert (await newer.chat.completions.create(model=model, messages=ASKED)).choices[0].message.content == TEXT


# ── Anthropic's ─────────────────────────────────────────────────────────────────────────────────────────────────────


@by_model
async def test_anthropic_messages(claude, agent, model):
    answer = await claude.messages.create(model=model, max_tokens=50, messages=ASKED)
    assert [block.text for block in answer.content] == [TEXT]
    assert (answer.model, answer.stop_reason) == (model, "end_turn")
    assert answer.usage.input_tokens + answer.usage.output_tokens == (await spent(agent))["tokens"]


@by_model
async def test_anthropic_stream(claude, agent, model):
    stream = await claude.messages.create(model=model, max_tokens=50, messages=ASKED, stream=True)
    events = [event async for event in stream]
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    assert float(events[-1].buspass["cost"]) == (await spent(agent))["cost"]


@by_model
async def test_anthropic_streaming_helper(claude, agent, model):
    async with claude.messages.stream(model=model, max_tokens=50, messages=ASKED) as stream:
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert len(said) > 1
    assert "".join(said) == TEXT
    assert final.usage.output_tokens > 0
    assert (await spent(agent))["calls"] == 1


@by_model
@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_tool_use(claude, agent, model, streamed):
    tools = [{"name": "item", "description": "An item.", "input_schema": SCHEMA}]
    asking = {"model": model, "max_tokens": 100, "messages": list(ASKED), "tools": tools}
    for _ in range(2):
        if streamed:
            async with claude.messages.stream(**asking) as stream:
                said = await stream.get_final_message()
        else:
            said = await claude.messages.create(**asking)
        asking["messages"].append({"role": "assistant", "content": [block.model_dump() for block in said.content]})
        results = []
        for block in said.content:
            if block.type == "tool_use":
                done = await agent.call(block.name, block.input, tool_call_id=block.id)
                assert done.status_code == 200, done.text
                told = json.dumps(done.json()["result"])
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": told})
        if results:
            assert said.stop_reason == "tool_use"
            asking["messages"].append({"role": "user", "content": results})
    assert said.content[-1].text == 'the answer was {"id": "7", "owner": "C-1"}'
    assert (await spent(agent))["tool_calls"] == 1


@by_model
async def test_anthropic_structured_output(claude, model):
    asking = {"model": model, "max_tokens": 50, "messages": ASKED, "output_format": Item}
    answer = await claude.messages.parse(**asking)
    assert answer.parsed_output == Item(id="7", owner="C-1")
    async with claude.messages.stream(**asking) as stream:
        assert (await stream.get_final_message()).parsed_output == Item(id="7", owner="C-1")


@by_model
async def test_anthropic_counts_tokens_at_no_cost(claude, agent, model):
    counted = await claude.messages.count_tokens(model=model, messages=ASKED)
    answer = await claude.messages.create(model=model, max_tokens=50, messages=ASKED)
    assert counted.input_tokens >= answer.usage.input_tokens // 2
    assert (await spent(agent))["calls"] == 1


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_openais_sdk_raises_what_a_refusal_is_and_does_not_retry(gpt, agent, buspass, http):
    for streamed in (False, True):
        http.sent.clear()
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await gpt.chat.completions.create(model="gpt-4o", messages=ASKED, stream=streamed)
        assert refused.value.code == "model_not_granted"
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await gpt.chat.completions.create(model="plan", messages=ASKED, stream=streamed, extra_body={"x": 1})
        assert (refused.value.code, refused.value.param) == ("unsupported", "x")
        with pytest.raises(openai.APIStatusError) as refused:
            await gpt.chat.completions.create(model="plan", messages=ASKED, stream=streamed, max_tokens=2_000_000)
        assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
        assert len(http.sent) == 3
    wrong = openai.AsyncOpenAI(api_key="sk-proj-abc", base_url="http://onprem/v1", http_client=http)
    with pytest.raises(openai.AuthenticationError, match="OpenAI key"):
        await wrong.chat.completions.create(model="plan", messages=ASKED)
    await agent.post("kill", reason="enough")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await gpt.chat.completions.create(model="plan", messages=ASKED)
    assert refused.value.code == "task_killed"
    assert len(http.sent) == 5
    assert not buspass.provider.requests


async def test_anthropics_sdk_raises_what_a_refusal_is_and_does_not_retry(claude, agent, buspass, http2):
    asking = {"max_tokens": 50, "messages": ASKED}
    for streamed in (False, True):
        http2.sent.clear()
        with pytest.raises(anthropic.PermissionDeniedError) as refused:
            await claude.messages.create(model="opus", stream=streamed, **asking)
        assert refused.value.body["error"]["code"] == "model_not_granted"
        with pytest.raises(anthropic.UnprocessableEntityError) as refused:
            await claude.messages.create(model="plan", stream=streamed, extra_body={"x": 1}, **asking)
        assert refused.value.body["error"]["code"] == "unsupported"
        asking_much = {"max_tokens": 2_000_000, "messages": ASKED, "timeout": 30}
        with pytest.raises(anthropic.APIStatusError) as refused:
            await claude.messages.create(model="plan", stream=streamed, **asking_much)
        assert (refused.value.status_code, refused.value.type) == (402, "billing_error")
        assert len(http2.sent) == 3
    await agent.post("kill", reason="enough")
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        await claude.messages.create(model="plan", **asking)
    assert refused.value.body["error"]["code"] == "task_killed"
    assert len(http2.sent) == 4
    assert not buspass.provider.requests


async def test_a_problem_in_mid_stream_is_raised_and_not_retried(gpt, claude, agent, buspass, http, http2):
    buspass.provider.faults.append(Fault(kind="error_event"))
    with pytest.raises(openai.APIError) as broken:
        async for _ in await gpt.chat.completions.create(model="plan", messages=ASKED, stream=True):
            pass
    assert broken.value.code == "upstream_error"
    buspass.claude.faults.append(Fault(kind="truncated"))
    with pytest.raises(anthropic.APIStatusError) as broken:
        async with claude.messages.stream(model="claude", max_tokens=50, messages=ASKED) as stream:
            await stream.get_final_message()
    assert broken.value.body["error"]["code"] == "upstream_error"
    assert (len(http.sent), len(http2.sent)) == (1, 1)
    assert (await spent(agent))["calls"] == 2
