"""buspass.yaml is read by YAML 1.2's core schema, exactly, and with a place for everything."""

import json
from decimal import Decimal

import pytest

from buspass.config.document import MAX_BYTES, MAX_VALUES, dotted, parse
from buspass.errors import ConfigError

SCALARS = [
    ("on", "on"),
    ("off", "off"),
    ("yes", "yes"),
    ("No", "No"),
    ("y", "y"),
    ("true", True),
    ("TRUE", True),
    ("False", False),
    ("tRue", "tRue"),
    ("~", None),
    ("null", None),
    ("", None),
    ("2026-11-20", "2026-11-20"),
    ("2026-11-20T09:00:00Z", "2026-11-20T09:00:00Z"),
    ("12:30:45", "12:30:45"),
    ("1_000", "1_000"),
    ("0b101", "0b101"),
    ("017", 17),
    ("0o17", 15),
    ("0x1F", 31),
    ("-0o17", "-0o17"),
    ("-12", -12),
    ("+12", 12),
    ("0.50", Decimal("0.50")),
    (".5", Decimal("0.5")),
    ("1.", Decimal(1)),
    ("1e3", Decimal(1000)),
    ("1e", "1e"),
    ("-", [None]),
    ("+", "+"),
    (".", "."),
    ("=", "="),
    ("<<", "<<"),
    ('"0.50"', "0.50"),
    ("'true'", "true"),
    ("!!str 5", "5"),
    ("! 5", "5"),
    ("!!int '5'", 5),
    ("!!float 5.0", Decimal("5.0")),
]

FAULTS = [
    (b"", "f:1:1 (document): the file is empty; the smallest useful one has version: and workflows:"),
    (b"# nothing\n", "f:1:1 (document): the file is empty; the smallest useful one has version: and workflows:"),
    (b"a: 1\na: 2\n", "f:2:1 a: duplicate key; it stands in line 1 already"),
    (b'{"a": {"b": 1,\n "b": 2}}', "f:2:2 a.b: duplicate key; it stands in line 1 already"),
    (b"a: 1\n---\nb: 2\n", "f:3:1 (document): a second document begins here; one file is one configuration"),
    (b"a: .inf\n", "f:1:4 a: .inf is not a finite number"),
    (b"a: [-.INF]\n", "f:1:5 a[0]: -.INF is not a finite number"),
    (b"a: .NaN\n", "f:1:4 a: .NaN is not a finite number"),
    (b"a: 1e999\n", "f:1:4 a: 1e999 is larger than JSON's numbers can be"),
    (b"404: x\n", "f:1:1 404: key '404' is not text; quote it"),
    (b".inf: x\n", "f:1:1 [\".inf\"]: key '.inf' is not text; quote it"),
    (b"true: x\n", "f:1:1 true: key 'true' is not text; quote it"),
    (b"? [a]\n: x\n", 'f:1:3 ["?"]: a key is text, not a list or mapping'),
    (b"a: &x [*x]\n", "f:1:8 (document): alias *x stands inside its own anchor"),
    (b"a: *x\n", "f:1:4 (document): alias *x has no anchor before it"),
    (b"a: !!python/object:os.system x\n", "f:1:4 a: tag tag:yaml.org,2002:python/object:os.system is not used here"),
    (b"a: !mine {b: 1}\n", "f:1:4 a: tag !mine is not used here"),
    (b"a: !!int x\n", "f:1:4 a: 'x' is not what its tag says"),
    (b"a: 1" + b"0" * 64 + b"\n", "f:1:4 a: a number of 65 digits; at most 64"),
    (
        b"a:\n\tb: c\n",
        "f:2:1 (document): not YAML: found character that cannot start any token; indent with spaces, YAML takes no tabs",
    ),
    (b"a: b: c\n", "f:1:5 (document): not YAML: mapping values are not allowed in this context"),
    (b"a: 1\nb: \xff\n", "f:2:4 (document): byte 0xff is not UTF-8"),
    (b"a: x\x00y\n", "f:1:1 (document): not YAML: control characters are not allowed"),
    (b"[" * 100_000, "f:1:65 (document): nested deeper than 64"),
    (b"a: " + b"x" * MAX_BYTES, f"f:1:1 (document): {MAX_BYTES + 3} bytes; at most {MAX_BYTES}"),
]


@pytest.mark.parametrize(("text", "meaning"), SCALARS, ids=[text for text, _ in SCALARS])
def test_a_scalar_means_what_the_core_schema_says(text, meaning):
    value = parse(f"a:\n  {text}\n".encode(), "f").data["a"]
    assert (value, type(value)) == (meaning, type(meaning))


@pytest.mark.parametrize(("source", "line"), FAULTS, ids=[line[:60] for _, line in FAULTS])
def test_a_faulty_document_is_refused_in_one_line(source, line):
    with pytest.raises(ConfigError) as caught:
        parse(source, "f")
    assert caught.value.problems == (line,)


def test_every_duplicate_key_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(b"b: {x: 1, x: 2}\na: 1\na: 2\n", "f")
    assert [line.split(":")[1] for line in caught.value.problems] == ["1", "3"]


def test_json_is_read_as_it_stands():
    text = json.dumps({"a": [1, 2.5, None, True, "x\n\u00e9", {"b": []}]}, indent="\t")
    found = parse(text.encode(), "f")
    assert found.data == {"a": [1, Decimal("2.5"), None, True, "x\n\u00e9", {"b": []}]}
    assert found.values["a", 5, "b"] == (9, 9)


def test_an_anchor_may_be_used_again_but_not_without_end():
    assert parse(b"a: &x {k: 1}\nb: [*x, *x]\n", "f").data == {"a": {"k": 1}, "b": [{"k": 1}, {"k": 1}]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    with pytest.raises(ConfigError) as caught:
        parse(bomb.encode(), "f")
    assert f"more than {MAX_VALUES} values once aliases are expanded" in caught.value.problems[0]


def test_a_chain_of_anchors_cannot_nest_deeper_than_the_text_may():
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 80))
    with pytest.raises(ConfigError) as caught:
        parse(chain.encode(), "f")
    assert "nested deeper than 64" in caught.value.problems[0]


def test_every_value_and_key_has_its_place():
    found = parse(b"version: 1\nworkflows:\n  my-agent:\n    models: [openai/gpt-5-mini]\n", "f")
    assert found.position(("workflows", "my-agent", "models", 0)) == (4, 14)
    assert found.position(("workflows", "my-agent"), key=True) == (3, 3)
    assert found.position(("workflows", "my-agent", "budget", "cost")) == (4, 5)


def test_a_path_is_written_as_a_person_would():
    assert dotted(("workflows", "my-agent", "models", 0)) == "workflows.my-agent.models[0]"
    assert dotted(("prices", "openai/gpt-5", "input")) == 'prices["openai/gpt-5"].input'
    assert dotted(("a\nb",)) == '["a\\nb"]'
    assert dotted(()) == "(document)"


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert parse(b"\xef\xbb\xbfa: 1\n", "f").data == {"a": 1}
