"""No value reaches the other side: each class at each position, both surfaces, both providers, whole and streamed.

`positions` finds the positions in the largest request of each surface, so that none is forgotten.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.testing import provider_stream
from buspass.testing.house import Agent, Domain
from buspass.testing.provider_anthropic import AnthropicProvider

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("positions", HERE / "positions.py")
assert _spec
assert _spec.loader
positions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(positions)

SECRETS = {
    "provider key": "sk-proj-Abcd1234Efgh5678Ijkl9012Mnop3456Qrst7890Uvwx",
    "cloud key": "AKIA" + "IOSFODNN7EXAMPLE",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END RSA PRIVATE KEY-----",
    "JWT": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "connection string": "postgres://app:s3cr3t@db.internal:5432/shop",
    "token": "ghp_" + "a1B2c3D4e5F6" * 3,
}
PERSONAL = {
    "email": "alice.smith@example.com",
    "iban": "DE89370400440532013000",
    "credit_card": "4111111111111111",
    "ip_address": "203.0.113.77",
    "national_id": "111.222.333-96",
    "phone": "+4915112345678",
}
HIDDEN = {**PERSONAL, "local phone": "030 901820"}
MODELS = {"openai": "plan", "anthropic": "claude"}
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
WAYS = list(itertools.product(MODELS, (False, True)))
UNSAID = {"t-format-description"}
"""What one wire format can say and the other can't."""
LABELS = {"t-label", "n-label"}
NAMES = {"t-system-name", "t-user-name", "t-assistant-name", "t-function", "t-tool", "t-format"}


async def ask(agent: Agent, surface: str, position: str, said: str, **more: Any) -> httpx.Response:
    body = positions.having(surface, position, said, **more)
    return await agent.client.post(PATHS[surface], json=body, headers=agent.headers)


def sent(domain: Domain) -> str:
    """All that went to a provider: address, headers and bytes, as they are and read as JSON."""
    made = []
    for request in domain.outbound.requests:
        made += [request.url, *request.headers.values(), request.body.decode()]
        made.append(json.dumps(json.loads(request.body or b"null"), ensure_ascii=False))
    return "\n".join(made)


def kept(domain: Domain) -> str:
    """Everything that the domain has in its store, as text."""
    inner: Any = domain.state.inner
    return repr(inner._items)


def parts(value: str) -> list[str]:
    """A value, and its parts of which each alone would tell it."""
    return [part for part in value.split("\n") if not part.startswith("-----")]


async def nothing_leaks(
    domain: Domain, surface: str, position: str, ways: list[tuple[str, bool]], secrets: list[str]
) -> str:
    """Ask with each value at one position. Gives all that the agent was told meanwhile, and the journal."""
    agent = await domain.agent(workflow="routeless")
    told = []
    for provider, stream in ways:
        more = {"model": MODELS[provider], "stream": stream}
        domain.outbound.exchanges.clear()
        for said in [*HIDDEN.values(), "it is " + ", ".join(HIDDEN.values()) + " today"]:
            answer = await ask(agent, surface, position, said, **more)
            assert answer.status_code in {200, 400, 422}, answer.text
            told += [answer.text, repr(dict(answer.headers))]
        out = sent(domain)
        for class_, value in HIDDEN.items():
            assert value not in out, (class_, position, provider, stream)
        domain.outbound.exchanges.clear()
        for name in secrets:
            value = SECRETS[name]
            answer = await ask(agent, surface, position, value, **more)
            told += [answer.text, repr(dict(answer.headers))]
            if position in LABELS:
                assert value not in sent(domain)
                continue
            assert answer.status_code in {400, 422}, (name, position, answer.text)
            assert not domain.outbound.exchanges, (name, position, provider, stream)
    told.append((await agent.get("/trace")).text)
    return " ".join(told)


async def all_over(domain: Domain, surface: str, log: Any, *, every: bool) -> None:
    for number, position in enumerate(positions.positions(surface)):
        ways, secrets = (WAYS, list(SECRETS)) if every else ([WAYS[number % 4]], list(SECRETS)[number % 3 :: 3])
        told = await nothing_leaks(domain, surface, position, ways, secrets)
        assert not [part for value in [*HIDDEN.values(), *SECRETS.values()] for part in parts(value) if part in told]
    told = log.text + kept(domain)
    assert not [part for value in [*HIDDEN.values(), *SECRETS.values()] for part in parts(value) if part in told]


@pytest.mark.parametrize("surface", ["chat", pytest.param("messages", marks=pytest.mark.verify)])
async def test_no_value_of_any_class_reaches_a_provider_or_a_record(
    inspected: Domain, caplog: pytest.LogCaptureFixture, surface: str
) -> None:
    """Each class at each position by one of the four ways, in turn: the other three are `make verify`'s."""
    assert len(positions.positions(surface)) > 25
    await all_over(inspected, surface, caplog, every=False)


@pytest.mark.verify
@pytest.mark.parametrize("surface", PATHS)
async def test_nor_by_any_other_way(inspected: Domain, caplog: pytest.LogCaptureFixture, surface: str) -> None:
    await all_over(inspected, surface, caplog, every=True)


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("surface", PATHS)
async def test_what_may_be_anything_goes_out_as_a_placeholder(inspected: Domain, surface: str, provider: str) -> None:
    """Only names, whose letters are prescribed, are refused instead; and labels never leave."""
    agent = await inspected.agent(workflow="routeless")
    for position in positions.positions(surface):
        inspected.outbound.exchanges.clear()
        answer = await ask(agent, surface, position, PERSONAL["credit_card"], model=MODELS[provider])
        if position in NAMES:
            assert answer.status_code in {200, 400}, (position, answer.text)
            continue
        assert answer.status_code == 200, (position, answer.text)
        assert "CREDIT_CARD_" in sent(inspected) or position in LABELS | UNSAID, (position, provider)


async def test_an_id_in_which_a_value_stands_is_another_and_still_the_same_at_call_and_result(
    inspected: Domain,
) -> None:
    agent = await inspected.agent(workflow="routeless")
    for surface, (provider, model) in itertools.product(PATHS, MODELS.items()):
        inspected.outbound.exchanges.clear()
        answer = await ask(agent, surface, "t-id", f"call-{PERSONAL['credit_card']}", model=model)
        assert answer.status_code == 200, answer.text
        out = sent(inspected)
        assert PERSONAL["credit_card"] not in out
        assert out.count("call-CREDIT_CARD_") == 4, (provider, "at call and result, as bytes and as JSON")


@pytest.mark.parametrize("workflow", ["barred", "free"])
@pytest.mark.parametrize("surface", PATHS)
async def test_what_is_blocked_spends_nothing_and_tells_class_and_position(
    inspected: Domain, surface: str, workflow: str
) -> None:
    agent = await inspected.agent(workflow=workflow)
    class_ = "secret" if workflow == "free" else "credit_card"
    value = SECRETS["provider key"] if workflow == "free" else PERSONAL["credit_card"]
    for position in positions.positions(surface):
        if position in LABELS:
            continue  # a label stays in the journal, masked
        answer = await ask(agent, surface, position, value)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "content_blocked"), (position, answer.text)
        assert value not in answer.text
        assert {row["message"] for row in error["errors"]} == {f"{class_} is not allowed here"}
        assert error["errors"][0]["path"]
    assert not inspected.outbound.exchanges
    budget = (await agent.get()).json()["budget"]
    assert not any([*budget["spent"].values(), *budget.get("held", {}).values()])


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def bytewise(app: Any) -> Any:
    """An application whose answer comes byte by byte: every place at which a stream can be cut."""

    async def running(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Mapping[str, Any]) -> None:
            body = message.get("body", b"")
            if len(body) < 2:
                await send(message)
                return
            for at in range(len(body)):
                last = at == len(body) - 1 and not message.get("more_body", False)
                await send({"type": "http.response.body", "body": body[at : at + 1], "more_body": not last})

        await app(scope, receive, sending)

    return running


def texts(answer: httpx.Response) -> tuple[str, str]:
    """What an answer says and the arguments of its tool call, whole or put together from a stream of either surface."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        document = answer.json()
        if "choices" in document:
            message = document["choices"][0]["message"]
            return message["content"], message["tool_calls"][0]["function"]["arguments"]
        said = "".join(block["text"] for block in document["content"] if block["type"] == "text")
        (use,) = [block for block in document["content"] if block["type"] == "tool_use"]
        return said, json.dumps(use["input"], ensure_ascii=False)
    said = arguments = ""
    for line in answer.text.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices", ()):
            said += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                arguments += call["function"].get("arguments", "")
        delta = event.get("delta", {})
        said += delta.get("text", "")
        arguments += delta.get("partial_json", "")
    return said, arguments


def mind(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Says again what it was told, in an answer and in a tool call's arguments."""
    last = request["messages"][-1]["content"]
    said = last if isinstance(last, str) else last[0]["text"]
    return {"content": f"to {said}.", "tool_calls": [{"name": "mail", "arguments": {"order": "1", "note": said}}]}


@pytest.mark.parametrize("piece", [pytest.param(1, marks=pytest.mark.verify), 5])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("surface", PATHS)
async def test_placeholders_come_back_exactly_wherever_a_stream_is_cut(
    inspected: Domain, claude: AnthropicProvider, monkeypatch: pytest.MonkeyPatch, surface: str, provider: str,
    stream: bool, piece: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(provider_stream, "PIECE", piece)
    inspected.provider.mind = claude.mind = mind
    if piece > 1:  # of text each event brings one character, or each byte comes by itself
        apps = inspected.outbound.inner.apps  # type: ignore[attr-defined]  # it is an AsgiOutbound
        apps.update({host: bytewise(app) for host, app in apps.items()})
    values = [value for class_, value in PERSONAL.items() if class_ != "credit_card"]  # which `restored` blocks
    said = "; ".join([*values, values[0]])
    body = {"model": MODELS[provider], "messages": [{"role": "user", "content": said}], "stream": stream}
    if surface == "messages":
        body["max_tokens"] = 100
    for workflow in ("restored", "private", "hidden") if piece == 1 else ("restored",):
        agent = await inspected.agent(workflow=workflow)
        answer = await agent.client.post(PATHS[surface], json=body, headers=agent.headers)
        assert answer.status_code == 200, answer.text
        content, arguments = texts(answer)
        if workflow == "restored":
            assert content == f"to {said}."
            assert json.loads(arguments) == {"order": "1", "note": said}
        else:
            assert not any(value in answer.text for value in values)
            assert content.count("<") == len(values) + 1
            assert json.loads(arguments)["note"] == content[3:-1]
    assert not any(value in sent(inspected) for value in values)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("surface", PATHS)
@pytest.mark.parametrize("class_", [*PERSONAL, *SECRETS])
async def test_what_a_model_makes_up_reaches_nobody_who_may_not_have_it(
    inspected: Domain, claude: AnthropicProvider, monkeypatch: pytest.MonkeyPatch, class_: str, surface: str,
    provider: str, stream: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(provider_stream, "PIECE", 3)
    value = {**PERSONAL, **SECRETS}[class_]
    calls = [{"name": "mail", "arguments": {"order": "1", "note": value}}]
    inspected.provider.mind = claude.mind = lambda _: {"content": f"it is {value} today", "tool_calls": calls}
    agent = await inspected.agent(workflow="hidden")
    body = {"model": MODELS[provider], "messages": [{"role": "user", "content": "go"}], "stream": stream}
    if surface == "messages":
        body["max_tokens"] = 100
    answer = await agent.client.post(PATHS[surface], json=body, headers=agent.headers)
    assert answer.status_code == 200, answer.text
    content, arguments = texts(answer)
    assert content.startswith("it is ")
    assert content.endswith(" today")
    for part in parts(value):
        assert part not in content + arguments + answer.text
