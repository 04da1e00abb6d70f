"""Why an attempt brought no answer, and whether it may have been billed: one table, by status, for every provider.

The rule: what surely never reached the model costs nothing, everything else is unknown, and unknown is charged.
Knows no retry: that is routing's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from buspass.model import Failure
from buspass.ports.outbound import Ambiguous, NotSent, Response, TimedOut
from buspass.ports.retry_after import retry_after

LONGEST_MESSAGE: Final = 500
UNFINISHED: Final = frozenset({408, 499})
"""4xx that proxies also send after the model began to work: timed out, client gone."""
SHED: Final = frozenset({429})
"""Turned away at the door: no work was done. A wire format may have more of them."""
REQUEST_AT_FAULT: Final = frozenset({400, 413, 415, 422, 431})

SECRETS: Final = (
    r"(?i:bearer|basic)\s+\S+"  # an Authorization header, quoted
    r"|\b(?:sk|rk|pk|bp|bpo|org|proj)[-_][\w*.-]{4,}"  # keys and account names by their usual prefixes
    r"|\beyJ[\w-]+(?:\.[\w-]*)*"  # a JWT
    r"|[\w+/=-]{24,}"  # a long run: a name if it has no digit
)


def unsent(error: NotSent | Ambiguous) -> Failure:
    """What the outbound port raised, as an attempt's failure."""
    match error:
        case NotSent():
            return Failure("unreachable", billed="no", retryable=True)
        case TimedOut():
            return Failure("timeout", billed="unknown", retryable=False)
        case _:
            return Failure("broken", billed="unknown", retryable=False)


def refused(response: Response, *, shed: Collection[int] = SHED) -> Failure:
    """A status that is not 2xx. 3xx counts as our own mistake: redirects are not followed, a key would go with them."""
    status, wait = response.status, retry_after(response.headers)
    if status in shed:
        return Failure("throttled", billed="no", retryable=True, status=status, retry_after=wait)
    if status >= 500 or status in UNFINISHED or status < 200:
        return Failure("failed", billed="unknown", retryable=False, status=status, retry_after=wait)
    if status in REQUEST_AT_FAULT:
        return Failure("rejected", billed="no", retryable=False, status=status, message=message(response.body))
    return Failure("forbidden", billed="no", retryable=True, status=status)


def told(document: Mapping[str, Any]) -> Failure:
    """An error that comes in a stream, after a 200: the model may have worked by then."""
    error = document.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    busy = kind in {"overloaded_error", "rate_limit_error", "rate_limit_exceeded"}
    return Failure("throttled" if busy else "failed", billed="unknown", retryable=False, status=200)


def malformed(response: Response) -> Failure:
    """A 2xx that is not an answer: something was done for it."""
    return Failure("malformed", billed="unknown", retryable=False, status=response.status)


def message(body: bytes) -> str:
    """The provider's own words on a request it rejects: one line, without anything like a credential, or empty."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error: Any = document.get("error", document) if isinstance(document, dict) else None
    words: Any = error.get("message") if isinstance(error, dict) else error
    if not isinstance(words, str):
        return ""
    line = re.sub(r"[^\S ]+|[^\x20-\U0010ffff]|[\x7f-\x9f\ud800-\udfff]", " ", words[: 4 * LONGEST_MESSAGE])
    return re.sub(SECRETS, _redacted, line).strip()[:LONGEST_MESSAGE]


def _redacted(found: re.Match[str]) -> str:
    text = found.group()
    harmless = re.fullmatch(r"[A-Za-z_/-]{24,}", text) and not re.match(r"(?:sk|rk|pk|bp|bpo|org|proj)[-_]|eyJ", text)
    return text if harmless else "[redacted]"
