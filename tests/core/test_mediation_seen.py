"""One look at a text says the same as a search that tells where: for every pattern that is asked so."""

from __future__ import annotations

import random

import pytest

from buspass.mediation.classes import CLASSES
from buspass.mediation.patterns import compiled, encodable, seen
from buspass.mediation.scanner import MENTION

PIECES = (
    "Dinner is at eight. ",
    "bob@example.com",
    "4111 1111 1111 1111",
    "<EMAIL_00000001>",
    "EMAIL_00000001",
    "sk-abcdef0123456789abcdef",
    "-----BEGIN PRIVATE KEY-----",
    "+44 20 7946 0958",
    "é, ü, 漢字, 🦊",
    "\ud800",
    "\udfff@",
    "\x00",
    "",
)
PATTERNS = (MENTION, *dict.fromkeys(CLASSES[name].trigger for name in CLASSES))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_look_finds_what_a_search_finds(pattern: str) -> None:
    chance = random.Random(7)
    texts = [*PIECES, *("".join(chance.choices(PIECES, k=chance.randrange(1, 6))) for _ in range(400))]
    found = [seen(pattern, text) for text in texts]
    assert found == [compiled(pattern).search(encodable(text)) is not None for text in texts]
    assert not found[0] and any(found)  # noqa: PT018 - the look can say both
