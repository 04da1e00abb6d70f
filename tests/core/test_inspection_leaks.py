"""No value reaches the other side: each class at each position, on both surfaces, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.testing.house import Agent, Domain

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "inspected.yaml"
VALUES = {
    "email": "alice.smith@example.com",
    "iban": "DE89370400440532013000",
    "credit_card": "4111111111111111",
    "ip_address": "203.0.113.77",
    "national_id": "111.222.333-96",
    "phone": "+49 30 901820",
    "secret": "sk-proj-Abcd1234Efgh5678Ijkl9012Mnop3456Qrst7890Uvwx",
}
SECRET = VALUES["secret"]
TOOL = {"name": "own", "description": "Does.", "parameters": {"type": "object", "properties": {"to": {}}}}


def chat(position: str, said: str) -> dict[str, Any]:
    """A chat request with `said` at one position."""
    user: dict[str, Any] = {"role": "user", "content": "go on"}
    tools = [{"type": "function", "function": {**TOOL, "description": said}}]
    asked = {"id": "c1", "type": "function", "function": {"name": "own", "arguments": json.dumps({"to": said})}}
    called = {"role": "assistant", "content": None, "tool_calls": [asked]}
    result = {"role": "tool", "tool_call_id": "c1", "content": said}
    schema = {"type": "object", "description": said, "properties": {}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    named = {"type": "function", "function": {**TOOL, "parameters": {"type": "object", "properties": {said: {}}}}}
    more: dict[str, Any] = {
        "system": {"messages": [{"role": "system", "content": said}, user]},
        "user": {"messages": [{"role": "user", "content": said}]},
        "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": said}]}]},
        "assistant": {"messages": [user, {"role": "assistant", "content": said}, user]},
        "arguments": {"messages": [user, called, {**result, "content": "ok"}]},
        "result": {"messages": [user, {**called, "tool_calls": [chat_call()]}, result]},
        "tool": {"messages": [user], "tools": tools},
        "property": {"messages": [user], "tools": [named]},
        "format": {"messages": [user], "response_format": form},
        "stop": {"messages": [user], "stop": [said]},
    }
    return {"model": "plan", **more[position]}


def chat_call() -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "own", "arguments": "{}"}}


def messages(position: str, said: str) -> dict[str, Any]:
    """The same as Anthropic's messages."""
    user: dict[str, Any] = {"role": "user", "content": "go on"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "own", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
    tool = {"name": "own", "description": "Does.", "input_schema": {"type": "object", "properties": {}}}
    asked = {"role": "assistant", "content": [{**use, "input": {"to": said}}]}
    more: dict[str, Any] = {
        "system": {"system": said, "messages": [user]},
        "user": {"messages": [{"role": "user", "content": said}]},
        "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": said}]}]},
        "assistant": {"messages": [user, {"role": "assistant", "content": said}, user]},
        "arguments": {"messages": [user, asked, {"role": "user", "content": [result]}]},
        "result": {
            "messages": [
                user,
                {"role": "assistant", "content": [use]},
                {"role": "user", "content": [{**result, "content": [{"type": "text", "text": said}]}]},
            ]
        },
        "tool": {"messages": [user], "tools": [{**tool, "description": said}]},
        "property": {"messages": [user], "tools": [{**tool, "input_schema": {"type": "object", "title": said}}]},
    }
    return {"model": "plan", "max_tokens": 50, **more[position]}


CHAT = ("system", "user", "parts", "assistant", "arguments", "result", "tool", "property", "format", "stop")
MESSAGES = ("system", "user", "parts", "assistant", "arguments", "result", "tool", "property")
SURFACES: dict[str, tuple[str, Callable[[str, str], dict[str, Any]], tuple[str, ...]]] = {
    "chat": ("/v1/chat/completions", chat, CHAT),
    "messages": ("/v1/messages", messages, MESSAGES),
}
PLACES = [(surface, position) for surface, row in SURFACES.items() for position in row[2]]


@pytest.fixture
async def inspected(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    async with Domain(CONFIG, tmp_path, {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}) as domain:
        yield domain


async def ask(agent: Agent, surface: str, position: str, said: str, *, stream: bool) -> httpx.Response:
    path, body, _ = SURFACES[surface]
    return await agent.client.post(path, json={**body(position, said), "stream": stream}, headers=agent.headers)


def kept(domain: Domain) -> str:
    """Everything that the domain has in its store, as text."""
    inner: Any = domain.state.inner
    return repr(inner._items)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("surface", "position"), PLACES)
async def test_no_value_of_any_class_reaches_a_provider_or_a_record(
    inspected: Domain, caplog: pytest.LogCaptureFixture, surface: str, position: str, stream: bool
) -> None:
    agent = await inspected.agent(workflow="routeless")
    for class_, value in VALUES.items():
        before = len(inspected.provider.requests)
        said = value if position == "stop" else f"it is {value} today"
        answer = await ask(agent, surface, position, said, stream=stream)
        sent = json.dumps([row.body for row in inspected.provider.requests[before:]])
        assert value not in sent, (class_, position)
        if class_ == "secret":
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "content_blocked")
            assert not sent.strip("[]")
            assert value not in answer.text
        else:
            assert answer.status_code == 200, (class_, answer.text)
            assert f"<{class_.upper()}_" in sent, (class_, position, sent)
        told = " ".join([caplog.text, repr(dict(answer.headers)), kept(inspected), (await agent.get("/trace")).text])
        assert value not in told, (class_, position)


@pytest.mark.parametrize("workflow", ["barred", "free"])
@pytest.mark.parametrize(("surface", "position"), PLACES)
async def test_what_is_blocked_spends_nothing_and_tells_class_and_position(
    inspected: Domain, surface: str, position: str, workflow: str
) -> None:
    agent = await inspected.agent(workflow=workflow)
    class_ = "secret" if workflow == "free" else "credit_card"
    answer = await ask(agent, surface, position, VALUES[class_], stream=False)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "content_blocked")
    assert VALUES[class_] not in answer.text
    assert [row["message"] for row in error["errors"]] == [f"{class_} is not allowed here"]
    assert error["errors"][0]["path"]
    assert not inspected.provider.requests
    budget = (await agent.get()).json()["budget"]
    assert not any([*budget["spent"].values(), *budget.get("held", {}).values()])
