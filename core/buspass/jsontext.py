"""JSON as text, written and read fast: what is done several times a call.

Owns that every value gets the same bytes as by `json` without spaces, in UTF-8, names sorted where asked for; what the
fast way does not take (integers above 64 bits, read-only mappings, lone surrogates) goes the slow way, with its errors.
A stranger's text is read by `tools.schema.parse_json`, which knows names that stand twice: `shortest` is its first
look.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

_STRINGS: Final = frozenset({str})


def written(value: Any) -> bytes:
    """Give the shortest JSON of a value. Raises ValueError, TypeError for what is none; NaN must not come here."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def canonical(value: Any, *, finite: bool = False) -> bytes:
    """Give the one JSON text of a value, names sorted by code point. Raises ValueError for NaN and infinities.

    `finite`: it was read from JSON, which has neither.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return _slowly(value)
    if not finite and b"null" in text:  # what orjson makes of NaN, too
        _slowly(value)
    return text


def _slowly(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read(text: str | bytes) -> Any:
    """Give the value of a text that a host of ours wrote. Raises ValueError."""
    return orjson.loads(text)


def texts_in(value: Any, *, numbers_from: int | None = None) -> list[str]:
    """Give every text below a JSON value: strings and names, and integers of that size or more, as they are written.

    In no order. A value that nests as deep as its reader lets it: no recursion.
    """
    found: list[str] = []
    level = value if type(value) is list else [value]
    while level:
        if {*map(type, level)} == _STRINGS:  # nearly always the last, and nearly always the longest
            return found + level
        below: list[Any] = []
        for each in level:
            if (kind := type(each)) is str:
                found.append(each)
            elif kind is dict:
                found += each
                below += each.values()
            elif kind is list:
                below += each
            elif kind is int and numbers_from is not None and abs(each) >= numbers_from:
                found.append(str(each))
        level = below
    return found


def shortest(text: bytes) -> Any:
    """Give the value of a text that is just what `written` makes of it, as most clients write; None for any other.

    So nothing in it is hidden: a name that stands twice would have been written once, a number that no float holds
    another way, half a surrogate pair not at all.
    """
    try:
        value = orjson.loads(text)
        return value if orjson.dumps(value) == text else None
    except (ValueError, TypeError):
        return None
