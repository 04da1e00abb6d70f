"""One look at a JSON text never says more than reading all of it would."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buspass.errors import Problem
from buspass.jsontext import canonical, shortest, written
from buspass.mediation.classes import CLASSES
from buspass.mediation.patterns import seen
from buspass.mediation.rewriting import Plan, rewrite, untouched
from buspass.mediation.scanner import silent_json
from buspass.tools import schema

TEXTS = st.text(alphabet=st.sampled_from('a:"\\/{}[], \n\x7f\x1f\u2028é🦊b0'), max_size=6)
NUMBERS = st.one_of(
    st.integers(), st.integers(-(2**64), 2**64), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS, st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
TEXTED = st.one_of(
    VALUES.map(written),
    st.builds(
        lambda value, ascii_, gap: json.dumps(value, ensure_ascii=ascii_, separators=gap).encode(),
        VALUES,
        st.booleans(),
        st.sampled_from([(",", ":"), (", ", ": ")]),
    ),
)


@st.composite
def stirred(draw: st.DrawFn) -> bytes:
    """A text of JSON, or nearly: a piece of it stands twice, is cut out, or is something else."""
    text = draw(TEXTED)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    match draw(st.integers(0, 3)):
        case 0:
            return text[:end] + b"," + text[start:]
        case 1:
            return text[:start] + text[end:]
        case 2:
            more = draw(st.sampled_from([b"NaN", b"1e999", b"-0", b"\\ud800", b"\xff", b'"a":1,"a":2', b" ", b"1.50"]))
            return text[:start] + more + text[end:]
    return text


def outcome(body: bytes) -> Any:
    try:
        return repr(schema.parse_json(body, depth=8))  # repr: 1 is not 1.0, and the order of names counts
    except Problem as problem:
        return problem.detail


@settings(max_examples=400)
@given(stirred())
def test_the_strict_parser_says_the_same_without_its_first_look(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        first = outcome(body)
        patch.setattr(schema, "shortest", lambda _: None)
        assert first == outcome(body)


@settings(max_examples=150)
@given(VALUES)
def test_the_look_takes_what_we_write_ourselves(value: Any) -> None:
    text = written(value)
    assert shortest(text) in (value, None)
    assert canonical(value, finite=True) == canonical(value)


@pytest.mark.parametrize("text", [b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b"[1e400]", b'["\\ud800"]', b" 1", b"null"])
def test_the_look_takes_nothing_that_hides_something(text: bytes) -> None:
    assert shortest(text) is None


# ── what inspection need not read ───────────────────────────────────────────────────────────────────────────────────

EVERY = tuple(CLASSES)
PIECES = (
    "Dinner is at eight. ", "bob@example.com", "bob%40example.com", "4111 1111 1111 1111", "<EMAIL_00000001>", "<A",
    "sk-abcdef0123456789abcdef", "-----BEGIN PRIVATE KEY-----", "+44 20 7946 0958", "é, ü, 漢字, 🦊", "\ud800", "\x00",
    '"', "\\", "\n", "\t", "password", "pa\u017f\u017fword", "api_\u212aey", "BASIC", "https://", "?sig=", "/", "",
    "\u0660\uff11\uff20", "\u200b@", "\x7f", "null", "true",
)  # fmt: skip
LEAVES = (0, 7, 256, 10**11 - 1, 10**11, -(10**11), 4111111111111111, 2**80, 1.5, 4.111e15, True, None)


def value_of(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(6)
    if kind < 3 or depth > 2:
        return "".join(chance.choices(PIECES, k=chance.randrange(3)))
    if kind == 3:
        return chance.choice(LEAVES)
    if kind == 4:
        return [value_of(chance, depth + 1) for _ in range(chance.randrange(3))]
    return {str(value_of(chance, 9)): value_of(chance, depth + 1) for _ in range(chance.randrange(3))}


@pytest.mark.parametrize("classes", [EVERY, ("secret",), ("secret", "email")], ids="+".join)
def test_what_the_look_passes_holds_nothing(classes: tuple[str, ...]) -> None:
    chance = random.Random(5)
    passed = 0
    plan = Plan(actions=dict.fromkeys(classes, "mask"))
    for _ in range(3000):
        value = value_of(chance)
        if untouched(value, classes):
            passed += 1
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("buspass.mediation.rewriting.untouched", lambda *_: False)
                assert rewrite(value, plan) == (value, ())
    assert 100 < passed < 2900


def test_no_class_begins_with_a_sign_that_json_escapes() -> None:
    """Else it could stand in a string and not in the text: `silent_json` would be wrong."""
    for name, row in CLASSES.items():
        for sign in ['"', "\\", *map(chr, range(32))]:
            assert not seen(row.trigger, sign), (name, sign)
            assert not silent_json(written(f"{sign}bob@1eyJsk-{sign}"), (name,)), name


def test_a_limit_is_not_taken_for_a_card() -> None:
    assert untouched({"messages": ["hello"], "max_tokens": 256, "temperature": 0.7}, EVERY)
    assert not untouched({"seed": 4111111111111111}, EVERY)
