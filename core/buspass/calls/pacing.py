"""What paces a call: a tool's `rate`, a provider's `limits`; and what is told where no permit comes free in time.

Refuses to know how permits are shared between hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from buspass.calls.house import House
from buspass.config.settings import Provider, Target, Tool
from buspass.errors import Problem
from buspass.providers.quotas import quotas
from buspass.rates import Exhausted, Pace
from buspass.rates.pace import SECOND, Limit

CALLS: Final = {"calls": 1}
MINUTE: Final = 60 * SECOND
LOW: Final = 0.1
"""The share of a provider's quota below which it is saved."""


def of_tool(tool: Tool) -> Pace | None:
    """Give the pace of a tool, if it has one."""
    if tool.rate is None:
        return None
    period = -int(-SECOND / tool.rate // 1)  # rounded up: rather slower than faster
    return Pace(name=f"tool:{tool.name}", shown=tool.name, limits={"calls": Limit(amount=1, period=period)})


def of_provider(provider: Provider) -> Pace | None:
    """Give the pace of a provider, if it has limits."""
    if provider.rpm is None and provider.tpm is None:
        return None
    limits = {
        name: Limit(amount=amount, period=MINUTE)
        for name, amount in (("requests", provider.rpm), ("tokens", provider.tpm))
        if amount is not None
    }
    return Pace(name=f"provider:{provider.name}", shown=provider.name, limits=limits)


async def permit(house: House, targets: Sequence[Target], tokens: int, patience: float, paced: str) -> Target:
    """Give the first of the targets whose provider has a permit now, else wait for the best one's.

    `paced`: the provider whose permit the call has already. Raises Problem rate_limited.
    """
    for target in targets:
        if target.provider == paced:
            return target
    for place, target in enumerate([*targets, targets[0]] if len(targets) > 1 else targets):
        last = place >= len(targets) - (len(targets) == 1)
        try:
            await take(house, target, tokens, patience if last else 0.0)
        except Exhausted as exhausted:
            if last:
                raise refused(exhausted) from None
        else:
            return target
    raise AssertionError("unreachable: the last one is returned or refused")  # pragma: no cover


async def take(house: House, target: Target, tokens: int, patience: float) -> None:
    """Take a target's permits for one attempt. Raises Exhausted."""
    if (pace := of_provider(house.settings.providers[target.provider])) is not None:
        await house.rates.take(pace, {"requests": 1, "tokens": tokens}, patience)


async def heard(house: House, provider: Provider, headers: Mapping[str, str]) -> None:
    """Slow all hosts down where the provider says that little of our quota is left: others may use it, too.

    Below a tenth the rate goes down with what is left; with nothing left nobody goes before there is a permit again.
    """
    if (pace := of_provider(provider)) is None:
        return
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
