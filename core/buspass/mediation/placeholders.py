"""Placeholders: what a model sees in place of a value, and the way back.

Owns their form and the table of those made. The same value has the same placeholder for as long as the key lives (the
task), so a model can tell two people apart over many calls; without the key nobody can compute one. Stores nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from buspass.mediation.classes import CLASSES, PERSONAL
from buspass.mediation.patterns import compiled, encodable
from buspass.mediation.scanner import PLACEHOLDER, parts

NUMBERS: Final = 10**8


class Placeholders:
    """The placeholders of one request or task. `made` is its table: keep it to restore later, hand it in as `known`.

    `key`: at least 16 bytes, of the task (config.md: derived from the domain key). ValueError for a shorter one.
    """

    def __init__(self, key: bytes, known: Mapping[str, str] | None = None) -> None:
        if len(key) < 16:
            raise ValueError("a placeholder key has at least 16 bytes")
        self._key = key
        self._made: dict[str, str] = dict(known or {})

    @property
    def made(self) -> Mapping[str, str]:
        """Placeholder to value, as the value was first written. Personal data: treat it as such."""
        return dict(self._made)

    def make(self, class_: str, value: str) -> str:
        """`<EMAIL_12345678>`: eight digits of HMAC-SHA256 over class, normalized value and a number, mostly 0.

        The number counts up where another value already has the placeholder, so two values never share one.
        """
        normal = CLASSES[class_].normal(value)
        for attempt in range(NUMBERS):
            message = f"{class_}\0{normal}\0{attempt}".encode("utf-8", "surrogatepass")
            number = int.from_bytes(hmac.digest(self._key, message, "sha256")[:8]) % NUMBERS
            placeholder = f"<{class_.upper()}_{number:08}>"
            if CLASSES[class_].normal(self._made.setdefault(placeholder, value)) == normal:
                return placeholder
        raise ValueError(f"all placeholders of {class_} are taken")

    def hide(self, text: str, classes: Iterable[str] = PERSONAL, regions: tuple[str, ...] = ()) -> str:
        """The text with every value of `classes` replaced."""
        return "".join(
            self.make(part.class_, part.text) if part.class_ in CLASSES else part.text
            for part in parts(text, classes, regions)
        )

    def restore(self, text: str, classes: Collection[str] | None = None) -> str:
        """The text with its placeholders' values; only those made here, and of `classes` where it is given.

        A value that was written in two ways comes back as it was first written.
        """
        pieces, at = [], 0
        for match in compiled(PLACEHOLDER).finditer(encodable(text)):
            start, end = match.span()
            pieces += [text[at:start], self.value(text[start:end], classes)]
            at = end
        return "".join(pieces) + text[at:]

    def value(self, placeholder: str, classes: Collection[str] | None = None) -> str:
        """The value behind one placeholder; the placeholder itself if it was not made here or is not permitted."""
        class_ = placeholder[1:-10].lower()
        if classes is not None and class_ not in classes:
            return placeholder
        return self._made.get(placeholder, placeholder)
