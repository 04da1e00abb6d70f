"""What a provider says of our quota there, in the headers of its answers. Pure: moments count from the answer's Date.

    OpenAI      x-ratelimit-{limit,remaining,reset}-{requests,tokens}; the reset is a duration, 1s, 6m0s, 12ms
    Anthropic   anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}; it is a moment

Of both the reset is when the quota will be whole again, not when there is a first permit. What can't be read says
nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

_PART: Final = r"(\d+(?:\.\d+)?)(h|ms|m|s)"
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_KINDS: Final[Mapping[str, Literal["requests", "tokens"]]] = {
    "requests": "requests",
    "tokens": "tokens",
    "input-tokens": "tokens",
    "output-tokens": "tokens",
}
LONGEST: Final = 3600.0


class Quota(Struct, frozen=True, kw_only=True):
    """Of `whole` permits `left` are left, and all of them again in `seconds`."""

    kind: Literal["requests", "tokens"]
    left: int
    whole: int
    seconds: float


def quotas(headers: Mapping[str, str]) -> Iterator[Quota]:
    """Give what the headers (names in lower case) say."""
    for name, kind in _KINDS.items():
        openai = (f"x-ratelimit-{part}-{name}" for part in ("remaining", "limit", "reset"))
        anthropic = (f"anthropic-ratelimit-{name}-{part}" for part in ("remaining", "limit", "reset"))
        for names in (openai, anthropic):
            left, whole, reset = (headers.get(each, "") for each in names)
            if not (left.isascii() and left.isdigit() and whole.isascii() and whole.isdigit() and int(whole)):
                continue
            seconds = _duration(reset) if name in {"requests", "tokens"} else None
            seconds = _until(reset, headers.get("date", "")) if seconds is None else seconds
            if seconds is not None and 0 <= seconds < math.inf:
                yield Quota(kind=kind, left=int(left), whole=int(whole), seconds=min(seconds, LONGEST))


def _duration(text: str) -> float | None:
    parts = re.findall(_PART, text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _until(text: str, answered: str) -> float | None:
    """Seconds between the answer's own date and the moment it names: so by one clock, which is the provider's."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - hardly any answer needs it

    try:
        return max((datetime.fromisoformat(text) - parsedate_to_datetime(answered)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
