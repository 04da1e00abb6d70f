"""Whatever a file holds, it is either a configuration or a list of lines that say what is wrong."""

import re
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from buspass.config.build import Surroundings
from buspass.config.build import compile as build
from buspass.config.document import parse
from buspass.config.settings import Settings
from buspass.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "examples" / "returns"
EXAMPLE = (FOLDER / "buspass.yaml").read_bytes()
LINE = re.compile(r"f:\d+:\d+ .+: .+")
WORDS = [
    b"",
    b" ",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"-",
    b"&a ",
    b"*a",
    b"!!int ",
    b"null",
    b"true",
    b"1e9",
    b"0.1",
]
WORDS += [b"$subject.id", b"on", b"\xff", b"\x00", b"'", b'"', b"#", b"?", b"|", b"\t", b"http://[", b"{}", b"-1"]


def judged(source):
    """Build it, and hold every fault to its form."""
    try:
        found = build(parse(source, "f"), Surroundings(folder=FOLDER, environ={}))
    except ConfigError as error:
        faults = error.problems or [""]
    else:
        assert isinstance(found, Settings)
        faults = []
    assert [line for line in faults if not LINE.fullmatch(line)] == []


@settings(max_examples=200, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 12), st.sampled_from(WORDS)), min_size=1, max_size=4
    )
)
def test_the_example_with_bytes_replaced(edits):
    source = EXAMPLE
    for at, length, word in edits:
        source = source[:at] + word + source[at + length :]
    judged(source)


@settings(max_examples=100, derandomize=True)
@given(st.binary(max_size=200))
@example(b"a: &a\n")
@example(b"? \n: \n")
@example(b"version: 1\nworkflows: {w: {models: [/]}}\n")
@example(b"version: 1\nworkflows: {w: {tools: [{tool: a, where: []}]}}\n")
@example(b'version: 1\nworkflows: {w: {}}\n"a\\nb": 1\n')
@example(b"version: 1\nworkflows: {w: {}}\ntools: {t: {http: {method: GET, url: 'http://['}}}\n")
@example(b"version: 1\nworkflows: {w: {}}\ntools: {t: {http: {method: GET, url: 'http://h'}, input: {type: 1.5}}}\n")
@example(
    b"version: 1\nworkflows: {w: {}}\ntools: {t: {http: {method: GET, url: 'http://h'}, input: {required: [1]}}}\n"
)
@example(b"version: 1\nworkflows: {w: {}}\ntools: {t: {http: {method: GET, url: 'http://h'}, input: {$ref: 'x y'}}}\n")
@example(b'version: 1\nworkflows: {w: {}}\npolicy: {path: "a\\0b"}\n')
@example(b'version: 1\nworkflows: {w: {}}\nissuer: "https://\\ud800"\n')
@example(b'version: 1\nworkflows: {w: {}}\nprices: {"a/b": {input: 1e999, output: 1}}\n')
@example(
    b"version: 1\nworkflows: {w: {}}\ntools: {t: {http: {method: GET, url: 'http://h'}, input: {type: object, minimum: 1e999}}}\n"
)
@example(b"version: 1\nworkflows: {w: {tools: [{tool: a, where: {x: 1e999}}]}}\n")
def test_any_bytes_at_all(source):
    judged(source)
