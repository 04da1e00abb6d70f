"""When the next call may go: the generic cell rate algorithm (ITU-T I.371) as a timetable, without I/O.

Each limit keeps the time at which its next permit falls due. A call gets the first moment that all its limits allow,
and moves each of them on by what it takes. So calls are spaced evenly, first come first served over all hosts. What is
promised of a limit of `amount` permits in `period`: in any window of length w at most w / period x amount permits, and
the call that opens the window. A permit that was taken and not used (its host died) is lost time, and no more.

Times in microseconds since the epoch. Refuses to know who shares the timetable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

SECOND: Final = 1_000_000
WHOLE: Final = 1000
"""The share of the limits that is used when nobody complains."""
LEAST: Final = 50
STEP: Final = 50
"""The least difference of a share, in thousandths, that is worth a write."""
HEALS: Final = 60 * SECOND
"""Time after which a lowered share is whole again."""
TOGETHER: Final = SECOND
"""Complaints within this time are one: the calls were under way at once."""


class Limit(Struct, frozen=True, kw_only=True):
    """At most `amount` permits in `period` µs."""

    amount: int
    period: int


class Pace(Struct, frozen=True, kw_only=True):
    """What limits the calls to one thing. `name` is unique among all; `shown` is what a client is told."""

    name: str
    shown: str
    limits: Mapping[str, Limit]


class Table(Struct, frozen=True, kw_only=True):
    """The timetable: when each limit's next permit falls due; the share in use, in thousandths, and since when."""

    due: Mapping[str, int] = field(default_factory=dict)
    share: int = WHOLE
    lowered: int = 0
    version: int = 0


EMPTY: Final = Table()


def moment(table: Table, pace: Pace, takes: Mapping[str, int], now: int) -> int:
    """Give when a call that takes so many permits may go."""
    return max([now, *(table.due.get(name, 0) for name in pace.limits if takes.get(name))])


def booked(table: Table, pace: Pace, takes: Mapping[str, int], at: int) -> Table:
    """Give the timetable with that call at that moment."""
    due = dict(table.due)
    for name, limit in pace.limits.items():
        if permits := takes.get(name, 0):
            lasts = -(-permits * limit.period * WHOLE // (limit.amount * share(table, at)))
            due[name] = at + lasts
    return replace(table, due=due)


def share(table: Table, now: int) -> int:
    """Give the share of the limits that may be used, in thousandths: what was lowered heals in a minute."""
    healed = (WHOLE - table.share) * max(0, now - table.lowered) // HEALS
    return min(WHOLE, table.share + healed)


def lowered(table: Table, pace: Pace, now: int, until: int) -> Table:
    """Give the timetable after a complaint: nobody goes before `until`, and then half as fast as before."""
    due = {name: max(until, table.due.get(name, 0)) for name in pace.limits}
    if table.lowered and now - table.lowered < TOGETHER:
        return replace(table, due=due)
    return replace(table, due=due, share=max(LEAST, share(table, now) // 2), lowered=now)


def braked(table: Table, pace: Pace, name: str, now: int, most: int, until: int) -> Table:
    """Give the timetable where the provider says that little of one limit is left: at most this share from now on.

    `most` in thousandths; nothing of that limit before `until`. The same where it is as slow already: what changes
    next to nothing is not worth a write.
    """
    due, found = dict(table.due), table
    if name in pace.limits and until > table.due.get(name, 0) and until > now:
        due[name] = until
        found = replace(table, due=due)
    most = max(LEAST, most)
    if share(table, now) - most >= STEP:
        found = replace(found, share=most, lowered=now)
    return found


def paused(table: Table, pace: Pace, until: int) -> Table:
    """Give the timetable where nobody goes before `until`: the provider says that its quota is used up."""
    return replace(table, due={name: max(until, table.due.get(name, 0)) for name in pace.limits})
