"""How much of a request is text, in bytes that bound its tokens, and where its pictures stand.

Knows no surface's field names and no provider's formula: pictures are found by the surface, priced by the provider.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Any, Final

from buspass.jsontext import texts_in, written
from buspass.surfaces import fields
from buspass.surfaces.fields import Check, Report

PICTURES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
DATA_URL: Final = re.compile(rf"data:({'|'.join(PICTURES)});base64,", re.IGNORECASE)


def octets(strings: Sequence[str]) -> int:
    """Bytes that bound the tokens of these texts.

    Some tokenizers write text in Unicode's NFC before they cut it, which can be longer: the larger of both counts.
    Raises TypeError where one of them is no string.
    """
    whole = "".join(strings)
    if whole.isascii():
        return len(whole)
    return sum(
        len(string)
        if string.isascii()
        else max(len(string.encode()), len(unicodedata.normalize("NFC", string).encode()))
        for string in strings
    )


def strings(value: Any, path: str, pictures: Container[str]) -> Iterable[tuple[str, str]]:
    """Every text below a value with its path, member names too; not what stands at the paths of `pictures`."""
    for at, leaf, _ in fields.leaves(value, path):
        if isinstance(leaf, str) and at not in pictures:
            yield at, leaf


def said(value: Any, path: str, pictures: Collection[str]) -> list[str]:
    """The same without their paths; where there is no picture, without making any, for a tenth."""
    return [string for _, string in strings(value, path, pictures)] if pictures else texts_in(value)


def compact(value: Any) -> str:
    """A schema as the shortest JSON that a provider could show to a model."""
    return written(value).decode()


def base64(value: Any, path: str, report: Report) -> Any:
    """Bytes of a picture. Their alphabet is checked here, what they show is the provider's to say."""
    if not isinstance(value, str) or not BASE64.fullmatch(value):
        report.mend(path, "must be base64 without line breaks")
    return value


def data_url(remote: str) -> Check:
    """A picture that is in the request itself; an address elsewhere is refused with the reason `remote`."""

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, str):
            report.mend(path, "must be a string")
        elif value[:5].lower() != "data:":
            report.refuse(path, remote, ["data:image/png;base64,…"])
        elif (head := DATA_URL.match(value)) is None:
            report.refuse(path, "has a media type that is not available", PICTURES)
        else:
            base64(value[head.end() :], path, report)
        return value

    return check
