"""What follows a failed attempt. A hold covers one billable attempt, so it depends on whether it may have been billed.

    surely unbilled   the hold is still whole: the next target under the same hold; where there is none, the same one
                      after a pause, if it may be better then; else give up and charge nothing
    ambiguous         the hold stays charged as `estimated`: the next target under a hold of its own (`anew`), else give
                      up. Never the same target twice: what may have worked would be paid twice for one answer

Sans-IO: deadline and attempts are numbers handed in. Knows no wire format: a `Failure` says all there is to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from buspass.errors import Problem
from buspass.model import Failure

FIRST: Final = 0.1
"""Seconds that the first pause between two attempts lasts at most; each further one twice as long."""
LONGEST: Final = 2.0
PASSING: Final = frozenset({"unreachable", "throttled"})
"""What may be over in a moment."""


class Retry[T](Struct, frozen=True, kw_only=True):
    """Send once more, to `target`, after `pause` seconds; `anew`: under another hold than the one before."""

    target: T
    pause: float = 0.0
    anew: bool = False


class GiveUp(Struct, frozen=True, kw_only=True):
    """Tell the agent `problem`; settle the hold with `charge`: nothing, or all of it as `estimated`."""

    problem: Problem
    charge: Literal["nothing", "estimated"]


def backoff(tried: int, random: bytes) -> float:
    """Seconds to wait after `tried` attempts: up to twice as long each time, and never in step with others."""
    part = int.from_bytes(random) / (1 << 8 * len(random))
    return min(FIRST * (1 << tried - 1), LONGEST) * (0.5 + part / 2)


def after[T](
    failure: Failure,
    untried: Sequence[T],
    *,
    attempts_left: int,
    seconds_left: float,
    same: T | None = None,
    pause: float = 0.0,
    patience: float = 0.0,
    anew: bool = False,
) -> Retry[T] | GiveUp:
    """The next step. `untried` are the candidates not tried yet, best first; `seconds_left` to the call's deadline.

    `same` is the one that failed, to be tried again after `pause` seconds or the longer time that it asked for, if
    that is less than `patience`. `anew`: whether another hold may be taken.
    """
    if failure.billed == "unknown":
        if anew and untried and attempts_left > 0 and seconds_left > 0:
            return Retry(target=untried[0], anew=True)
        return give_up(failure)
    if not failure.retryable:
        return give_up(failure)
    if seconds_left <= 0:
        late = Problem(
            "deadline_exceeded", "the call's deadline passed before a target took it", upstream=_upstream(failure)
        )
        return GiveUp(problem=late, charge="nothing")
    if untried and attempts_left > 0:
        return Retry(target=untried[0])
    pause = max(pause, failure.retry_after or 0.0)
    if same is not None and failure.kind in PASSING and attempts_left > 0 and pause < patience:
        return Retry(target=same, pause=pause)
    return give_up(failure)


def give_up(failure: Failure) -> GiveUp:
    """End the call with this failure."""
    if failure.billed == "unknown":
        return GiveUp(problem=_ambiguous(failure), charge="estimated")
    if not failure.retryable:
        return GiveUp(problem=_rejected(failure), charge="nothing")
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
