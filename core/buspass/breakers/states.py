"""The states of a breaker: one table that owns every transition.

    closed       calls go. Nothing is written while they succeed
    suspect      the last call failed: few at a time go, the next failures trip it, a success closes it
    open         nobody goes before `until`
    half_open    `until` is over: one call goes, under a lease that time ends, and decides for all
    recovering   that one succeeded: few at a time go; some more successes close it, one failure opens it for longer

Pure: time (ms) and the prober's name are handed in, a step gives the breaker as it becomes, or None where nothing
changes. Beside them stands how careful each kind of breaker is. Refuses to know how a breaker is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

type State = Literal["closed", "suspect", "open", "half_open", "recovering"]
type Event = Literal["failed", "tripped", "throttled", "succeeded", "proven", "taken", "returned"]

TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    "closed": {"failed": "suspect", "throttled": "open"},
    "suspect": {"failed": "suspect", "tripped": "open", "throttled": "open", "succeeded": "closed"},
    "open": {"taken": "half_open"},
    "half_open": {
        "taken": "half_open",
        "returned": "open",
        "tripped": "open",
        "throttled": "open",
        "succeeded": "recovering",
    },
    "recovering": {"tripped": "open", "throttled": "open", "succeeded": "recovering", "proven": "closed"},
}
"""`failed` is a failure that does not trip it yet, `throttled` one that says itself when to come back, `proven` the
last success that was needed, `returned` a lease given back unused. What a row does not name changes nothing: late
answers to calls from before it opened."""

STRIKES: Final = 3
"""Failures, without a success between them, that open it."""
PROOFS: Final = 3
"""Successes that close it again, the prober's included."""
OPEN: Final = 30_000
"""Milliseconds that it stays open the first time; each time it opens again, twice as long."""
THROTTLED: Final = 5_000
"""The same where the service is only busy and does not say for how long."""
LONGEST: Final = 600_000
"""Milliseconds that it stays open at most by itself; a service's own Retry-After counts up to an hour."""
FORGET: Final = 600_000
"""Milliseconds after which failures are forgotten: strikes, and how often it has opened."""
WAIT_FOR_PROBE: Final = 2_000
"""Milliseconds after which who came during a probe may ask again."""
BUSY: Final = "throttled"
"""The kind of failure that says no more than that there are too many calls."""


class Breaker(Struct, frozen=True, kw_only=True):
    """One breaker. Times in ms since the epoch; `until` is when it may be probed, or the probe's lease ends.

    `strikes`: failures since the last success; `good`: successes of a recovery; `level`: how often it has opened;
    `kind` and `status`: the last failure's; `version` counts the changes,
    `writers` names the last of them, the newest first: whoever stores it does.
    """

    state: State = "closed"
    strikes: int = 0
    good: int = 0
    level: int = 0
    until: int = 0
    probe: str = ""
    since: int = 0
    at: int = 0
    kind: str = ""
    status: int = 0
    version: int = 0
    writers: str = ""


CLOSED: Final = Breaker()


class Rule(Struct, frozen=True, kw_only=True):
    """How careful a breaker is, in calls that one host sends at once.

    `unproven`: before anything is proven; `careful`: while it is suspect or recovering. After `forgiving` successes in
    a row two failures are no sign of anything. `read`: whether it is looked up before it saw a failure.
    """

    unproven: float
    careful: int
    forgiving: int
    read: bool = True


RULES: Final = {
    # One call finds out whether a service is there at all, and the others wait for it: so a dead one is met by as many
    # calls as there are hosts, and two more.
    "tool": Rule(unproven=1, careful=1, forgiving=0),
    # A model takes long, so waiting for one another would cost more than a failure does; and one in a thousand fails.
    "model": Rule(unproven=math.inf, careful=4, forgiving=20),
    "task": Rule(unproven=math.inf, careful=1, forgiving=0, read=False),
}


class Fault(Struct, frozen=True, kw_only=True):
    """How a call failed. `status`: 0 without an answer; `retry_after`: the service's own, in seconds."""

    kind: str
    status: int = 0
    retry_after: float | None = None


type Verdict = Literal["free", "careful", "probe", "refused"]


def ask(breaker: Breaker, now: int) -> Verdict:
    """Say whether a call may go: freely, among few, as the one prober (see `taken`), or not before `comeback`."""
    match breaker.state:
        case "closed":
            return "free"
        case "suspect" | "recovering":
            return "careful"
        case _:
            return "probe" if now >= breaker.until else "refused"


def comeback(breaker: Breaker, now: int) -> int:
    """When who was refused may ask again (ms)."""
    if breaker.state == "half_open":
        return min(breaker.until, now + WAIT_FOR_PROBE)
    return max(breaker.until, now + 1) if breaker.state == "open" else now


def counts_until(breaker: Breaker) -> int:
    """When nobody has to heed it any more (ms): its failures are as good as forgotten."""
    return max(breaker.until, breaker.at) + FORGET


def failed(breaker: Breaker, now: int, fault: Fault, probe: str = "") -> Breaker | None:
    """Give the breaker after a failure; `probe`: the prober's name, if it was one."""
    if breaker.state == "half_open" and probe != breaker.probe:
        return None
    worse = breaker.state in {"half_open", "recovering"}
    old = not worse and now - max(breaker.at, breaker.since) > FORGET
    strikes = 1 if old else breaker.strikes + 1
    event: Event = "throttled" if fault.retry_after else "tripped" if worse or strikes >= STRIKES else "failed"
    if (state := TABLE[breaker.state].get(event)) is None:
        return None
    level = 0 if old else breaker.level
    lasts = _lasts(level, THROTTLED if fault.kind == BUSY or fault.retry_after else OPEN)
    if fault.retry_after:
        lasts = max(round(fault.retry_after * 1000), lasts if worse else 0)
    opened = state == "open"
    seen = replace(
        breaker,
        state=state,
        strikes=strikes,
        good=0,
        # a busy service that keeps its word does not grow worse; one that fails its probe does
        level=level + (opened and (worse or not fault.retry_after)),
        until=now + lasts if opened else 0,
        probe="",
        at=now,
        kind=fault.kind,
        status=fault.status,
    )
    return _moved(breaker, seen, now)


def succeeded(breaker: Breaker, now: int, probe: str = "") -> Breaker | None:
    """Give the breaker after a success."""
    if breaker.state == "half_open" and probe != breaker.probe:
        return None
    good = breaker.good + 1
    event: Event = "proven" if breaker.state == "recovering" and good >= PROOFS else "succeeded"
    if (state := TABLE[breaker.state].get(event)) is None:
        return None
    return _moved(breaker, replace(breaker, state=state, good=good, strikes=0, probe="", until=0), now)


def taken(breaker: Breaker, now: int, probe: str, lasts: int) -> Breaker | None:
    """Give the breaker with the lease of its one prober, for `lasts` ms; None where it is not to be had."""
    if ask(breaker, now) != "probe":
        return None
    return _moved(breaker, replace(breaker, state=TABLE[breaker.state]["taken"], probe=probe, until=now + lasts), now)


def returned(breaker: Breaker, now: int, probe: str) -> Breaker | None:
    """Give the breaker after its prober found nothing out: the next one may try at once."""
    if breaker.state != "half_open" or probe != breaker.probe:
        return None
    return _moved(breaker, replace(breaker, state=TABLE["half_open"]["returned"], probe="", until=now), now)


def _lasts(level: int, first: int) -> int:
    return min(first << min(level, 16), LONGEST)


def _moved(old: Breaker, new: Breaker, now: int) -> Breaker:
    return replace(new, since=now if new.state != old.state else old.since, version=old.version + 1)
