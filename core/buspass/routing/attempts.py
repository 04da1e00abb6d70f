"""What follows a failed attempt. A hold covers one billable attempt, so two answers are possible.

    surely unbilled   the hold is still whole: the next target under the same hold, else give up and charge nothing
    ambiguous         the hold stays charged as `estimated`, and the call ends: another attempt would need another hold

Sans-IO: deadline and attempts are numbers handed in. Knows no wire format: a `Failure` says all there is to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from buspass.config.settings import Target
from buspass.errors import Problem
from buspass.model import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Send once more, to `target`, under the hold that the call already has."""

    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Tell the agent `problem`; settle the hold with `charge`: nothing, or all of it as `estimated`."""

    problem: Problem
    charge: Literal["nothing", "estimated"]


def after(failure: Failure, untried: Sequence[Target], *, attempts_left: int, seconds_left: float) -> Retry | GiveUp:
    """The next step. `untried` are the candidates not tried yet, best first; `seconds_left` to the call's deadline."""
    if failure.billed == "unknown":
        return GiveUp(problem=_ambiguous(failure), charge="estimated")
    if not failure.retryable:
        return GiveUp(problem=_rejected(failure), charge="nothing")
    if seconds_left <= 0:
        late = Problem(
            "deadline_exceeded", "the call's deadline passed before a target took it", upstream=_upstream(failure)
        )
        return GiveUp(problem=late, charge="nothing")
    if untried and attempts_left > 0:
        return Retry(target=untried[0])
    return GiveUp(problem=_unserved(failure), charge="nothing")


def _upstream(failure: Failure) -> dict[str, str | int]:
    """What a client may know of a provider: status and kind; never its headers, its address or its body."""
    status = {} if failure.status is None else {"status": failure.status}
    return {**status, "kind": failure.kind}


def _ambiguous(failure: Failure) -> Problem:
    if failure.kind == "timeout":
        words = "the model did not answer in time; it may have worked, so the call is charged in full, as an estimate"
        return Problem("upstream_timeout", words, upstream=_upstream(failure))
    words = "the model's provider failed after the call was sent, so the call is charged in full, as an estimate"
    return Problem("upstream_error", words, upstream=_upstream(failure))


def _rejected(failure: Failure) -> Problem:
    words = f"the model's provider rejects this request: {failure.message or f'status {failure.status}'}"
    return Problem("invalid_request", words, upstream=_upstream(failure))


def _unserved(failure: Failure) -> Problem:
    if failure.kind == "forbidden":
        words = "the model's provider does not accept the gateway; its operator must mend key, account or model name"
        return Problem("upstream_error", words, upstream=_upstream(failure))
    words = "no target of this model takes calls now; nothing was charged"
    return Problem("no_target_available", words, retry_after=failure.retry_after, upstream=_upstream(failure))
