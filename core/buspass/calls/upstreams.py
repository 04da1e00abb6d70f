"""What the end of a dispatch says about the service behind it, and what the agent is told while it is left alone.

Owns the two tables of faults (whose, and which) and the sentences, for the agent and for the log. Refuses to know how a
breaker decides.

    what came of a tool's call                          whose fault it counts as
    refused, unreachable, broken off, 5xx, 429          the service's: for every task
    too late, though it had a second or its own time    the service's
    404, 410, a redirection, a web page, no JSON        the task's at this service: it asks for the wrong thing
    too large, not as the schema says, another 4xx      nobody's: the service answers
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from buspass.breakers import Breaker, Fault, Refusal
from buspass.errors import Problem
from buspass.model import Failure
from buspass.ports.outbound import Ambiguous, NotSent, Response, TimedOut, TooLarge
from buspass.ports.retry_after import retry_after

log = logging.getLogger(__name__)

PAUSE: Final = 5_000
"""Milliseconds that an agent is told to wait after a failure that opened nothing yet."""
ENOUGH: Final = 1.0
"""Seconds that a service must have been given before its silence counts against it, unless its own time is less."""
GONE: Final = frozenset({404, 410})

WORDS: Final = {
    "unreachable": "can't be reached",
    "timeout": "does not answer in time",
    "broken": "breaks off its answers",
    "throttled": "turns calls away because there are too many",
    "failed": "fails",
    "malformed": "answers with something that is not a result",
    "error_status": "answers with errors",
    "error_page": "answers with an error page",
    "not_json": "answers with something that is not a result",
    "forbidden": "does not accept the gateway",
}


def noted(call: str, whose: str, error: Exception) -> None:
    """Tell the operator's log who failed, and how: the agent is told neither addresses nor what broke."""
    cause = f": {error.__cause__}" if error.__cause__ else ""
    log.warning("call %s: %s: %s%s", call, whose, error, cause)


def tool_fault(
    answer: Response | NotSent | Ambiguous, problem: Problem | None, *, given: float, timeout: float
) -> tuple[Literal["tool", "task"], Fault] | None:
    """Whose fault it was, by the table above; None if nobody's. `given`, `timeout`: seconds it had, and should have."""
    match answer:
        case NotSent():
            return "tool", Fault(kind="unreachable")
        case TimedOut():
            return ("tool", Fault(kind="timeout")) if given >= min(ENOUGH, timeout) else None
        case TooLarge():
            return None
        case Ambiguous():
            return "tool", Fault(kind="broken")
    if problem is None or problem.code != "upstream_error":
        return None
    status, kind = answer.status, str(problem.extra["upstream"]["kind"])
    if status == 429 or status >= 500:
        wait = retry_after(answer.headers)
        return "tool", Fault(kind="throttled" if status == 429 else kind, status=status, retry_after=wait)
    if status in GONE or 300 <= status < 400 or kind in {"error_page", "not_json"}:
        return "task", Fault(kind=kind, status=status)
    return None


def model_fault(failure: Failure, *, given: float, timeout: float) -> Fault | None:
    """What an attempt's failure says against its target; None where it is the request's or the operator's to mend."""
    if failure.kind in {"rejected", "forbidden"} or (failure.kind == "timeout" and given < min(ENOUGH, timeout)):
        return None
    return Fault(kind=failure.kind, status=failure.status or 0, retry_after=failure.retry_after)


def closed(tool: str, refusal: Refusal, now: int) -> Problem:
    """Give `circuit_open`: this call was not sent, for those before it failed."""
    breaker = refusal.breaker
    if not breaker.kind:
        words = f"the service behind tool {tool!r} has not answered the calls before this one yet; it was not called."
    else:
        words = f"the service behind tool {tool!r} {WORDS.get(breaker.kind, 'fails')}; it was not called."
    problem = Problem("circuit_open", words, upstream=_upstream(breaker))
    return told(problem, refusal.until, now)


def none_left(alias: str, refusals: Sequence[tuple[str, int]], now: int) -> Problem:
    """Give `no_target_available`: the targets' breakers let nobody go before the times given (ms)."""
    names = ", ".join(name for name, _ in refusals)
    problem = Problem("no_target_available", f"no target of '{alias}' works now ({names}); nothing was charged.")
    return told(problem, min(until for _, until in refusals), now)


def told(problem: Problem, until: int, now: int) -> Problem:
    """Tell in the problem when it is worth asking again: as a sentence, as `retry_at`, and as `Retry-After`."""
    moment = datetime.fromtimestamp(-(-until // 1000), UTC)
    separator = "" if problem.detail.endswith(".") else "."
    problem.detail += f"{separator} Do not retry before {moment:%H:%M:%S} UTC; tell the user."
    problem.extra["retry_at"] = moment.isoformat().replace("+00:00", "Z")
    problem.retry_after = max(until - now, 1) / 1000
    return problem


def again(breaker: Breaker, now: int) -> int:
    """When it is worth asking again after a failure that left the breaker like this (ms)."""
    return breaker.until if breaker.state == "open" else now + PAUSE


def shown(name: str, breaker: Breaker) -> str:
    """Give what a record says of a breaker that its call changed."""
    if breaker.state != "open":
        return f"{name}: {breaker.state}"
    return f"{name}: open until {datetime.fromtimestamp(breaker.until / 1000, UTC):%H:%M:%S} UTC"


def _upstream(breaker: Breaker) -> dict[str, str | int] | None:
    if not breaker.kind:
        return None
    return ({"status": breaker.status} if breaker.status else {}) | {"kind": breaker.kind}
