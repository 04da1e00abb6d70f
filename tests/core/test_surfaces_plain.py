"""What is judged in one look is judged as the tables judge it: nothing passes that they refuse or change."""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import pytest
from mutations import mutated

from buspass.errors import Problem
from buspass.jsontext import texts_in
from buspass.surfaces import chat_plain, fields, openai_chat
from buspass.surfaces.fields import Report
from buspass.tools.schema import DEPTH, parse_json

PART = {"type": "text", "text": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "up", "parameters": {"type": "object", "a": [1, None]}, "strict": True},
}
MESSAGES = (
    {"role": "system", "content": "You are brief."},
    {"role": "developer", "content": [PART], "name": "dev"},
    {"role": "user", "content": "ünïcode"},
    {"role": "user", "content": [PART, PART], "name": "bob"},
    {"role": "assistant", "content": "hm", "name": "it"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "assistant", "content": [PART], "tool_calls": [CALL]},
    {"role": "tool", "content": "{}", "tool_call_id": "c1"},
    {"role": "assistant", "content": "", "refusal": None},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    {"role": "assistant", "content": None},
)
MEMBERS: tuple[tuple[str, Any], ...] = (
    ("tools", [TOOL]),
    ("tools", [TOOL, {"type": "function", "function": {"name": "x"}}]),
    ("tools", [TOOL, TOOL]),
    ("tool_choice", "auto"),
    ("tool_choice", {"type": "function", "function": {"name": "nobody"}}),
    ("tool_choice", {"type": "function", "function": {"name": "look"}}),
    ("parallel_tool_calls", False),
    ("temperature", 1),
    ("temperature", 0.25),
    ("top_p", 1.0),
    ("n", 2),
    ("max_tokens", 16),
    ("max_tokens", 2**24 + 1),
    ("max_completion_tokens", 2**24),
    ("presence_penalty", -2),
    ("frequency_penalty", 0.5),
    ("user", "u" * 512),
    ("metadata", {"team": "red", "k" * 64: ""}),
    ("stream", True),
    ("stream_options", {"include_usage": True}),
    ("seed", 7),
    ("stop", ["a"]),
)
NAMES = ("name", "index", "content", "strict", "type", "x")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, 1.0, 2**24 + 1, 2**70, "", "x", "a b", "look\n", "é" * 65, "y" * 513, "auto",
    [], {}, [None], ["x"], {"x": "y"}, {"type": "text"}, PART, CALL, TOOL, {"role": "user"}, float("inf"),
)  # fmt: skip


def requests(seed: int, count: int) -> list[Any]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        messages = chance.choices(MESSAGES[:8] if chance.random() < 0.8 else MESSAGES, k=chance.randrange(1, 5))
        body = {"model": "plan", "messages": messages, **dict(chance.sample(MEMBERS, k=chance.randrange(5)))}
        found.append(mutated(chance, copy.deepcopy(body), NAMES, VALUES))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_what_fits_is_taken_by_the_tables_just_as_it_is(seed: int) -> None:
    fitting = 0
    for body in requests(seed, 1500):
        before = copy.deepcopy(body)
        if not chat_plain.fits(body):
            continue
        fitting += 1
        report = Report()
        clean = openai_chat.REQUEST(copy.deepcopy(body), "", report)
        assert not report.unsupported, body
        assert not report.invalid, body
        for message in clean["messages"]:
            message.setdefault("content", None)
        assert clean == before == body
    assert 300 < fitting < 1200  # the look can say both


def surely(body: Any) -> bool:
    """Whether a body is one that the strict parser could have given: only such are asked of the look."""
    report = Report()
    fields.sound(body, report)
    return not report.invalid


def said(body: Any, monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(openai_chat, "_fits", lambda: chat_plain.fits if plain else lambda _: False)
        try:
            return openai_chat.parse(copy.deepcopy(body), streaming=True, read=True)
        except Problem as problem:
            return problem.document()


def test_the_same_is_made_of_a_request_with_and_without_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_chat, "_PARSED", iter(range(openai_chat.WARM, 10**9)))
    for body in filter(surely, requests(9, 1500)):
        assert said(body, monkeypatch, plain=True) == said(body, monkeypatch, plain=False)


def test_messages_of_nothing_but_strings_weigh_what_every_string_in_them_does() -> None:
    flat = 0
    for body in filter(chat_plain.fits, requests(10, 1500)):
        try:
            ask = openai_chat.parse(body, streaming=True, read=True)
        except Problem:
            continue
        assert ask.input_bytes == openai_chat._size(ask.payload, ())
        flat += ask.flat
        if ask.flat:
            assert all(type(part) is str for message in ask.payload["messages"] for part in message.values())
    assert 50 < flat < 1000


def test_parsing_leaves_the_body_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest is taken afterwards."""
    monkeypatch.setattr(openai_chat, "_PARSED", iter(range(openai_chat.WARM, 10**9)))
    for body in filter(chat_plain.fits, requests(11, 500)):
        before = copy.deepcopy(body)
        with contextlib.suppress(Problem):
            openai_chat.parse(body, streaming=True, read=True)
        assert body == before


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEPTH + b"1" + b"]" * DEPTH,
        b'{"a":' * DEPTH + b"{}" + b"}" * DEPTH,
        b'{"a":' * (DEPTH - 1) + b"{}" + b"}" * (DEPTH - 1),
        '["\U0001f98a","\\u00e9\\ud83e\\udd8a"]'.encode(),
        b'["\\ud800"]',
        b"[1e308,1e309]",
    ],
    ids=range(6),
)
def test_what_the_strict_parser_gives_is_sound(body: bytes) -> None:
    """So a surface need not look again."""
    report = Report()
    try:
        value = parse_json(body)
    except Problem:
        return
    fields.sound(value, report)
    assert not report.invalid


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a", ["a"]),
        (1, []),
        ({}, []),
        ({"a": {"b": ["c", 1, None, {"d": "e"}]}}, ["a", "b", "c", "d", "e"]),
        ([["x", ["y"]], "z"], ["x", "y", "z"]),
        ([{"role": "user", "content": "hi"}] * 2, ["content", "content", "hi", "hi", "role", "role", "user", "user"]),
    ],
)
def test_every_string_and_name_is_found_once_at_whatever_level(value: Any, found: list[str]) -> None:
    assert sorted(texts_in(value)) == found
    assert sorted(leaf for _, leaf, _ in fields.leaves(value) if isinstance(leaf, str)) == found
