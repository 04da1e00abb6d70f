"""When a server wants to be asked again (RFC 9110, 10.2.3). Knows no clock: dates count from the answer's Date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LONGEST: Final = 3600.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, at most an hour, from `retry-after-ms` or `retry-after`; None where they say nothing usable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except KeyError:
            continue
        except ValueError:
            found = _until(headers)
            if found is None:
                continue
            seconds = found
        if 0 <= seconds < float("inf"):
            return min(seconds, LONGEST)
    return None


def _until(headers: Mapping[str, str]) -> float | None:
    """Seconds between the answer's own date and the one it names: so by one clock, which is the server's."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - hardly any answer needs it

    try:
        named, answered = parsedate_to_datetime(headers["retry-after"]), parsedate_to_datetime(headers["date"])
        return (named - answered).total_seconds()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
