"""Server-sent events are read alike, however the network cuts them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buspass.providers.sse import Event, Parser


def read(data: bytes, *cuts: int, limit: int = 4_000_000) -> list[Event]:
    parser, places = Parser(limit=limit), sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [event for a, b in pairwise(places) for event in parser.feed(data[a:b])]


ROWS = [
    (b"data: a\n\n", [("", "a")]),
    (b"data:a\r\n\r\n", [("", "a")]),
    (b"data: a\r\r", [("", "a")]),
    (b"data:  a\n\n", [("", " a")]),
    (b"event: ping\ndata: {}\n\n", [("ping", "{}")]),
    (b"data: a\ndata: b\n\n", [("", "a\nb")]),
    (b"data\n\n", [("", "")]),
    (b": keep-alive\n\ndata: a\n\n", [("", "a")]),
    (b"event: lonely\n\ndata: a\n\n", [("", "a")]),
    (b"id: 7\nretry: 10\nnonsense\ndata: a\n\n", [("", "a")]),
    (b"\xef\xbb\xbfdata: a\n\n", [("", "a")]),
    (b"data: a\n\ndata: unfinished", [("", "a")]),
    (b"data: a\n\ndata: unfinished\n", [("", "a")]),
    ("data: Größe 😀\n\n".encode(), [("", "Größe 😀")]),
    (b"data: a:b\n\n", [("", "a:b")]),
    (b"", []),
]


@pytest.mark.parametrize(("data", "events"), ROWS)
def test_events_are_read_as_the_standard_says(data, events):
    assert [(event.name, event.data) for event in read(data)] == events


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@given(st.lists(TEXTS.map(json.dumps)), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 10_000)))
def test_it_does_not_matter_where_the_network_cuts(texts, end, cuts):
    data = "".join(f"event: e{end}data: {text}{end}{end}" for text in texts).encode()
    assert [event.data for event in read(data, *cuts)] == texts
    assert read(data, *cuts) == read(data, *range(len(data)))


LINES = st.sampled_from(
    ["data: a", "data:a", "data: ", "data", "event: e", "event:", "event: ", ": c", "id: 7", "", ""]
)


@given(st.lists(st.one_of(LINES, TEXTS)), st.sampled_from(["\n", "\n", "\r\n", "\n\n"]))
def test_whole_events_in_one_piece_are_what_they_are_byte_by_byte(lines, end):
    data = end.join(lines).encode() + b"\n\n"
    assert read(data) == read(data, *range(len(data)))


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: x\n" * 40, b"x" * 200])
def test_an_event_without_end_is_not_kept_for_ever(data):
    with pytest.raises(ValueError, match="100 bytes"):
        read(data, *range(0, len(data), 3), limit=100)


def test_a_stream_of_many_events_has_no_limit():
    assert len(read(b"data: some words\n\n" * 1000, limit=100)) == 1000
    assert read(b": ping\n" * 1000, limit=100) == []


def test_what_is_no_utf8_is_no_event():
    with pytest.raises(ValueError, match="utf-8"):
        read(b"data: \xff\n\n")
