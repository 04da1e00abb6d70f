"""What paces a call: a tool's `rate`, a provider's `limits`; and what is told where no permit comes free in time.

Refuses to know how permits are shared between hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from buspass.calls.house import House
from buspass.calls.lanes import Lane
from buspass.errors import Problem
from buspass.providers.quotas import quotas
from buspass.rates import Exhausted, Pace
from buspass.rates.pace import SECOND, Limit

CALLS: Final = {"calls": 1}
LOW: Final = 0.1
"""The share of a provider's quota below which it is saved."""


async def permit(house: House, lanes: Sequence[Lane], tokens: int, patience: float, paced: str) -> Lane:
    """Give the first of the lanes whose provider has a permit now, else wait for the best one's.

    `paced`: the provider whose permit the call has already. Raises Problem rate_limited.
    """
    for lane in lanes:
        if lane.provider.name == paced:
            return lane
    for place, lane in enumerate([*lanes, lanes[0]] if len(lanes) > 1 else lanes):
        last = place >= len(lanes) - (len(lanes) == 1)
        try:
            if lane.pace is not None:
                await take(house, lane.pace, tokens, patience if last else 0.0)
        except Exhausted as exhausted:
            if last:
                raise refused(exhausted) from None
        else:
            return lane
    raise AssertionError("unreachable: the last one is returned or refused")  # pragma: no cover


async def take(house: House, pace: Pace, tokens: int, patience: float) -> None:
    """Take a provider's permits for one attempt. Raises Exhausted."""
    await house.rates.take(pace, {"requests": 1, "tokens": tokens}, patience)


async def heard(house: House, pace: Pace, headers: Mapping[str, str]) -> None:
    """Slow all hosts down where a provider with limits says that little of our quota is left: others may use it, too.

    Below a tenth the rate goes down with what is left; with nothing left nobody goes before there is a permit again.
    """
    for quota in quotas(headers):
        left = quota.left / quota.whole
        if left < LOW:
            seconds = 0.0 if quota.left else quota.seconds / quota.whole
            with suppress(Problem):  # the answer is there; who asks for a permit next is told that the store is away
                await house.rates.brake(pace, quota.kind, left / LOW, seconds)


def refused(exhausted: Exhausted) -> Problem:
    """Give `rate_limited`, with the fields of draft-ietf-httpapi-ratelimit-headers-11."""
    pace, seconds = exhausted.pace, max(1, -int(-exhausted.seconds // 1))
    words = f"calls to {pace.shown!r} may go only so often, over all tasks; retry in {seconds} s"
    problem = Problem("rate_limited", words, retry_after=exhausted.seconds)
    names = {name: f'"{pace.shown}.{name}"' for name in pace.limits}
    problem.headers = {
        "RateLimit-Policy": ", ".join(f"{names[name]};{_quota(limit)}" for name, limit in pace.limits.items()),
        "RateLimit": ", ".join(f"{shown};r=0;t={seconds}" for shown in names.values()),
    }
    return problem


def _quota(limit: Limit) -> str:
    if limit.period < SECOND:
        return f"q={limit.amount * SECOND // limit.period};w=1"
    return f"q={limit.amount};w={-(-limit.period // SECOND)}"
