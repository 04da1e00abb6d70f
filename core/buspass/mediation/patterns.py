"""Patterns by RE2, whose time is linear in the text whatever the pattern, and the borders a match must have.

Knows no class of finding. RE2 is imported with the first pattern that is needed, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, Protocol

type Span = tuple[int, int]
"""Start and end of a match in a text, in characters."""

SPACES: Final = " \u00a0\u2007\u2009\u202f"
DASHES: Final = "-\u2010\u2011\u2012\u2013"
SEPARATORS: Final = f"{SPACES}{DASHES}."
"""What people write between the groups of a number; one character, never two."""

ESCAPE: Final = r'\\(?:[nrt"/]|u[0-9a-fA-F]{4})'
BLANK: Final = "\0"
NOWHERE: Final = (-1, -1)
"""The span of a pattern that is not in a text."""


class Match(Protocol):
    """What of RE2's match object is used here."""

    def group(self, group: int | str = 0, /) -> str | None: ...
    def span(self, group: int | str = 0, /) -> Span: ...


class Pattern(Protocol):
    """What of RE2's pattern object is used here. Each call encodes its whole text: never call `search` in a loop."""

    def search(self, text: str, /) -> Match | None: ...
    def match(self, text: str, /) -> Match | None: ...
    def finditer(self, text: str, /) -> Iterator[Match]: ...


@cache
def compiled(pattern: str) -> Pattern:
    """`pattern` in RE2's syntax (github.com/google/re2/wiki/Syntax), compiled once."""
    import re2  # noqa: PLC0415 - a call without inspection should not pay for it

    found: Pattern = re2.compile(pattern)
    return found


@cache
def looking(pattern: str) -> Callable[[bytes], bool]:
    """Give what says of a text in UTF-8 whether the pattern is somewhere in it.

    It asks RE2 as it is: the wrapper would go through two generators, for a match that nobody reads.
    """
    import re2  # noqa: PLC0415 - see compiled

    find, anywhere = re2.compile(pattern.encode())._regexp.Match, re2._re2.RE2.Anchor.UNANCHORED  # noqa: SLF001

    def look(data: bytes) -> bool:
        return bool(find(anywhere, data, 0, len(data))[0] != NOWHERE)

    return look


def seen(pattern: str, text: str) -> bool:
    """Whether the pattern is somewhere in the text: `compiled(pattern).search(encodable(text))`, at half its cost.

    RE2's own wrapper counts the characters of a text for where in it a match stands, which nobody asks for here.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = encodable(text).encode()
    return seen_in(pattern, data)


def seen_in(pattern: str, data: bytes) -> bool:
    """The same for a text in UTF-8."""
    return looking(pattern)(data)


def encodable(text: str) -> str:
    """The text with lone surrogates, which JSON may hold and UTF-8 can't, replaced one for one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def blanked(text: str, spans: Iterator[Span] | list[Span]) -> str:
    """The text with `spans` blanked out, of the same length: nothing is found in what was found already."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], BLANK * (end - start)]
        at = end
    return "".join(pieces) + text[at:] if pieces else text


def readable(text: str) -> str:
    r"""The text without JSON's escapes, of the same length: in `\n4111…` and `\nbob@…` the n belongs to nothing."""
    if "\\" not in text:
        return text
    return blanked(text, (found.span() for found in compiled(ESCAPE).finditer(text)))


def bounded(text: str, start: int, end: int, joints: str = ".,") -> bool:
    """Whether a match stands alone: no letter or digit beside it, nor one across a joint (`0.4111…`, `1-23-4`)."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[-1:].isalnum() or after[:1].isalnum():
        return False
    left = len(before) == 2 and before[1] in joints and before[0].isalnum()
    right = len(after) == 2 and after[0] in joints and after[1].isalnum()
    return not (left or right)


def is_article(number: str) -> bool:
    """Whether digits alone are an article number in 13 digits (GTIN-13, EAN): by its check digit, as one in ten is."""
    if len(number) != 13 or digits(number) != number:
        return False
    return sum(int(digit) * (1 + 2 * (at % 2)) for at, digit in enumerate(number)) % 10 == 0


def digits(text: str) -> str:
    """The ASCII digits of a text, in order."""
    return "".join(char for char in text if "0" <= char <= "9")
