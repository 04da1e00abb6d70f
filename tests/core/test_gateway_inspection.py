"""Inspection in the path: round trips of placeholders, licences for what the agent sees, obligations, redaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.calls.screening import Screening, unsaid
from buspass.config.settings import PersonalData
from buspass.errors import Problem
from buspass.journal.vault import Vault
from buspass.mediation.placeholders import Placeholders
from buspass.policy.decide import Decision
from buspass.surfaces import openai_chat
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.house import Agent, Domain

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "inspected.yaml"
ALICE = "alice.smith@example.com"
IBAN = "DE89370400440532013000"
CARD = "4111111111111111"
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3


@pytest.fixture
async def inspected(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    service.answers["/checks"] = JSONResponse({"done": True})
    async with Domain(CONFIG, tmp_path, {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}) as domain:
        yield domain


async def said(answer: httpx.Response) -> Mapping[str, Any]:
    """The message of an answer, whole or put together from a stream."""
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return dict(answer.json()["choices"][0]["message"])
    content, calls = "", {}
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                content += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls", ()):
                    made = calls.setdefault(call["index"], {"id": "", "arguments": ""})
                    made["id"] += call.get("id", "")
                    made["arguments"] += call["function"].get("arguments", "")
    return {"content": content, "tool_calls": [{"id": c["id"], "function": c} for c in calls.values()]}


def calling(domain: Domain, **arguments: str) -> None:
    """Let the model ask for the tool, with what it was told in place of `TOLD`."""

    def mind(request: Mapping[str, Any]) -> Mapping[str, Any]:
        told = str(request["messages"][-1]["content"])
        put = {name: value.replace("TOLD", told) for name, value in arguments.items()}
        return {"content": f"for {told}.", "tool_calls": [{"name": "mail", "arguments": put}]}

    domain.provider.mind = mind


async def records(agent: Agent, kind: str) -> list[dict[str, Any]]:
    return [row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == kind]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_value_goes_out_as_a_placeholder_and_comes_back_in_the_answer(inspected: Domain, stream: bool) -> None:
    agent = await inspected.agent(workflow="restored")
    answer = await said(await agent.chat(f"write to {ALICE}, {IBAN}", stream=stream))
    assert answer["content"] == f"write to {ALICE}, {IBAN}"
    sent = json.dumps(inspected.provider.requests[0].body)
    assert ALICE not in sent
    assert IBAN not in sent
    assert "<EMAIL_" in sent


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_without_restore_the_agent_gets_placeholders_and_a_licence_for_them(
    inspected: Domain, service: Any, stream: bool
) -> None:
    agent = await inspected.agent(workflow="private")
    calling(inspected, order="1", to="TOLD", note="for TOLD")
    answer = await said(await agent.chat(ALICE, stream=stream))
    (call,) = answer["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["to"].startswith("<EMAIL_")
    there = await inspected.at("aws", agent)
    done = await there.call("mail", arguments, tool_call_id=call["id"])
    assert done.status_code == 200, done.text
    (body,) = service.got("/checks")
    assert body == {"order": "1", "to": ALICE, "note": arguments["note"]}, "at the marked property alone"
    (record,) = await records(agent, "action")
    assert record["cause"]
    assert ALICE not in json.dumps(record)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_licence_is_for_what_the_agent_sees(inspected: Domain, service: Any, stream: bool) -> None:
    agent = await inspected.agent(workflow="restored")
    calling(inspected, order="1", to="TOLD", note="TOLD")
    answer = await said(await agent.chat(ALICE, stream=stream))
    (call,) = answer["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["to"] == ALICE
    done = await agent.call("mail", arguments, tool_call_id=call["id"])
    assert done.status_code == 200, done.text
    (body,) = service.got("/checks")
    assert body["to"] == ALICE
    assert body["note"].startswith("<EMAIL_"), "a value of the agent's own stops at an unmarked property too"
    forged = await agent.call("mail", {**arguments, "to": "eve@example.com"}, tool_call_id=call["id"])
    assert forged.json()["code"] == "idempotency_mismatch"


async def test_a_tool_gets_only_classes_that_workflow_and_schema_name(inspected: Domain, service: Any) -> None:
    agent = await inspected.agent(workflow="private")
    for value, reaches in ((ALICE, True), (IBAN, False), (CARD, False)):
        assert (await agent.call("mail", {"order": "1", "to": value})).status_code == 200
        assert (service.got("/checks")[-1]["to"] == value) is reaches
    strict = await inspected.agent(workflow="strict")
    refused = await strict.call("mail", {"order": "1", "to": IBAN})
    assert (refused.status_code, refused.json()["code"]) == (422, "content_blocked")
    assert refused.json()["errors"] == [{"path": "arguments.to", "message": "iban is not allowed here"}]
    assert len(service.got("/checks")) == 3


@pytest.mark.parametrize("workflow", ["private", "open"])
async def test_a_secret_in_arguments_reaches_no_tool_and_spends_nothing(
    inspected: Domain, service: Any, workflow: str
) -> None:
    agent = await inspected.agent(workflow=workflow)
    refused = await agent.call("mail", {"order": "1", "note": f"use {SECRET}"})
    assert (refused.status_code, refused.json()["code"]) == (422, "content_blocked")
    assert SECRET not in refused.text
    assert not service.bodies
    assert not any((await agent.get()).json()["budget"]["spent"].values())


async def test_a_misfit_does_not_tell_what_stands_behind_a_placeholder(inspected: Domain) -> None:
    agent = await inspected.agent(workflow="private")
    assert (await agent.chat("ann@example.com")).status_code == 200
    (sent,) = inspected.provider.requests[0].body["messages"]
    refused = await agent.call("mail", {"order": "1", "code": f"is {sent['content']} here"})
    assert refused.json()["code"] == "invalid_arguments"
    assert refused.json()["errors"][0]["path"] == "/code"
    assert "ann@" not in refused.text
    told = await agent.client.get(f"/v1/tasks/{agent.task}/trace", headers=agent.headers)
    assert "ann@" not in told.text


async def test_results_reach_agent_and_model_without_values(inspected: Domain, service: Any) -> None:
    service.answers["/checks"] = JSONResponse({"owner": ALICE, ALICE: CARD, "key": SECRET})
    agent = await inspected.agent(workflow="private")
    result = (await agent.call("mail", {"order": "1"})).json()["result"]
    told = json.dumps(result)
    assert not [value for value in (ALICE, CARD, SECRET) if value in told]
    assert result["owner"] in result, "one value, one placeholder, in names too"
    assert result["key"] == "***"
    plain = await inspected.agent(workflow="open")
    result = (await plain.call("mail", {"order": "1"})).json()["result"]
    assert (result["owner"], result["key"]) == (ALICE, "***"), "without rules only secrets are looked for"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_what_a_model_makes_up_is_hidden_or_masked(inspected: Domain, path: str, stream: bool) -> None:
    arguments = {"order": 4111111111111111, "to": ALICE, "note": SECRET}
    inspected.provider.mind = lambda _: {
        "content": f"{ALICE} has {SECRET} and {CARD}",
        "tool_calls": [{"name": "mail", "arguments": arguments}],
    }
    agent = await inspected.agent(workflow="hidden")
    body = {"model": "plan", "messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 99}
    answer = await agent.client.post(path, json={**body, "max_tokens": 100}, headers=agent.headers)
    assert answer.status_code == 200, answer.text
    assert not [value for value in (ALICE, CARD, SECRET) if value in answer.text]
    assert "<EMAIL_" in answer.text
    (record,) = await records(agent, "inference")
    assert {row["class"] for row in record["findings"]} >= {"email", "secret", "credit_card"}
    assert SECRET not in json.dumps(record)


async def test_a_placeholder_is_kept_before_it_is_sent(inspected: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await inspected.agent(workflow="private")

    async def away(*_: object) -> bytes:
        raise Problem("state_unavailable", "no")

    monkeypatch.setattr(Vault, "merge", away)
    answer = await agent.chat(ALICE)
    assert answer.status_code == 503
    assert not inspected.provider.requests
    assert not any((await agent.get()).json()["budget"]["spent"].values())


async def test_tables_of_two_hosts_become_one(inspected: Domain) -> None:
    agent = await inspected.agent(workflow="restored")
    there = await inspected.at("aws", agent)
    values = [f"person{n}@example.com" for n in range(6)]
    await asyncio.gather(*((agent, there)[n % 2].chat(value) for n, value in enumerate(values)))
    shown = [str(row.body["messages"][0]["content"]) for row in inspected.provider.requests]
    inspected.provider.mind = lambda _: {"content": " ".join(shown)}
    answer = await said(await there.chat("who?"))
    assert sorted(answer["content"].split()) == values


async def test_placeholders_are_read_only_for_calls_that_need_them(
    inspected: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await inspected.agent(workflow="restored")
    vault = inspected.apps["onprem"].house.vault
    asked: list[str] = []

    async def away(_key: bytes, name: str) -> bytes | None:
        asked.append(name)
        raise Problem("state_unavailable", "the blob store is away")

    monkeypatch.setattr(vault, "get", away)
    assert (await agent.chat("what happened in 1999?")).status_code == 200
    assert not asked
    sent = len(inspected.provider.requests)
    for text in (ALICE, "who is <EMAIL_12345678>?"):
        assert (await agent.chat(text)).status_code == 503
    assert len(inspected.provider.requests) == sent
    asked.clear()
    assert (await said(await agent.chat("hi", stream=True)))["content"]
    assert not asked
    inspected.provider.mind = lambda _: {"content": "well, " * 50 + "ask <EMAIL_12345678>"}
    assert (await agent.chat("who?")).status_code == 503
    assert asked
    streamed = (await agent.chat("who?", stream=True)).text
    assert "well, well" in streamed
    assert "state_unavailable" in streamed
    assert "EMAIL" not in streamed


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_stream_that_began_without_placeholders_shows_those_that_come_later(
    inspected: Domain, path: str
) -> None:
    agent = await inspected.agent(workflow="restored")
    assert (await agent.chat(ALICE)).status_code == 200
    hidden = inspected.provider.requests[0].body["messages"][0]["content"]
    inspected.provider.mind = lambda _: {
        "content": "well, " * 50 + f"ask {hidden}, " + "and so on " * 50,
        "tool_calls": [{"name": "mail", "arguments": {"order": "one", "to": hidden}}],
    }
    body = {"model": "plan", "messages": [{"role": "user", "content": "who?"}], "stream": True, "max_tokens": 900}
    text = (await agent.client.post(path, json=body, headers=agent.headers)).text
    assert ALICE in text.partition("and so on")[0]
    assert ALICE in text.partition("and so on")[2], "in the arguments, too"
    assert hidden not in text
    inspected.provider.mind = lambda _: {"tool_calls": [{"name": "mail", "arguments": {"to": hidden}}]}
    text = (await agent.client.post(path, json=body, headers=agent.headers)).text
    assert ALICE in text
    assert hidden not in text


async def test_a_stream_cut_for_its_placeholders_is_settled_with_them(
    inspected: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await inspected.agent(workflow="restored")
    vault, asked = inspected.apps["onprem"].house.vault, []
    get = vault.get

    async def away_once(key: bytes, name: str) -> bytes | None:
        asked.append(name)
        if len(asked) == 1:
            raise Problem("state_unavailable", "the blob store is away")
        return await get(key, name)

    monkeypatch.setattr(vault, "get", away_once)
    inspected.provider.mind = lambda _: {"content": f"ask {ALICE}"}
    assert "state_unavailable" in (await agent.chat("who?", stream=True)).text
    assert asked == [f"{agent.task}/placeholders"] * 2
    (record,) = await records(agent, "inference")
    assert record["status"] == "unknown"


async def test_a_tool_call_reads_placeholders_only_where_it_may_need_one(
    inspected: Domain, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await inspected.agent(workflow="private")
    assert (await agent.chat(ALICE)).status_code == 200
    (told,) = inspected.provider.requests[0].body["messages"]
    vault, looked = inspected.apps["onprem"].house.vault, []
    get = vault.get

    async def counted(key: bytes, name: str) -> bytes | None:
        looked.append(name)
        return await get(key, name)

    monkeypatch.setattr(vault, "get", counted)
    made: list[Placeholders] = []
    make = Placeholders.make

    def noted(self: Placeholders, class_: str, value: str) -> str:
        made.append(self)
        return make(self, class_, value)

    monkeypatch.setattr(Placeholders, "make", noted)
    assert (await agent.call("mail", {"order": "one"})).json()["result"] == {"done": True}
    assert not looked
    service.answers["/checks"] = JSONResponse({"owner": ALICE})
    assert (await agent.call("mail", {"order": "one"})).json()["result"] == {"owner": told["content"]}
    assert looked == [f"{agent.task}/placeholders"]
    assert told["content"] in made[-1].made, "what is shown was made with the table that the task has"
    assert len(made) == 2
    assert (await agent.call("mail", {"order": "1", "to": told["content"]})).status_code == 200
    assert service.got("/checks")[-1]["to"] == ALICE
    assert len(looked) == 2


async def test_what_a_tool_did_is_known_though_its_answer_can_not_be_shown(
    inspected: Domain, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await inspected.agent(workflow="private")

    async def away(_key: bytes, _name: str) -> bytes | None:
        raise Problem("state_unavailable", "the blob store is away", retry_after=1)

    service.answers["/checks"] = JSONResponse({"owner": ALICE})
    with monkeypatch.context() as patched:
        patched.setattr(inspected.apps["onprem"].house.vault, "get", away)
        answer = await agent.call("mail", {"order": "one"})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (502, "outcome_unknown", False)
    assert ALICE not in answer.text
    (record,) = await records(agent, "action")
    assert (record["status"], record["code"]) == ("succeeded", "outcome_unknown")
    head = (await agent.get()).json()
    assert head["budget"]["spent"]["tool_calls"] == 1
    assert len(service.got("/checks")) == 1


async def test_a_merge_loses_nothing_that_was_written_meanwhile() -> None:
    blobs, key = MemoryBlobs(), b"k" * 32
    vault = Vault(blobs, b"w" * 32)

    async def add(letter: bytes) -> None:
        await vault.merge(key, "t/table", lambda old: (old or b"") + letter)

    await asyncio.gather(*(add(bytes([65 + n])) for n in range(8)))
    assert sorted(await vault.get(key, "t/table") or b"") == list(b"ABCDEFGH")


async def test_policy_may_hide_more_and_sees_findings(inspected: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await inspected.agent(workflow="open")
    house = inspected.apps["onprem"].house
    asked: list[Mapping[str, Any]] = []

    async def ask(question: str, document: Mapping[str, Any]) -> Decision:
        asked.append(document)
        return Decision(obligations={"placeholder": ["email"], "mask": ["iban"]})

    monkeypatch.setattr(type(house.policy), "asks", lambda *_: True)
    monkeypatch.setattr(house.policy, "ask", ask)
    assert (await agent.chat(f"{ALICE} {IBAN}")).status_code == 200
    (sent,) = inspected.provider.requests[0].body["messages"]
    assert sent["content"].startswith("<EMAIL_")
    assert sent["content"].endswith(" DE***3000")
    ruled = await inspected.agent(workflow="private")
    assert (await ruled.call("mail", {"order": "1", "to": ALICE})).status_code == 200
    assert asked[-1]["call"]["findings"] == [{"class": "email", "position": "arguments.to", "count": 1}]


async def test_policy_overrules_what_a_tool_may_get(
    inspected: Domain, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await inspected.agent(workflow="private")
    house = inspected.apps["onprem"].house

    async def ask(question: str, document: Mapping[str, Any]) -> Decision:
        return Decision(obligations={"mask": ["email"]})

    monkeypatch.setattr(type(house.policy), "asks", lambda *_: True)
    monkeypatch.setattr(house.policy, "ask", ask)
    assert (await agent.call("mail", {"order": "1", "to": ALICE})).status_code == 200
    assert ALICE not in json.dumps(service.bodies)


async def test_redacted_payloads_hold_the_text_without_values(inspected: Domain) -> None:
    agent = await inspected.agent(workflow="restored")
    inspected.provider.mind = lambda _: {"content": f"yes, {ALICE}"}
    assert (await agent.chat("hi")).status_code == 200
    (record,) = await records(agent, "inference")
    assert record["thought"] == "yes, a***@e***.com"
    full = await inspected.agent(workflow="hidden")
    assert (await full.chat("hi", headers={"buspass-log": "redacted"})).status_code == 200
    (record,) = await records(full, "inference")
    assert record["thought"].startswith("yes, <EMAIL_")


async def test_labels_stand_in_records_masked(inspected: Domain) -> None:
    agent = await inspected.agent(workflow="private")
    labels = {"buspass-metadata": json.dumps({"who": ALICE, "team": "returns"})}
    assert (await agent.chat("hi", headers=labels)).status_code == 200
    told = repr(vars(inspected.state.inner))
    assert ALICE not in told
    assert "returns" in told


@pytest.mark.parametrize("text", ["a@b.de " * 40, "é a@b.de", "1.2.3.4\n" * 9])
def test_what_grows_is_held_for(text: str) -> None:
    rules = PersonalData(to_models="placeholder", to_tools={}, to_agent=None, block=frozenset())
    screening = Screening(cast("Any", None), rules)
    screening._table._placeholders = Placeholders(b"k" * 16)
    ask = openai_chat.parse({"model": "plan", "messages": [{"role": "user", "content": text}]})
    sent = screening.request(ask)
    assert sent.input_bytes >= openai_chat.parse({"model": "plan", **sent.payload}).input_bytes > ask.input_bytes


async def test_streamed_arguments_stay_json_where_a_number_was_replaced(inspected: Domain) -> None:
    inspected.provider.mind = lambda _: {"tool_calls": [{"name": "mail", "arguments": {"order": int(CARD)}}]}
    agent = await inspected.agent(workflow="hidden")
    answer = await said(await agent.chat("hi", stream=True))
    (call,) = answer["tool_calls"]
    assert json.loads(call["function"]["arguments"])["order"].startswith("<CREDIT_CARD_")


def test_a_problem_can_be_told_without_the_value_in_it() -> None:
    told = unsaid(Problem("invalid_arguments", f"{ALICE} is bad", errors=[{"path": "/to", "message": f"not {ALICE}"}]))
    assert told.detail == "a***@e***.com is bad"
    assert told.errors == ({"path": "/to", "message": "not a***@e***.com"},)
