"""Timetables that all hosts share: one item each, changed under its version.

Owns the partitions `rate:…`. Calls that come to a host while it is writing are booked together by its next write: so
the faster they come, the more permits a write leases. Refuses to know what a call is. Fails closed: without the store
nobody gets a permit.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.ports.clock import Clock
from buspass.ports.state import Applied, Equals, Item, OutcomeUnknown, Put, State, Unavailable
from buspass.rates import pace as timetable
from buspass.rates.pace import EMPTY, SECOND, Pace, Table

KEY: Final = "table"
TRIES: Final = 1000


class Exhausted(Exception):  # noqa: N818 - the room's word for it
    """No permit comes free in time; the next one in `seconds`."""

    def __init__(self, pace: Pace, seconds: float) -> None:
        super().__init__(f"{pace.name}: {seconds:.3f} s")
        self.pace, self.seconds = pace, seconds


class _Place(Struct, eq=False):
    """One call in line. `latest`, `at` in µs; `at` is 0 while nothing is booked, `free` when it might have gone."""

    takes: Mapping[str, int]
    latest: int
    at: int = 0
    free: int = 0


class _Line(Struct, eq=False):
    """Those of this host who wait to be booked, and the timetable as this host knows it."""

    table: Table = EMPTY
    places: list[_Place] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Rates:
    """The timetables, as one host sees them. Safe beside any number of hosts and concurrent callers."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    async def take(self, pace: Pace, takes: Mapping[str, int], patience: float) -> float:
        """Wait for a permit, `patience` seconds at most; give the seconds that it took.

        First come first served. Raises Exhausted at once where none comes free in time, and takes nothing then;
        Problem state_unavailable.
        """
        now = self._now()
        mine = _Place(takes, now + round(patience * SECOND))
        line = self._line(pace)
        line.places.append(mine)
        try:
            async with line.turn:
                if not mine.free:  # else somebody booked for all who stood in line
                    await self._book(pace, line)
        finally:
            if mine in line.places:  # it failed, or its caller is gone
                line.places.remove(mine)
        if not mine.at:
            raise Exhausted(pace, (mine.free - now) / SECOND)
        wait = (mine.at - self._now()) / SECOND
        if wait > 0:
            await self._clock.sleep(wait)
        return max(wait, 0.0)

    async def lower(self, pace: Pace, seconds: float | None) -> None:
        """Slow down: the provider turned a call away, and wants `seconds` of peace, or does not say."""
        now = self._now()
        until = now + round((seconds or 0.0) * SECOND)
        await self._change(pace, lambda table: timetable.lowered(table, pace, now, until))

    async def brake(self, pace: Pace, name: str, most: float, seconds: float) -> None:
        """Slow down before the provider turns calls away: little of one limit is left there.

        `most`: the share of the rate to go on with, at most; `seconds`: how long nobody goes.
        """
        now = self._now()
        share, until = round(most * timetable.WHOLE), now + round(seconds * SECOND)
        await self._change(pace, lambda table: timetable.braked(table, pace, name, now, share, until))

    async def pause(self, pace: Pace, seconds: float) -> None:
        """Let nobody go for so long: the provider says that its quota is used up until then."""
        until = self._now() + round(seconds * SECOND)
        await self._change(pace, lambda table: timetable.paused(table, pace, until))

    # ── the timetable ───────────────────────────────────────────────────────────────────────────────────────────

    async def _book(self, pace: Pace, line: _Line) -> None:
        places: list[_Place] = []

        def book(table: Table) -> Table:
            places.extend(line.places)
            line.places.clear()
            now = self._now()
            for place in places:
                place.at, place.free = 0, timetable.moment(table, pace, place.takes, now)
                if place.free <= place.latest:
                    place.at = place.free
                    table = timetable.booked(table, pace, place.takes, place.at)
            return table

        try:
            await self._changed(pace, line, book)
        except BaseException:
            for place in places:
                place.at = place.free = 0
            line.places[:0] = [place for place in places if place not in line.places]
            raise

    async def _change(self, pace: Pace, step: Callable[[Table], Table]) -> None:
        line = self._line(pace)
        async with line.turn:
            await self._changed(pace, line, step)

    async def _changed(self, pace: Pace, line: _Line, step: Callable[[Table], Table]) -> None:
        """Write the timetable as the step makes it; nothing where it changes nothing."""
        for _ in range(TRIES):
            new = step(line.table)
            if new == line.table:
                return
            new = replace(new, version=line.table.version + 1)
            require = (Equals(("version",), line.table.version),) if line.table.version else ()
            put = Put(KEY, _item(new), require)
            try:
                answer = await self._state.apply(_partition(pace), [put])
            except OutcomeUnknown:
                line.table = await self._read(pace)  # if it was applied, its permits are lost: time, and no more
                continue
            except Unavailable as error:
                raise _unavailable(error) from error
            if isinstance(answer, Applied):
                line.table = new
                return
            line.table = _table(answer.item)
        raise Problem("state_unavailable", "the rate's timetable changes too fast; retry", retry_after=1)

    async def _read(self, pace: Pace) -> Table:
        try:
            return _table(await self._state.read(_partition(pace), KEY))
        except Unavailable as error:
            raise _unavailable(error) from error

    def _line(self, pace: Pace) -> _Line:
        return self._lines.setdefault(pace.name, _Line())

    def _now(self) -> int:
        return self._clock.now() * 1000


def _partition(pace: Pace) -> str:
    plain = pace.name.isascii() and pace.name.isprintable() and len(pace.name) < 200
    return f"rate:{pace.name if plain else hashlib.sha256(pace.name.encode()).hexdigest()}"


def _item(table: Table) -> Item:
    return {"due": dict(table.due), "share": table.share, "lowered": table.lowered, "version": table.version}


def _table(item: Item | None) -> Table:
    if item is None:
        return EMPTY
    due = item["due"]
    assert isinstance(due, Mapping)
    whole = {name: int(str(item[name])) for name in ("share", "lowered", "version")}
    return Table(due={name: int(str(at)) for name, at in due.items()}, **whole)


def _unavailable(error: Exception) -> Problem:
    return Problem("state_unavailable", f"the rate's timetable could not be reached ({error}); retry", retry_after=1)
