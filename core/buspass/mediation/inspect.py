"""Station 6 and 10: what stands in the texts of a request and of an answer. Finds; changes and decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from buspass.mediation.scanner import Part, parts


class Finding(Struct, frozen=True, kw_only=True):
    """`count` occurrences of a class (`credit_card`, `email`, …) at one position, a path into request or answer.

    It never holds a value: findings are journalled and shown to policy.
    """

    class_: str
    position: str
    count: int

    def document(self) -> dict[str, str | int]:
        """As policy's input names it: `input.call.findings` in config.md."""
        return {"class": self.class_, "position": self.position, "count": self.count}


def inspect(
    texts: Iterable[tuple[str, str]], classes: Iterable[str] = (), regions: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """What of `classes` stands in `texts`, pairs of position and text. Without classes the texts are not read.

    `regions` (ISO 3166) add telephone numbers as they are written there. ValueError for an unknown class.
    """
    looked_for = tuple(classes)
    if not looked_for:
        return ()
    return tuple(finding for position, text in texts for finding in counted(position, parts(text, looked_for, regions)))


def counted(position: str, found: Iterable[Part]) -> tuple[Finding, ...]:
    """The findings among the parts of one text; placeholders and continuations are none."""
    counts: Mapping[str, int] = Counter(
        part.class_ for part in found if part.class_ and part.class_ != "placeholder" and not part.more
    )
    return tuple(Finding(class_=class_, position=position, count=count) for class_, count in counts.items())
