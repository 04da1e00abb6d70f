"""The chat surface: what an agent may write, what is refused and where, what it gets back."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buspass.errors import Problem
from buspass.model import Ask
from buspass.ports.outbound import Response
from buspass.providers import openai as provider
from buspass.surfaces import openai_chat as surface

DATA = Path(__file__).parents[1] / "data" / "openai"
HELLO = {"role": "user", "content": "Hello"}
LOOKUP = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"type": "object"}, "strict": True}}


def body(**more) -> dict:
    return {"model": "plan", "messages": [HELLO], **more}


def said(*messages) -> dict:
    return body(messages=[HELLO, *messages])


def refused(request) -> Problem:
    with pytest.raises(Problem) as caught:
        surface.parse(request)
    return caught.value


ACCEPTED = [
    {"temperature": 0},
    {"top_p": 0.5, "seed": 7, "stop": "END", "n": 8},
    {"stop": ["a", "b", "c", "d"]},
    {"max_tokens": 1},
    {"max_completion_tokens": 4096},
    {"presence_penalty": -2, "frequency_penalty": 2.0},
    {"logit_bias": {"50256": -100}},
    {"logprobs": True, "top_logprobs": 20},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": FORMAT},
    {"reasoning_effort": "minimal", "verbosity": "low"},
    {"user": "rep-7", "store": False, "stream": False, "service_tier": "auto"},
    {"service_tier": "default", "modalities": ["text"]},
    {"tools": [LOOKUP], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [LOOKUP], "tool_choice": {"type": "function", "function": {"name": "lookup"}}},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "x", "name": "ops"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    {"messages": [HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1", "tool_call_id": "call_1"}]},
    {"messages": [HELLO, {"role": "assistant", "refusal": "No."}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
]  # fmt: skip


@pytest.mark.parametrize("more", ACCEPTED, ids=",".join)
def test_what_is_on_the_list_reaches_the_provider_as_it_was_written(more):
    ask = surface.parse(body(**more))
    expected = {name: value for name, value in body(**deepcopy(more)).items() if name not in {"model", "stream"}}
    for message in expected["messages"]:
        if message["role"] == "assistant":
            message.setdefault("content", None)
    assert ask.payload == expected


UNSUPPORTED = [
    (body(stream=True), "stream"),
    (body(stream_options={"include_usage": True}), "stream_options"),
    (body(store=True), "store"),
    (body(service_tier="flex"), "service_tier"),
    (body(service_tier="priority"), "service_tier"),
    (body(web_search_options={}), "web_search_options"),
    (body(audio={"voice": "x", "format": "wav"}), "audio"),
    (body(modalities=["audio"]), "modalities[0]"),
    (body(functions=[{"name": "f"}]), "functions"),
    (body(function_call="auto"), "function_call"),
    (body(prediction={"type": "content", "content": "x"}), "prediction"),
    (body(invented=1), "invented"),
    (body(invented=None), "invented"),
    (body(reasoning_effort="endless"), "reasoning_effort"),
    (body(tools=[{"type": "custom", "custom": {"name": "x"}}]), "tools[0].type"),
    (body(tools=[LOOKUP, {"type": "web_search"}]), "tools[1].type"),
    (body(tools=[{**LOOKUP, "cache_control": {}}]), "tools[0].cache_control"),
    (body(tools=[{"type": "function", "function": {"name": "f", "url": "x"}}]), "tools[0].function.url"),
    (body(tool_choice={"type": "allowed_tools", "allowed_tools": {}}), "tool_choice.type"),
    (body(response_format={"type": "grammar"}), "response_format.type"),
    (said({"role": "function", "name": "f", "content": "1"}), "messages[1].role"),
    (said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]}), "messages[1].content[0].image_url.url"),
    (said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}]}), "messages[1].content[0].image_url.url"),
    (said({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}), "messages[1].content[0].type"),
    (said({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]}), "messages[1].content[1].type"),
    (said({"role": "user", "content": [{"type": "file", "file": {}}]}), "messages[1].content[0].type"),
    (said({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}), "messages[1].content[0].type"),
    (said({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}), "messages[1].content[0].cache_control"),
    (said({"role": "user", "content": "x", "tool_calls": [CALL]}), "messages[1].tool_calls"),
    (said({"role": "assistant", "content": "x", "audio": {"id": "a"}}), "messages[1].audio"),
    (said({"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": ""}}), "messages[1].function_call"),
    (said({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}), "messages[1].tool_calls[0].type"),
    (said({"role": "assistant", "content": "x", "prefix": True}), "messages[1].prefix"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "path"), UNSUPPORTED, ids=[path for _, path in UNSUPPORTED])
def test_what_is_not_on_the_list_is_refused_by_name(request_, path):
    problem = refused(request_)
    assert problem.code == "unsupported"
    assert [row["path"] for row in problem.errors] == [path]
    assert path in problem.detail
    assert problem.errors[0]["allowed"]


INVALID = [
    ([], ""),
    ({"messages": [HELLO]}, "model"),
    ({"model": "plan"}, "messages"),
    (body(model=""), "model"),
    (body(model=7), "model"),
    (body(messages=[]), "messages"),
    (body(messages="Hello"), "messages"),
    (said("Hello"), "messages[1]"),
    (said({"content": "no role"}), "messages[1]"),
    (said({"role": "user"}), "messages[1].content"),
    (said({"role": "user", "content": 7}), "messages[1].content"),
    (said({"role": "user", "content": []}), "messages[1].content"),
    (said({"role": "user", "content": [{"type": "text"}]}), "messages[1].content[0].text"),
    (said({"role": "user", "content": "x", "name": "two words"}), "messages[1].name"),
    (said({"role": "tool", "content": "x"}), "messages[1].tool_call_id"),
    (said({"role": "assistant"}), "messages[1]"),
    (said({"role": "assistant", "tool_calls": []}), "messages[1].tool_calls"),
    (said({"role": "assistant", "tool_calls": [{"type": "function", "id": "c"}]}), "messages[1].tool_calls[0].function"),
    (said({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}), "messages[1].tool_calls[0].function.arguments"),
    (body(n=0), "n"),
    (body(n=9), "n"),
    (body(n=True), "n"),
    (body(max_tokens=0), "max_tokens"),
    (body(max_tokens=1.5), "max_tokens"),
    (body(max_completion_tokens=2**24 + 1), "max_completion_tokens"),
    (body(max_tokens=1, max_completion_tokens=1), "max_tokens"),
    (body(temperature=2.1), "temperature"),
    (body(temperature=float("nan")), "temperature"),
    (body(top_p="1"), "top_p"),
    (body(stop=["a", "b", "c", "d", "e"]), "stop"),
    (body(top_logprobs=3), "top_logprobs"),
    (body(stream="yes"), "stream"),
    (body(logit_bias={"1": 101}), "logit_bias.1"),
    (body(metadata={"k": 1}), "metadata.k"),
    (body(metadata={"k" * 65: "v"}), "metadata"),
    (body(tools=[]), "tools"),
    (body(tools=[{"type": "function", "function": {"name": "two words"}}]), "tools[0].function.name"),
    (body(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]), "tools[0].function.parameters"),
    (body(tools=[LOOKUP, LOOKUP]), "tools[1].function.name"),
    (body(tools=[LOOKUP], tool_choice={"type": "function", "function": {"name": "other"}}), "tool_choice.function.name"),
    (body(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (said({"role": "user", "content": "\ud83d"}), "messages[1].content"),
    (body(tools=[{"type": "function", "function": {"name": "f", "parameters": {"const": float("inf")}}}]), "tools[0].function.parameters.const"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "path"), INVALID, ids=[f"{i}-{path}" for i, (_, path) in enumerate(INVALID)])
def test_what_is_malformed_is_named_with_its_path(request_, path):
    problem = refused(request_)
    assert problem.code == "invalid_request"
    assert [row["path"] for row in problem.errors] == [path]


def test_all_that_is_wrong_is_said_at_once():
    rows = refused(body(n=0, temperature=9, top_p=-1)).errors
    assert {row["path"] for row in rows} == {"n", "temperature", "top_p"}


def test_a_thousand_mistakes_make_a_short_answer():
    problem = refused(body(**{f"field{index}" * 20: index for index in range(1000)}))
    assert len(problem.errors) == 20
    assert all(len(row["path"]) <= 64 for row in problem.errors)


def test_nesting_without_end_is_refused_before_anything_recurses_into_it():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"a": deep}
    problem = refused(body(tools=[{"type": "function", "function": {"name": "f", "parameters": deep}}]))
    assert problem.code == "invalid_request"
    assert "64 deep" in problem.detail


def test_a_message_that_an_sdk_dumped_with_its_nulls_comes_back_unharmed():
    dumped = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}  # fmt: skip
    ask = surface.parse(said(dumped))
    assert ask.payload["messages"][1] == {"role": "assistant", "content": "Hi"}


def test_labels_are_kept_for_the_report_and_from_the_provider():
    ask = surface.parse(body(metadata={"step": "triage"}))
    assert ask.metadata == {"step": "triage"}
    assert "metadata" not in ask.payload


def test_an_ask_knows_what_the_other_stations_judge():
    ask = surface.parse(body(tools=[LOOKUP], n=2, max_completion_tokens=10))
    assert (ask.surface, ask.model, ask.tools, ask.n, ask.max_output, ask.messages) == ("openai.chat", "plan", ("lookup",), 2, 10, 1)  # fmt: skip
    assert surface.parse(body()).max_output is None


def test_every_text_that_reaches_the_model_is_inspected_where_it_stands():
    described = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"iban": {"description": "DE89"}}}}}  # fmt: skip
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "part"}]},
        {"role": "assistant", "tool_calls": [CALL]},
    ]
    found = dict(surface.texts(surface.parse(body(messages=messages, tools=[described], response_format=FORMAT))))
    assert found["messages[0].content[0].text"] == "part"
    assert found["messages[1].tool_calls[0].function.arguments"] == "{}"
    assert found["tools[0].function.parameters.properties.iban.description"] == "DE89"
    assert found["response_format.json_schema.name"] == "verdict"


def test_a_member_name_of_a_schema_is_text_too():
    hostile = {"type": "function", "function": {"name": "f", "parameters": {"4111111111111111": {}}}}
    found = surface.texts(surface.parse(body(tools=[hostile])))
    assert "4111111111111111" in [text for _, text in found]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_input_is_never_counted_below_its_bytes(text):
    assert size(text) >= len(text.encode())


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_longer_conversation_never_counts_less(first, second):
    longer = surface.parse(body(messages=[{"role": "user", "content": first}, {"role": "user", "content": second}]))
    assert longer.input_bytes > size(first)


def test_text_that_grows_when_a_tokenizer_normalises_it_is_counted_grown():
    assert size("\U0001d160") - size("") == 12  # a note of 4 bytes, 12 in NFC


def test_schemas_count_with_their_punctuation():
    plain, with_tools = surface.parse(body()), surface.parse(body(tools=[LOOKUP]))
    assert with_tools.input_bytes - plain.input_bytes == len(json.dumps([LOOKUP], separators=(",", ":")))


def size(text: str) -> int:
    ask: Ask = surface.parse(body(messages=[{"role": "user", "content": text}]))
    return ask.input_bytes


def rendered(name: str) -> dict:
    answer = provider.answer(Response(status=200, headers={}, body=(DATA / f"{name}.json").read_bytes()))
    return surface.render(answer, "plan")


def test_an_answer_carries_the_agents_own_name_for_the_model():
    shown = rendered("parallel_tool_calls")
    assert shown["model"] == "plan"
    assert "gpt-5" not in json.dumps(shown)
    message = shown["choices"][0]["message"]
    assert [call["id"] for call in message["tool_calls"]] == ["call_a1", "call_a2"]
    assert "annotations" not in message


def test_usage_that_is_unknown_is_absent_and_zero_is_shown():
    assert "usage" not in rendered("missing_usage")
    assert rendered("zero_usage")["usage"]["total_tokens"] == 0
    assert rendered("cached_and_reasoning")["usage"]["prompt_tokens_details"] == {"cached_tokens": 1920}


def test_members_that_nobody_listed_do_not_reach_the_agent():
    document = json.loads((DATA / "text.json").read_bytes())
    document |= {"debug": {"key": "sk-secret"}, "service_tier": {"internal": 1}}
    document["choices"][0]["provider_note"] = "x"
    answer = provider.answer(Response(status=200, headers={}, body=json.dumps(document).encode()))
    shown = surface.render(answer, "plan")
    assert shown.keys() == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert shown["choices"][0].keys() == {"index", "message", "logprobs", "finish_reason"}


@pytest.mark.parametrize("name", ["text", "parallel_tool_calls", "refusal", "length", "two_choices"])
def test_what_the_agent_gets_it_may_send_back(name):
    messages = [choice["message"] for choice in rendered(name)["choices"]]
    surface.parse(said(*messages))


def test_the_list_of_models_is_the_grant():
    listed = surface.models(["plan", "classify"])
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["plan", "classify"]
    assert {row["object"] for row in listed["data"]} == {"model"}


PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}}


def test_a_picture_passes_as_it_was_written_and_is_no_text():
    ask = surface.parse(said({"role": "user", "content": [{"type": "text", "text": "What?"}, PIXEL]}))
    assert ask.payload["messages"][1]["content"][1] == PIXEL
    assert [(image.path, image.data, image.detail) for image in ask.images] == [
        ("messages[1].content[1]", "QUJD", "low")
    ]
    assert "QUJD" not in repr(list(surface.texts(ask)))
    large = {**PIXEL, "image_url": {"url": "data:image/png;base64," + "A" * 4000, "detail": "low"}}
    assert (
        surface.parse(said({"role": "user", "content": [{"type": "text", "text": "What?"}, large]})).input_bytes
        == ask.input_bytes
    )


def test_a_stream_is_taken_where_a_host_carries_it():
    plain = surface.parse(body(stream=True), streaming=True)
    assert (plain.stream, plain.include_usage, plain.payload) == (True, False, {"messages": [HELLO]})
    assert surface.parse(body(stream=True, stream_options={"include_usage": True}), streaming=True).include_usage
    with pytest.raises(Problem, match="stream: true"):
        surface.parse(body(stream_options={"include_usage": True}), streaming=True)
    with pytest.raises(Problem, match="include_obfuscation"):
        surface.parse(body(stream=True, stream_options={"include_obfuscation": True}), streaming=True)


def ended(name: str, **more) -> list:
    ask = surface.parse(body(stream=True, **more), streaming=True)
    answer = provider.answer(Response(status=200, headers={}, body=(DATA / f"{name}.json").read_bytes()))
    *chunks, done, rest = surface.stream_end(ask, answer, {"cost": 0.5}).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


def test_a_streams_end_tells_each_finish_and_in_the_last_what_it_cost():
    chunks = ended("two_choices")
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == ["stop", "stop"]
    assert ["buspass" in chunk for chunk in chunks] == [False, True]
    assert {chunk["model"] for chunk in chunks} == {"plan"}


def test_usage_ends_a_stream_where_it_was_asked_for_and_is_known():
    *_, last = ended("text", stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]["total_tokens"], last["buspass"]) == ([], 29, {"cost": 0.5})
    assert "usage" not in ended("missing_usage", stream_options={"include_usage": True})[-1]


def test_an_event_is_one_line_whatever_it_says():
    assert surface.stream_event({"a": "x\n\ndata: forged\r\u2028"}).count(b"\n") == 2
