"""Where a text may be cut: what is seen quickly of plain words and plain texts is what the rules say."""

from __future__ import annotations

import random

from buspass.mediation.patterns import seen
from buspass.mediation.segments import GAPS, OPEN, _breaks, _open, start_of

WORDS = [
    "fox",
    "the",
    "a",
    "Dinner",
    "PASS",
    "api_key",
    "mytoken",
    "basically",
    "author",
    "secrets",
    "x1",
    "42",
    "-",
    "=>",
    "key:",
    "end,",
    "(see)",
    "sure!",
    "B",
    "Ok.",
    "é",
]
PIECES = [
    *WORDS,
    *(word.upper() for word in WORDS),
    "pwd",
    "bearer",
    "o\u2011",
    "\u2013",
    "Bearer:",
    "s\u00e9cret",
    "tok",
    "pa\u017f\u017f",
    "en",
]


def before(text: str, at: int, floor: int) -> int:
    while at > floor and text[at - 1] not in GAPS and not _breaks(text[at - 1]):
        at -= 1
    return at


def by_the_rules(text: str, at: int, floor: int) -> int:
    start = before(text, at, floor)
    while True:
        gap = start
        while gap > floor and text[gap - 1] in GAPS:
            gap -= 1
        word = before(text, gap, floor)
        if gap in {start, word} or not seen(OPEN, text[word:gap]):
            return start
        start = word


def test_a_word_is_open_as_the_pattern_says() -> None:
    draw = random.Random(7)
    found = {True: 0, False: 0}
    for _ in range(6000):
        word = "".join(draw.choices(PIECES, k=draw.randrange(1, 3))) + draw.choice(
            ("", "", ".", ",", "?", ";", ":", "=", "Z")
        )
        assert _open(word) == seen(OPEN, word), word
        found[_open(word)] += 1
    assert min(found.values()) > 1000


def test_a_segment_begins_where_the_rules_say() -> None:
    draw = random.Random(8)
    for _ in range(6000):
        gaps = draw.choice(([" "], [" ", "  ", "   "], [" ", "\t", "\n", "\u00a0", "\u4e2d"]))
        pieces = draw.choice((WORDS[:-1], PIECES))
        text = "".join(draw.choice(pieces) + draw.choice(gaps) for _ in range(draw.randrange(8)))
        text = draw.choice(("", " ")) + text + draw.choice(("", "tail", "password"))
        floor = draw.randrange(len(text) + 1)
        at = draw.randrange(floor, len(text) + 1)
        assert start_of(text, at, floor) == by_the_rules(text, at, floor), (text, at, floor)
