"""Calendar windows: the account that a pool's money lies in now, and whose money that is.

Owns the calendar (UTC) and the names of accounts. Pure. Refuses to know what is in an account (`pools`).

    forever          support                     no end
    500/month        support:2026-11             from the first, 00:00 UTC
    100/week         support:2026-W48            from Monday, 00:00 UTC (ISO 8601)
    20/day           support:2026-11-26          from 00:00 UTC
    1/hour           support:2026-11-26T18       from the full hour
    with `shards`    support:2026-11-26:s3       a part that draws from the account above it

A window is an account of its own: nothing is carried over, and what comes back late comes back to its own window.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.config.settings import Pool

CHUNKS: Final = 16
"""Chunks in which a pool draws all that it holds: what lies idle in it is at most about one."""


class Account(Struct, frozen=True, kw_only=True):
    """A pool in one window. `holds`: all that it may ever give, micro-dollars; `ends`: ms since the epoch, 0 for never.

    With a `parent` its money comes from there as it is needed, a `chunk` at a time or more; without one it is born with
    what it holds.
    """

    id: str
    pool: str
    holds: int
    chunk: int = 0
    ends: int = 0
    parent: Account | None = None

    def chain(self) -> Iterator[Account]:
        """Give this account and those above it."""
        here: Account | None = self
        while here is not None:
            yield here
            here = here.parent


def account(pools: Mapping[str, Pool], name: str, now: int) -> Account:
    """Give the account that the pool's money lies in at `now` (ms). Raises KeyError for an unknown pool."""
    pool = pools[name]
    parent = account(pools, pool.parent, now) if pool.parent else None
    window, ends = _window(pool.period, now)
    found = f"{name}:{window}" if window else name
    return Account(
        id=found, pool=name, holds=pool.cost, chunk=-(-pool.cost // (CHUNKS * pool.shards)), ends=ends, parent=parent
    )


def shards(pools: Mapping[str, Pool], name: str, now: int, task: str) -> list[Account]:
    """Give the accounts that a task may draw from, its own shard first; a pool without shards is one itself."""
    whole, count = account(pools, name, now), pools[name].shards
    if count == 1:
        return [whole]
    first = zlib.crc32(task.encode()) % count
    numbers = [(first + step) % count for step in range(count)]
    return [replace(whole, id=f"{whole.id}:s{number}", parent=whole) for number in numbers]


def _window(period: str, now: int) -> tuple[str, int]:
    """Give the window's name and its end (ms)."""
    at = datetime.fromtimestamp(now / 1000, UTC)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case "hour":
            begins = day.replace(hour=at.hour)
            return f"{begins:%Y-%m-%dT%H}", _ms(begins + timedelta(hours=1))
        case "day":
            return f"{day:%Y-%m-%d}", _ms(day + timedelta(days=1))
        case "week":
            year, week, _ = at.isocalendar()
            return f"{year:04}-W{week:02}", _ms(day + timedelta(days=7 - at.weekday()))
        case "month":
            return f"{day:%Y-%m}", _ms((day.replace(day=1) + timedelta(days=32)).replace(day=1))
        case _:
            return "", 0


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
