"""A request of one surface in the other provider's words: what corresponds, what is left out, what is refused."""

import json

import pytest

from buspass.config.settings import Target
from buspass.errors import Problem
from buspass.providers import to_anthropic, to_openai
from buspass.providers.bounds import bound
from buspass.surfaces import anthropic_messages, openai_chat

HELLO = {"role": "user", "content": "Hello"}
FUNCTION = {
    "name": "lookup",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
TOOL = {"name": "lookup", "description": "Looks.", "input_schema": FUNCTION["parameters"], "strict": True}
CALL = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 1}'}}
USE = {"type": "tool_use", "id": "c1", "name": "lookup", "input": {"id": 1}}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "additionalProperties": False}


def text(said):
    return {"type": "text", "text": said}


def from_chat(**more):
    return to_anthropic.body(openai_chat.parse({"model": "m", "messages": [HELLO], **more}).payload)


def from_messages(**more):
    ask = anthropic_messages.parse({"model": "m", "max_tokens": 5000, "messages": [HELLO], **more})
    return to_openai.body(ask.payload)


TO_ANTHROPIC = [
    ({}, {}),
    ({"temperature": 1, "top_p": 0.5}, {"temperature": 1, "top_p": 0.5}),
    ({"stop": "END"}, {"stop_sequences": ["END"]}),
    ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
    ({"user": "rep-7"}, {"metadata": {"user_id": "rep-7"}}),
    ({"service_tier": "default"}, {"service_tier": "standard_only"}),
    ({"n": 1, "presence_penalty": 0, "logprobs": False, "store": False, "modalities": ["text"]}, {}),
    ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
    ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
    ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ({"response_format": {"type": "text"}}, {}),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA}}}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    ({"tools": [CHAT_TOOL]}, {"tools": [TOOL]}),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]}),
    ({"tools": [CHAT_TOOL], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": {"type": "none"}}),
    ({"tools": [CHAT_TOOL], "tool_choice": "required", "parallel_tool_calls": False}, {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}),
    ({"tools": [CHAT_TOOL], "parallel_tool_calls": False}, {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
    ({"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "lookup"}}}, {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "lookup"}}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "sent"), TO_ANTHROPIC)
def test_chat_fields_in_anthropics_words(asked, sent):
    assert from_chat(**asked) == {"messages": [{"role": "user", "content": [text("Hello")]}], **sent}


def test_a_chat_conversation_in_anthropics_words():
    picture = {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,QUJD"}}
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("Look"), picture]},
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, {**CALL, "id": "c2", "function": {"name": "lookup", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "developer", "content": [text("In German.")]},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": ""},
        HELLO,
    ]  # fmt: skip
    sent = from_chat(messages=conversation)
    assert sent["system"] == [text("Be brief."), text("In German.")]
    shown = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    results = [{"type": "tool_result", "tool_use_id": "c1", "content": [text("found")]}, {"type": "tool_result", "tool_use_id": "c2"}]  # fmt: skip
    assert sent["messages"] == [
        {"role": "user", "content": [text("Look"), shown]},
        {"role": "assistant", "content": [text("I look."), USE, {**USE, "id": "c2", "input": {}}]},
        {"role": "user", "content": [*results, text("And?")]},
        {"role": "assistant", "content": [text("No.")]},
        {"role": "user", "content": [text("Hello")]},
    ]


NOT_ANTHROPIC = [
    ({"n": 2}, "unsupported", "n"),
    ({"seed": 7}, "unsupported", "seed"),
    ({"presence_penalty": 0.5}, "unsupported", "presence_penalty"),
    ({"frequency_penalty": -1}, "unsupported", "frequency_penalty"),
    ({"logit_bias": {"1": 5}}, "unsupported", "logit_bias"),
    ({"logprobs": True}, "unsupported", "logprobs"),
    ({"verbosity": "low"}, "unsupported", "verbosity"),
    ({"temperature": 1.5}, "unsupported", "temperature"),
    ({"response_format": {"type": "json_object"}}, "unsupported", "response_format.type"),
    ({"messages": [HELLO, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}]}, "invalid_request", "messages[1].tool_calls[0].function.arguments"),
    ({"messages": [HELLO, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[]"}}]}]}, "invalid_request", "messages[1].tool_calls[0].function.arguments"),
]  # fmt: skip
TARGET = Target(provider="p", model="m", weight=1, price=None)


@pytest.mark.parametrize(("asked", "code", "path"), NOT_ANTHROPIC)
def test_what_anthropic_lacks_is_refused_by_name_before_anything_is_held(asked, code, path):
    ask = openai_chat.parse({"model": "m", "messages": [HELLO], **asked})
    with pytest.raises(Problem) as caught:
        bound(ask, TARGET, 9, api="anthropic")
    assert (caught.value.code, caught.value.errors[0]["path"]) == (code, path)
    bound(ask, TARGET, 9, api="openai")


TO_OPENAI = [
    ({}, {}),
    ({"temperature": 1, "top_p": 0.5}, {"temperature": 1, "top_p": 0.5}),
    ({"stop_sequences": ["a"]}, {"stop": ["a"]}),
    ({"stop_sequences": []}, {}),
    ({"metadata": {"user_id": "rep-7"}}, {"user": "rep-7"}),
    ({"service_tier": "standard_only"}, {"service_tier": "default"}),
    ({"thinking": {"type": "adaptive"}, "cache_control": {"type": "ephemeral"}, "context_management": {"edits": []}}, {}),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
    ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, {"reasoning_effort": "medium"}),
    ({"thinking": {"type": "enabled", "budget_tokens": 9000}, "max_tokens": 10_000}, {"reasoning_effort": "high"}),
    ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
    ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}}),
    ({"tools": []}, {}),
    ({"tools": [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}, "input_examples": [{}]}]}, {"tools": [CHAT_TOOL]}),
    ({"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}, {"tools": [CHAT_TOOL], "tool_choice": "required", "parallel_tool_calls": False}),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "lookup"}}, {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "lookup"}}}),
    ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, HELLO]}),
    ({"system": [text("a"), text("b")]}, {"messages": [{"role": "system", "content": "a\nb"}, HELLO]}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "sent"), TO_OPENAI)
def test_messages_fields_in_openais_words(asked, sent):
    assert from_messages(**asked) == {"messages": [HELLO], **sent}


def test_a_messages_conversation_in_openais_words():
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    thought = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]
    conversation = [
        {"role": "user", "content": [picture, text("Look")]},
        {"role": "assistant", "content": [*thought, text("I look."), USE, {**USE, "id": "c2", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [text("found"), picture]}, {"type": "tool_result", "tool_use_id": "c2", "content": "gone", "is_error": True}, text("And?")]},
        {"role": "system", "content": "In German."},
        {"role": "assistant", "content": thought},
        {"role": "assistant", "content": "Ja."},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c3"}]},
    ]  # fmt: skip
    calls = [CALL, {**CALL, "id": "c2", "function": {"name": "lookup", "arguments": "{}"}}]
    assert from_messages(messages=conversation)["messages"] == [
        {"role": "user", "content": [url, text("Look")]},
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: gone"},
        {"role": "user", "content": [url, text("And?")]},
        {"role": "system", "content": "In German."},
        {"role": "assistant", "content": "Ja."},
        {"role": "tool", "tool_call_id": "c3", "content": ""},
    ]


@pytest.mark.parametrize(("asked", "path"), [({"top_k": 5}, "top_k"), ({"stop_sequences": list("abcde")}, "stop_sequences")])  # fmt: skip
def test_what_openai_lacks_is_refused_by_name_before_anything_is_held(asked, path):
    ask = anthropic_messages.parse({"model": "m", "max_tokens": 9, "messages": [HELLO], **asked})
    with pytest.raises(Problem) as caught:
        bound(ask, TARGET, 9, api="openai")
    assert (caught.value.code, caught.value.errors[0]["path"]) == ("unsupported", path)
    bound(ask, TARGET, 9, api="anthropic")


def test_what_was_translated_to_anthropic_is_on_its_own_allow_list():
    for asked, _ in TO_ANTHROPIC:
        anthropic_messages.parse({"model": "m", "max_tokens": 9, **json.loads(json.dumps(from_chat(**asked)))})


def test_what_was_translated_to_openai_is_on_its_own_allow_list():
    for asked, _ in TO_OPENAI:
        openai_chat.parse({"model": "m", **json.loads(json.dumps(from_messages(**asked)))})
