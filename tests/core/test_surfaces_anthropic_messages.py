"""The messages surface: what an agent may write, what is refused and where, what it gets back."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from buspass.errors import Problem
from buspass.model import Usage
from buspass.ports.outbound import Response
from buspass.providers import anthropic as provider
from buspass.surfaces import anthropic_messages as surface
from buspass.surfaces.anthropic_headers import PASS, REFUSED

DATA = Path(__file__).parents[1] / "data" / "anthropic"
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"name": "lookup", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"id": "C-1"}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "found"}, PICTURE]}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
CACHE = {"type": "ephemeral"}


def body(**more) -> dict:
    return {"model": "plan", "max_tokens": 2000, "messages": [HELLO], **more}


def said(*blocks, role="user") -> dict:
    return body(messages=[HELLO, {"role": role, "content": list(blocks)}])


def refused(request, **options) -> Problem:
    with pytest.raises(Problem) as caught:
        surface.parse(request, **options)
    return caught.value


ACCEPTED = [
    {"temperature": 0, "top_p": 0.5, "top_k": 40},
    {"stop_sequences": ["END"], "metadata": {"user_id": "rep-7"}, "service_tier": "auto"},
    {"system": "Be brief."},
    {"system": [{"type": "text", "text": "Be brief.", "cache_control": {**CACHE, "ttl": "1h"}}]},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "xhigh", "format": FORMAT}},
    {"thinking": {"type": "disabled"}, "speed": "standard", "cache_control": CACHE},
    {"tools": [{**TOOL, "type": "custom", "description": "x", "strict": True, "eager_input_streaming": True, "input_examples": [{}], "cache_control": CACHE}]},
    {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "lookup"}},
    {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    {"messages": [{"role": "system", "content": "Be kind."}, HELLO, {"role": "assistant", "content": "Hi" }]},
    {"messages": [HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.\n", "signature": "a+/=="}, {"type": "redacted_thinking", "data": "d+/="}, {"type": "text", "text": "x"}, {**USE, "caller": {"type": "direct"}}]}, {"role": "user", "content": [RESULT, PICTURE]}]},
]  # fmt: skip


@pytest.mark.parametrize("more", ACCEPTED, ids=",".join)
def test_what_is_on_the_list_reaches_the_provider_as_it_was_written(more):
    ask = surface.parse(body(**more))
    expected = {name: value for name, value in body(**deepcopy(more)).items() if name != "model"}
    assert ask.payload == expected


UNSUPPORTED = [
    (body(stream=True), "stream"),
    (body(mcp_servers=[]), "mcp_servers"),
    (body(container="c"), "container"),
    (body(inference_geo="us"), "inference_geo"),
    (body(speed="fast"), "speed"),
    (body(service_tier="batch"), "service_tier"),
    (body(invented=1), "invented"),
    (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "tools[0].type"),
    (body(tools=[TOOL, {"type": "bash_20250124", "name": "bash"}]), "tools[1].type"),
    (body(tools=[{**TOOL, "defer_loading": True}]), "tools[0].defer_loading"),
    (body(tools=[{**TOOL, "allowed_callers": ["direct"]}]), "tools[0].allowed_callers"),
    (body(context_management={"edits": [{"type": "compact_20260112"}]}), "context_management.edits[0].type"),
    (body(metadata={"account": "x"}), "metadata.account"),
    (body(output_config={"effort": "endless"}), "output_config.effort"),
    (said({"type": "document", "source": {}}), "messages[1].content[0].type"),
    (said({"type": "search_result"}), "messages[1].content[0].type"),
    (said({"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}), "messages[1].content[0].source.type"),
    (said({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[1].content[0].source.type"),
    (said({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "QUJD"}}), "messages[1].content[0].source.media_type"),
    (said({**RESULT, "content": [{"type": "document"}]}), "messages[1].content[0].content[0].type"),
    (said({"type": "server_tool_use"}, role="assistant"), "messages[1].content[0].type"),
    (said(USE), "messages[1].content[0].type"),
    (said(PICTURE, role="assistant"), "messages[1].content[0].type"),
    (said({"type": "text", "text": "x", "citations": [{}]}), "messages[1].content[0].citations"),
    (said({**USE, "caller": {"type": "code_execution_20250825"}}, role="assistant"), "messages[1].content[0].caller.type"),
    (said({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "scope": "global"}}), "messages[1].content[0].cache_control.scope"),
    (body(messages=[{"role": "tool", "content": "x"}]), "messages[0].role"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "path"), UNSUPPORTED, ids=[path for _, path in UNSUPPORTED])
def test_what_is_not_on_the_list_is_refused_by_name(request_, path):
    problem = refused(request_)
    assert problem.code == "unsupported"
    assert [row["path"] for row in problem.errors] == [path]
    assert path in problem.detail


INVALID = [
    ([], ""),
    ({"max_tokens": 9, "messages": [HELLO]}, "model"),
    ({"model": "plan", "messages": [HELLO]}, "max_tokens"),
    ({"model": "plan", "max_tokens": 9}, "messages"),
    (body(max_tokens=0), "max_tokens"),
    (body(max_tokens=True), "max_tokens"),
    (body(max_tokens=2**24 + 1), "max_tokens"),
    (body(temperature=1.1), "temperature"),
    (body(messages=[]), "messages"),
    (body(stream="yes"), "stream"),
    (body(system=[]), "system"),
    (body(thinking={"type": "enabled"}), "thinking.budget_tokens"),
    (body(thinking={"type": "enabled", "budget_tokens": 2000}), "thinking.budget_tokens"),
    (body(tools=[{"name": "f"}]), "tools[0].input_schema"),
    (body(tools=[{"name": "two words", "input_schema": {}}]), "tools[0].name"),
    (body(tools=[TOOL, TOOL]), "tools[1].name"),
    (body(tools=[TOOL], tool_choice={"type": "tool", "name": "other"}), "tool_choice.name"),
    (body(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
    (said({"type": "text"}), "messages[1].content[0].text"),
    (said({"type": "tool_result"}), "messages[1].content[0].tool_use_id"),
    (said({**USE, "input": "{}"}, role="assistant"), "messages[1].content[0].input"),
    (said({"type": "thinking", "thinking": "x"}, role="assistant"), "messages[1].content[0].signature"),
    (said({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "a b"}}), "messages[1].content[0].source.data"),
    (said({"type": "text", "text": "\ud83d"}), "messages[1].content[0].text"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "path"), INVALID, ids=[f"{i}-{path}" for i, (_, path) in enumerate(INVALID)])
def test_what_is_malformed_is_named_with_its_path(request_, path):
    problem = refused(request_)
    assert problem.code == "invalid_request"
    assert [row["path"] for row in problem.errors] == [path]


def test_streams_are_taken_where_a_host_carries_them():
    assert surface.parse(body(stream=True), streaming=True).stream
    assert not surface.parse(body(), streaming=True).stream


@pytest.mark.parametrize("beta", sorted(PASS))
def test_a_listed_beta_passes(beta):
    ask = surface.parse(body(), headers={"anthropic-beta": f"{beta}, {beta}", "anthropic-version": "2023-06-01"})
    assert ask.headers == {"anthropic-beta": beta, "anthropic-version": "2023-06-01"}


@pytest.mark.parametrize("beta", [*sorted(REFUSED), "a-later-invention-2027-01-01"])
def test_any_other_beta_is_refused_by_name(beta):
    problem = refused(body(), headers={"anthropic-beta": f"effort-2025-11-24,{beta}"})
    assert (problem.code, [row["path"] for row in problem.errors]) == ("unsupported", ["anthropic-beta"])
    assert beta in problem.detail


def test_the_sdks_tool_runner_is_told_to_go_on_without_a_thread():
    request = body(thread={"type": "create"})
    problem = refused(request, headers={"anthropic-beta": "message-threads-2026-08-12"})
    error = surface.problem(problem)[2]["error"]
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "details" not in surface.problem(refused(body(), headers={"anthropic-beta": "oauth-2025-04-20"}))[2]["error"]
    assert [row["path"] for row in refused(request).errors] == ["thread"]


def test_both_versions_pass_and_the_newer_has_no_sampling():
    assert surface.parse(body(temperature=1)).headers == {"anthropic-version": "2023-06-01"}
    newest = {"anthropic-version": "2026-10-21"}
    assert surface.parse(body(), headers=newest).headers == newest
    problem = refused(body(temperature=1, top_k=3), headers=newest)
    assert (problem.code, [row["path"] for row in problem.errors]) == ("unsupported", ["temperature", "top_k"])
    assert refused(body(), headers={"anthropic-version": "2023-01-01"}).errors[0]["path"] == "anthropic-version"


def test_an_ask_knows_what_the_other_stations_judge():
    ask = surface.parse(body(tools=[TOOL], system="x", messages=[HELLO, {"role": "user", "content": [RESULT, PICTURE]}]))  # fmt: skip
    assert (ask.surface, ask.model, ask.tools, ask.n, ask.max_output, ask.messages) == ("anthropic.messages", "plan", ("lookup",), 1, 2000, 3)  # fmt: skip
    assert {(image.path, image.data) for image in ask.images} == {
        ("messages[1].content[1]", "QUJD"),
        ("messages[1].content[0].content[1]", "QUJD"),
    }


CACHES = [
    (body(), "no"),
    (body(cache_control=CACHE), "5m"),
    (body(tools=[{**TOOL, "cache_control": CACHE}]), "5m"),
    (body(system=[{"type": "text", "text": "x", "cache_control": {**CACHE, "ttl": "5m"}}]), "5m"),
    (said({**RESULT, "content": [{"type": "text", "text": "x", "cache_control": {**CACHE, "ttl": "1h"}}]}), "1h"),
]


@pytest.mark.parametrize(("request_", "longest"), CACHES)
def test_the_longest_cache_that_is_asked_for_is_known(request_, longest):
    assert surface.parse(request_).caches == longest


def test_every_text_that_reaches_the_model_is_inspected_and_no_picture():
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    turns = [{"role": "assistant", "content": [thinking, USE]}, {"role": "user", "content": [RESULT, PICTURE]}]
    found = dict(surface.texts(surface.parse(body(messages=turns, system="Be brief.", tools=[TOOL], output_config={"format": FORMAT}))))  # fmt: skip
    assert found["system"] == "Be brief."
    assert found["messages[0].content[0].thinking"] == "Hm."
    assert found["messages[0].content[1].input.id"] == "C-1"
    assert found["messages[1].content[0].content[0].text"] == "found"
    assert found["tools[0].name"] == "lookup"
    assert "output_config.format.schema.type" in found
    assert "QUJD" not in found.values()


def test_input_is_never_counted_below_its_bytes():
    plain = surface.parse(body()).input_bytes
    assert surface.parse(body(messages=[HELLO, {"role": "user", "content": "ü" * 100}])).input_bytes - plain >= 200
    used = surface.parse(said({**USE, "input": {"id": "x" * 100}}, role="assistant")).input_bytes
    assert 110 <= used - plain <= 160  # once, as JSON
    with_picture = surface.parse(said({**PICTURE, "source": {**PICTURE["source"], "data": "A" * 4000}}))
    assert with_picture.input_bytes - plain < 100


def test_counting_takes_what_makes_the_input_and_nothing_else():
    ask = surface.parse_count({"model": "plan", "messages": [HELLO], "system": "x", "tools": [TOOL], "thinking": {"type": "adaptive"}})  # fmt: skip
    assert (ask.max_output, ask.tools) == (None, ("lookup",))
    with pytest.raises(Problem, match="max_tokens"):
        surface.parse_count({"model": "plan", "messages": [HELLO], "max_tokens": 5})
    assert surface.render_count(7) == {"input_tokens": 7}


def rendered(name: str) -> dict:
    answer = provider.answer(Response(status=200, headers={}, body=(DATA / f"{name}.json").read_bytes()))
    return surface.render(answer, "plan")


def test_an_answer_carries_the_agents_own_name_and_only_what_is_listed():
    shown = rendered("parallel_tool_use")
    assert shown["model"] == "plan"
    assert "claude" not in json.dumps(shown)
    assert [block["type"] for block in shown["content"]] == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]  # fmt: skip
    assert shown["content"][0] == {"type": "thinking", "thinking": "Both are needed.\n", "signature": "EqQBCkYIBxgCKkA+/=="}  # fmt: skip
    assert shown.keys() == {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}


@pytest.mark.parametrize("name", ["text", "parallel_tool_use", "cached"])
def test_what_the_agent_gets_it_may_send_back(name):
    surface.parse(body(messages=[HELLO, {"role": "assistant", "content": rendered(name)["content"]}]))


def test_usage_is_told_as_anthropic_counts_it():
    used = rendered("cached")["usage"]
    given = json.loads((DATA / "cached.json").read_bytes())["usage"]
    assert used.items() >= given.items()


def test_the_list_of_models_is_the_grant():
    listed = surface.models(["plan", "classify"])
    assert [row["id"] for row in listed["data"]] == ["plan", "classify"]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("plan", "classify", False)
    assert surface.models([])["first_id"] is None


def test_unknown_usage_is_shown_as_the_zeros_that_the_format_demands():
    answer = provider.answer(Response(status=200, headers={}, body=b'{"type": "message", "id": "m", "content": [], "stop_reason": "end_turn"}'))  # fmt: skip
    assert answer.usage == Usage(known=False)
    assert surface.render(answer, "plan")["usage"]["input_tokens"] == 0


def test_what_claude_code_sends_passes():
    # version 2.1.197, as it was recorded; texts and tools cut short
    request = json.loads((DATA / "claude_code.json").read_bytes())
    ask = surface.parse(request["body"], headers=request["headers"], streaming=True)
    assert (ask.model, ask.stream, ask.max_output) == ("claude-opus-4-8", True, 64000)
    assert ask.headers["anthropic-beta"] == request["headers"]["anthropic-beta"]
    assert [turn["role"] for turn in ask.payload["messages"]] == ["user", "system"]
