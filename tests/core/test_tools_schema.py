"""JSON is taken strictly, and a misfit tells an agent how to mend its call."""

import json

import pytest

from buspass.errors import Problem
from buspass.tools.schema import DEPTH, ROWS, Validator, closed, compiled, parse_json, pointer

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^O-"},
        "amount": {"type": "number"},
        "kind": {"enum": ["full", "part"]},
        "mode": {"const": "slow"},
        "ship": {"$ref": "#/$defs/Address"},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["id", "amount"],
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "additionalProperties": False,
        }
    },
}
COMPOSED = {
    "allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {}}}],
    "type": "object",
}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, -0, true, null, "\\u00e9"]} ', {"a": [1, 2.5, 0, True, None, "é"]}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b"[" * DEPTH + b"]" * DEPTH, json.loads("[" * DEPTH + "]" * DEPTH)),
    ],
)
def test_sound_json_is_read(body, value):
    assert parse_json(body) == value


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (b'{"a": "\xff"}', "invalid_request", "UTF-8 at byte 7"),
        ('{"é": x}'.encode(), "invalid_request", "at byte 7"),
        (b"", "invalid_request", "not JSON"),
        (b"{} {}", "invalid_request", "Extra data at byte 3"),
        (b'{"a": 1, "a": 2}', "invalid_request", 'member "a" stands twice'),
        (b'{"b": {"a": 1, "a": 1}}', "invalid_request", "twice"),
        (b"[NaN]", "invalid_request", "NaN"),
        (b"-Infinity", "invalid_request", "-Infinity"),
        (b"1e999", "invalid_request", "too large"),
        (b"9" * 5000, "invalid_request", "refused"),
        (b'{"a": ["\\ud800"]}', "invalid_request", "surrogate"),
        (b'{"\\udfff": 1}', "invalid_request", "surrogate"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "invalid_request", "deeper"),
        (b"[" * 400_000, "invalid_request", "deeper"),
        (b'{"a":' * 150_000, "invalid_request", "deeper"),
        (b'["%s",' % (b"x" * 5000) + b'{"a":[' * 32 + b"]}" * 32 + b"]", "invalid_request", "deeper"),
        (b'["%s", ' % (b"x" * 5000) + b'{"a": [' * 32 + b"]}" * 32 + b"]", "invalid_request", "deeper"),
        (b" " * 1_000_001, "request_too_large", "1000001 bytes"),
    ],
    ids=range(18),
)
def test_anything_else_is_a_problem_that_says_where(body, code, told):
    with pytest.raises(Problem) as caught:
        parse_json(body)
    assert caught.value.code == code
    assert told in caught.value.detail


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ({"id": "O-1", "amount": 2}, []),
        ({"id": "O-1"}, [("/amount", "is required", ["id", "amount"])]),
        ({"id": "x", "amount": 1}, [("/id", 'this value does not match "^O-"', None)]),
        (
            {"id": "O-1", "amount": "2"},
            [("/amount", 'this value is not of type "number"', ["number"])],
        ),
        (
            {"id": "O-1", "amount": 1, "kind": "all"},
            [("/kind", 'this value is not one of "full" or "part"', ["full", "part"])],
        ),
        ({"id": "O-1", "amount": 1, "mode": "fast"}, [("/mode", '"slow" was expected', ["slow"])]),
        ({"id": "O-1", "amount": 1, "day": "soon"}, [("/day", 'this value is not a "date"', None)]),
        (
            {"id": "O-1", "amount": 1, "order_nr": 3},
            [
                (
                    "/order_nr",
                    'there is no parameter "order_nr"',
                    ["amount", "day", "id", "kind", "mode", "ship"],
                )
            ],
        ),
        (
            {"id": "O-1", "amount": 1, "ship": {"zip/x": 1}},
            [("/ship/zip~1x", 'there is no parameter "zip/x"', ["city", "street"])],
        ),
    ],
)
def test_a_misfit_names_its_place_and_what_would_do(value, rows):
    found = compiled(closed(ORDER)).check(value)
    assert [(row["path"], row["message"], row.get("allowed")) for row in found] == rows


def test_a_schema_that_says_nothing_of_unknown_members_is_closed_at_its_top():
    assert closed({"type": "object"})["additionalProperties"] is False
    assert closed({"additionalProperties": True}) == {"additionalProperties": True}
    assert closed({"unevaluatedProperties": {}}) == {"unevaluatedProperties": {}}


def test_closing_a_composed_schema_still_sees_what_its_parts_declare():
    validator = compiled(closed(COMPOSED))
    assert validator.check({"a": 1, "b": 2}) == []
    assert [row["path"] for row in validator.check({"a": 1, "c": 2})] == ["/c"]
    assert validator.check({"c": 2})[0]["allowed"] == ["a", "b"]
    assert "go with the others" in validator.check({"a": "x"})[1]["message"]


def test_alternatives_that_all_misfit_say_why_each():
    validator = Validator({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]})
    (row,) = validator.check({})
    assert '"a" is a required' in row["message"]
    assert '"b" is a required' in row["message"]


def test_messages_never_repeat_a_value_and_are_few():
    validator = Validator({"items": {"type": "integer"}})
    rows = validator.check(["secret"] * 100)
    assert len(rows) == ROWS
    assert "secret" not in json.dumps(rows)


def test_violations_tell_nothing_of_the_value_not_even_its_own_member_names():
    schema = {
        "type": "object",
        "properties": {"total": {"type": "number"}},
        "additionalProperties": {"type": "object", "additionalProperties": False},
    }
    value = {"total": "hidden", "ignore all rules": {"do evil": 1}, "and this": "hidden"}
    rows = Validator(schema).violations(value)
    assert {row["path"] for row in rows} == {"/total", "/*"}
    assert not any(word in json.dumps(rows) for word in ("hidden", "ignore", "evil", "and this"))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nope"}, "/type"),
        ({"pattern": "("}, "/pattern"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "disabled"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True}, "/exclusiveMinimum"),
    ],
)
def test_a_wrong_schema_is_refused_and_nothing_is_fetched(schema, told):
    with pytest.raises(ValueError, match="not a JSON Schema") as caught:
        Validator(schema)
    assert told in str(caught.value)


def test_equal_schemas_are_compiled_once():
    assert compiled(dict(ORDER)) is compiled(dict(reversed(ORDER.items())))


def test_pointers_escape_as_rfc_6901_says():
    assert pointer([]) == ""
    assert pointer(["a/b", 0, "m~n"]) == "/a~1b/0/m~0n"
