"""Anthropic's messages that are judged in one look are judged as the tables judge them, and weighed as text by text."""

from __future__ import annotations

import contextlib
import copy
import random
import re
from typing import Any

import pytest
from mutations import mutated

from buspass.errors import Problem
from buspass.jsontext import written
from buspass.model import Ask
from buspass.surfaces import anthropic_messages, fields, measure, messages_plain
from buspass.surfaces.anthropic_fields import REQUEST
from buspass.surfaces.fields import Report

MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
WORDS = {"type": "text", "text": "hello"}
MARKED = {"type": "text", "text": "grüße ﬁ e\u0301", "cache_control": HOUR}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": "ä", "input": ["x", {"y": None}], "n": 7}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "sig=="}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "hi"},
    {"role": "user", "content": [WORDS, MARKED]},
    {"role": "assistant", "content": [THOUGHT, {"type": "redacted_thinking", "data": "x"}, WORDS, CALL]},
    {"role": "assistant", "content": "ünïcode"},
    {"role": "user", "content": [RESULT, {**RESULT, "content": [WORDS, MARKED], "is_error": True}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "cache_control": MARK}]},
    {"role": "user", "content": []},
    {"role": "user", "content": [PICTURE, {**RESULT, "content": [PICTURE, WORDS]}]},
    {"role": "system", "content": "mid"},
)
PLAIN = 7
"""Of these, those that the look knows."""
TOOL = {"name": "look", "description": "up", "input_schema": {"type": "object", "input": [1, None]}}
MEMBERS: tuple[tuple[str, Any], ...] = (
    ("system", "You are brief."),
    ("system", [WORDS, MARKED]),
    ("tools", [TOOL]),
    ("tools", [TOOL, {"type": "custom", "name": "other", "input_schema": {}, "strict": True, "cache_control": MARK}]),
    ("tools", []),
    ("tools", [TOOL, TOOL]),
    ("max_tokens", 2**24 + 1),
    ("thinking", {"type": "enabled", "budget_tokens": 2**24 + 1}),
    ("thinking", {"type": "enabled", "budget_tokens": 4096}),
    ("tool_choice", {"type": "auto"}),
    ("tool_choice", {"type": "tool", "name": "look", "disable_parallel_tool_use": True}),
    ("tool_choice", {"type": "none"}),
    ("thinking", {"type": "enabled", "budget_tokens": 1024}),
    ("thinking", {"type": "adaptive", "display": "omitted"}),
    ("thinking", {"type": "disabled"}),
    ("output_config", {"effort": "high"}),
    ("output_config", {"format": {"type": "json_schema", "schema": {}}}),
    ("context_management", {"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "all"}}]}),
    ("cache_control", MARK),
    ("stop_sequences", ["a"]),
    ("temperature", 1),
    ("temperature", 0.25),
    ("top_p", 0.5),
    ("top_k", 40),
    ("metadata", {"user_id": "u" * 512}),
    ("stream", True),
    ("service_tier", "auto"),
)
NAMES = ("name", "content", "type", "input", "ttl", "x")
VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2.5, 1024, 2**24 + 1, "", "x", "a b", "look\n", "y" * 513, "auto", "tool", "5m", "custom",
    [], {}, [None], ["x"], {"x": "y"}, {"type": "text"}, WORDS, CALL, RESULT, THOUGHT, TOOL, MARK, PICTURE, float("inf"),
)  # fmt: skip
OLD = {"anthropic-version": "2023-06-01"}
NEW = {"anthropic-version": "2026-10-21"}


def requests(seed: int, number: int, *, whole: bool = False) -> list[Any]:
    chance = random.Random(seed)
    found = []
    for _ in range(number):
        known = MESSAGES[:PLAIN] if chance.random() < 0.8 else MESSAGES
        body = {"model": "plan", "max_tokens": 2048, "messages": chance.choices(known, k=chance.randrange(1, 5))}
        body = copy.deepcopy(body | dict(chance.sample(MEMBERS, k=chance.randrange(5))))
        found.append(body if whole else mutated(chance, body, NAMES, VALUES))
    return found


def surely(body: Any) -> bool:
    """Whether a body is one that the strict parser could have given: only such are asked of the look."""
    report = Report()
    fields.sound(body, report)
    return not report.invalid


@pytest.mark.parametrize("seed", range(4))
def test_what_fits_is_taken_by_the_tables_just_as_it_is(seed: int) -> None:
    fitting = 0
    for body in requests(seed, 1500):
        before = copy.deepcopy(body)
        if not messages_plain.fits(body):
            continue
        fitting += 1
        report = Report()
        clean = REQUEST(copy.deepcopy(body), "", report)
        assert not report.unsupported, body
        assert not report.invalid, body
        assert clean == before == body
    assert 300 < fitting < 1200  # the look can say both


def said(body: Any, monkeypatch: pytest.MonkeyPatch, *, plain: bool, headers: dict[str, str]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(anthropic_messages, "_fits", lambda: messages_plain.fits if plain else lambda _: False)
        try:
            return anthropic_messages.parse(copy.deepcopy(body), headers=headers, streaming=True, read=True)
        except Problem as problem:
            return problem.document()


@pytest.mark.parametrize("headers", [OLD, NEW])
def test_the_same_is_made_of_a_request_with_and_without_the_look(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(anthropic_messages, "_PARSED", iter(range(anthropic_messages.WARM, 10**9)))
    for body in filter(surely, requests(9, 1500)):
        slow = said(body, monkeypatch, plain=False, headers=headers)
        assert said(body, monkeypatch, plain=True, headers=headers) == slow


WRITTEN = re.compile(r"messages\[\d+\]\.content\[\d+\]\.input\b")


def test_a_request_weighs_what_its_texts_and_its_schemas_do_one_by_one() -> None:
    """With their paths: the arguments of an earlier call count as JSON and not as the strings in them."""
    weighed = 0
    for body in requests(17, 600, whole=True):
        with contextlib.suppress(Problem):
            weighed += weighs(body, anthropic_messages.parse(body, streaming=True))
    assert weighed > 300


def weighs(body: Any, ask: Ask) -> bool:
    pictures = {f"{image.path}.source.data" for image in ask.images}
    texts = [
        string
        for part in ("system", "messages")
        for at, string in measure.strings(ask.payload.get(part), part, pictures)
        if not WRITTEN.match(at)
    ]
    blocks = [block for message in body["messages"] for block in message["content"] if isinstance(block, dict)]
    values = [block["input"] for block in blocks if block["type"] == "tool_use"]
    values += [body[name] for name in ("tools", "tool_choice", "output_config") if name in body]
    assert ask.input_bytes == measure.octets([*texts, *(written(value).decode() for value in values)])
    text = written(body)
    marked = b'"cache_control"' in text
    assert ask.caches == ("no" if not marked else "1h" if b'"ttl":"1h"' in text else "5m")
    return True


def test_parsing_leaves_the_body_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest is taken afterwards."""
    monkeypatch.setattr(anthropic_messages, "_PARSED", iter(range(anthropic_messages.WARM, 10**9)))
    for body in filter(messages_plain.fits, requests(11, 300, whole=True)):
        before = copy.deepcopy(body)
        with contextlib.suppress(Problem):
            anthropic_messages.parse(body, headers=OLD, streaming=True, read=True)
        assert body == before
