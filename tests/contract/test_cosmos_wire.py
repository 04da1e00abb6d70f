"""The texts that Cosmos DB reads as code: each is checked again where it is made."""

import json
from pathlib import Path

import pytest

from buspass.ports.operations import Absent, AtLeast, Equals, Present, Put, Update
from buspass_azure import cosmos_wire as wire

EVIL = 'a"] OR true OR c["x'


@pytest.mark.parametrize("path", [(EVIL,), ("a", EVIL), ("a", "b", EVIL), ("",), (), ("a", "b", "c", "d"), ("é",)])
def test_a_path_outside_the_alphabet_never_becomes_a_predicate(path):
    for condition in (Present(path), Absent(path), Equals(path, 1), AtLeast(path, 1)):
        with pytest.raises(ValueError, match=r"segment|path"):
            wire.predicate((condition,))


@pytest.mark.parametrize("path", [(EVIL,), ("a", "b/c"), ("a", "b~1"), ("",), ("a", "b", "c")])
def test_a_path_outside_the_alphabet_never_becomes_a_patch(path):
    for change in ({"add": {path: 1}}, {"set": {path: 1}}, {"remove": (path,)}):
        with pytest.raises(ValueError, match="segment"):
            wire.steps("t", Update("k", (Absent(("z",)),), **change))


def test_an_index_outside_the_alphabet_never_becomes_code():
    for name in (EVIL, "a/b", ""):
        with pytest.raises(ValueError, match="segment"):
            wire.finding(name, "s", "9")
        with pytest.raises(ValueError, match="segment"):
            wire.steps("t", Put("k", {"n": 1}, index={name: ("s", "1")}))


@pytest.mark.parametrize("value", [1.5, 2**53, None, float("nan"), [1], {"a": 1}, b"x"])
def test_a_value_that_is_no_scalar_of_the_port_never_becomes_a_predicate(value):
    for condition in (Equals(("a",), value), AtLeast(("a",), value)):
        with pytest.raises(ValueError, match="enter a predicate"):
            wire.predicate((condition,))


def test_a_predicate_reads_as_documented():
    found = wire.predicate((Present(("a",)), Absent(("b", "c-d", "e.f")), Equals(("s",), 'x"y'), AtLeast(("n",), -3)))
    assert found == (
        'FROM c WHERE IS_DEFINED(c["v"]["a"]) AND NOT IS_DEFINED(c["v"]["b"]["c-d"]["e.f"]) '
        'AND c["v"]["s"] = "x\\"y" AND c["v"]["n"] >= -3'
    )


def test_ids_are_distinct_short_and_of_harmless_characters():
    keys = ["a", "A", "a/b", "a\\b", "a?b", "a#b", " ", "a ", ".", "..", "...", "~", "~2F", "/", "%2F", "a.b", "rec:1"]
    ids = [wire.identity(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert wire.identity("rec:1-a.b_C") == "rec:1-a.b_C"
    for made in [*ids, wire.identity("/" * 255)]:
        assert len(made) <= 1023
        assert made.strip(".")
        assert not set(made) & set("/\\?# ")


def test_whole_doubles_become_integers_again():
    found = wire.item({"v": {"n": 9007199254740991.0, "l": [1.0, {"x": -0.0}], "b": True, "s": "1.0"}})
    assert repr(found) == "{'n': 9007199254740991, 'l': [1, {'x': 0}], 'b': True, 's': '1.0'}"


def test_the_page_on_stores_gives_the_indexing_policy_of_the_code():
    page = (Path(__file__).parents[2] / "docs/stores.md").read_text()
    blocks = [json.loads(block.partition("```")[0]) for block in page.split("```json\n")[1:]]
    assert wire.INDEXING in blocks
