"""A tool gets a person's data only where its schema says so, and only of the class it says."""

import pytest

from buspass.mediation.arguments import restore_arguments
from buspass.mediation.placeholders import Placeholders

TABLE = Placeholders(b"0123456789abcdef")
MAIL, ADDRESS = TABLE.hide("alice@example.com 203.0.113.7").split()
MARKED = {"type": "string", "x-buspass-personal": ["email"]}
BOTH = f"{MAIL} {ADDRESS}"
RESTORED = f"alice@example.com {ADDRESS}"


@pytest.mark.parametrize(
    ("schema", "arguments", "expected"),
    [
        ({"properties": {"to": MARKED, "note": {"type": "string"}}}, {"to": BOTH, "note": BOTH}, {"to": RESTORED, "note": BOTH}),
        ({"properties": {"to": MARKED}}, {"to": "<EMAIL_00000000>", "cc": MAIL}, {"to": "<EMAIL_00000000>", "cc": MAIL}),
        ({"properties": {"a": {"properties": {"to": MARKED}}}}, {"a": {"to": MAIL}, "to": MAIL}, {"a": {"to": "alice@example.com"}, "to": MAIL}),
        ({"properties": {"to": {"items": MARKED}}}, {"to": [MAIL, 1]}, {"to": ["alice@example.com", 1]}),
        ({"properties": {"to": {"type": "array", "x-buspass-personal": ["email"]}}}, {"to": [MAIL]}, {"to": ["alice@example.com"]}),
        ({"properties": {"to": {"prefixItems": [{}, MARKED], "items": {}}}}, {"to": [MAIL] * 3}, {"to": [MAIL, "alice@example.com", MAIL]}),
        ({"additionalProperties": MARKED, "properties": {"a": {}}}, {"a": MAIL, "b": MAIL}, {"a": MAIL, "b": "alice@example.com"}),
        ({"properties": {"to": {"anyOf": [{"type": "null"}, MARKED]}}}, {"to": MAIL}, {"to": "alice@example.com"}),
        ({"$defs": {"M": MARKED}, "properties": {"to": {"$ref": "#/$defs/M"}}}, {"to": MAIL}, {"to": "alice@example.com"}),
        ({"properties": {"to": {"$ref": "https://x.example/schema"}}}, {"to": MAIL}, {"to": MAIL}),
        ({"properties": {"to": {"$ref": "#/nowhere"}}}, {"to": MAIL}, {"to": MAIL}),
        ({"properties": {"a": {"type": "object", "x-buspass-personal": ["email"]}}}, {"a": {"to": MAIL}}, {"a": {"to": MAIL}}),
        ({"properties": {"to": {"x-buspass-personal": "email"}}}, {"to": MAIL}, {"to": MAIL}),
        ({}, {"to": MAIL, "n": 1, "x": None}, {"to": MAIL, "n": 1, "x": None}),
    ],
)  # fmt: skip
def test_values_come_back_at_marked_places_only(schema, arguments, expected):
    assert restore_arguments(schema, arguments, TABLE) == expected


def test_a_schema_that_refers_to_itself_ends_with_the_arguments():
    schema = {"$ref": "#/$defs/N", "$defs": {"N": {"properties": {"to": MARKED, "next": {"$ref": "#/$defs/N"}}}}}
    schema["$defs"]["N"]["allOf"] = [{"$ref": "#/$defs/N"}]
    assert restore_arguments(schema, {"next": {"next": {"to": MAIL}}}, TABLE) == {
        "next": {"next": {"to": "alice@example.com"}}
    }


def test_schema_and_workflow_must_agree():
    schema = {"properties": {"to": {"x-buspass-personal": ["email", "ip_address"]}}}
    assert restore_arguments(schema, {"to": BOTH}, TABLE) == {"to": "alice@example.com 203.0.113.7"}
    assert restore_arguments(schema, {"to": BOTH}, TABLE, ["ip_address"]) == {"to": f"{MAIL} 203.0.113.7"}
    assert restore_arguments(schema, {"to": BOTH}, TABLE, []) == {"to": BOTH}


def test_the_arguments_handed_in_stay_as_they_are():
    arguments = {"to": MAIL}
    restore_arguments({"properties": {"to": MARKED}}, arguments, TABLE)
    assert arguments == {"to": MAIL}
