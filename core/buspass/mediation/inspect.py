"""Station 6 and 10: what stands in the texts of a request and of an answer. Finds; changes and decides nothing.

No detector is configured in this release, so nothing is found. `logging.payloads: redacted` and `personal_data` would
promise more: for that reason configuration refuses both as not available.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`count` occurrences of a class (`credit_card`, `email`, …) at one position, a path into request or answer."""

    class_: str
    position: str
    count: int

    def document(self) -> dict[str, str | int]:
        """As policy's input names it: `input.call.findings` in config.md."""
        return {"class": self.class_, "position": self.position, "count": self.count}


type Detector = Callable[[str], Mapping[str, int]]
"""How often which class stands in a text; classes that do not occur are absent."""

CONFIGURED: Final[tuple[Detector, ...]] = ()
"""None in this release."""


def inspect(texts: Iterable[tuple[str, str]], detectors: tuple[Detector, ...] = CONFIGURED) -> tuple[Finding, ...]:
    """What the detectors find in `texts`, pairs of position and text. Without detectors the texts are not read."""
    if not detectors:
        return ()
    return tuple(
        Finding(class_=class_, position=position, count=count)
        for position, text in texts
        for detector in detectors
        for class_, count in detector(text).items()
    )
