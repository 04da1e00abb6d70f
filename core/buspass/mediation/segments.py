"""Where a text may be cut: into segments that no finding crosses, decided from left to right.

A word closes its segment unless something may follow it in the same value: another group of digits (`GB82 WEST`), the
value behind `password:`, the rest of `-----BEGIN PRIVATE KEY-----`. Whether it does is seen from the word alone: for
that reason a stream cut here is inspected exactly like the whole text. Line breaks close a segment, and so does each
character of a script written without spaces.
"""

from __future__ import annotations

from typing import Final

from buspass.mediation.patterns import seen

GAPS: Final = frozenset(" \t\u00a0\u2007\u2009\u202f")
OPEN: Final = r"[0-9]|[A-Z:=>(/+|\x{2010}-\x{2015}-]$|(?i:pass|pwd|secret|token|key|bearer|basic|auth)"
_CLOSING: Final = frozenset(".,;!?")
"""Of what a word of letters may end with, what leaves it closed."""
_CAPITALS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _breaks(char: str) -> bool:
    """Control characters, line breaks, and all beyond Latin, Greek, Cyrillic and typographic dashes and quotes."""
    if " " <= char <= "~" or "\u00a0" <= char <= "\u052f" or char == "\t":
        return False
    return not ("\u1e00" <= char <= "\u1fff" or "\u2007" <= char <= "\u2027" or char == "\u202f")


def _open(word: str) -> bool:
    """Say whether something may follow it in the same value: nearly always it is letters alone, and a word of none."""
    letters = word[:-1] if word[-1:] in _CLOSING else word
    if letters.isalpha() and letters.isascii() and word[-1] not in _CAPITALS:
        word = letters.lower()
        return ("pass" in word or "pwd" in word or "secret" in word or "token" in word) or (
            "key" in word or "bearer" in word or "basic" in word or "auth" in word
        )
    return seen(OPEN, word)


def start_of(text: str, at: int, floor: int) -> int:
    """Where the segment begins that `at` lies in, or that a text ending at `at` may still continue. ≥ `floor`."""
    if text.isascii() and text.isprintable():  # nothing breaks it, and a space is the only gap
        return _plain_start(text, at, floor)
    start = _word_start(text, at, floor)
    while True:
        gap = start
        while gap > floor and text[gap - 1] in GAPS:
            gap -= 1
        word = _word_start(text, gap, floor)
        if gap in {start, word} or not _open(text[word:gap]):
            return start
        start = word


def _plain_start(text: str, at: int, floor: int) -> int:
    start = text.rfind(" ", floor, at) + 1 or floor
    while True:
        gap = start
        while gap > floor and text[gap - 1] == " ":
            gap -= 1
        if gap == start:
            return start
        word = text.rfind(" ", floor, gap) + 1 or floor
        if gap == word or not _open(text[word:gap]):
            return start
        start = word


def _word_start(text: str, at: int, floor: int) -> int:
    while at > floor and text[at - 1] not in GAPS and not _breaks(text[at - 1]):
        at -= 1
    return at


def end_of(text: str, at: int, stop: int) -> int | None:
    """Where the segment ends that begins at `at`; None if that is not seen before `stop` or the text's end."""
    stop = min(stop, len(text))
    while True:
        word = at
        while at < stop and text[at] not in GAPS and not _breaks(text[at]):
            at += 1
        if at == stop:
            return None
        if _breaks(text[at]) or at == word or not _open(text[word:at]):
            return at
        after = at
        while after < stop and text[after] in GAPS:
            after += 1
        if after == stop:
            return None
        if _breaks(text[after]):
            return at
        at = after
