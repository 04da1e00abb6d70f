"""A breaker as all hosts share it: how it lies in the store, and how one host changes it beside the others.

Owns the partitions `breaker:…`, and that a change counts once: an item names the last changes that made it, so that who
lost a write's answer tells its own from another host's equal one. Refuses to know what a change means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from msgspec.structs import asdict, replace

from buspass.breakers.known import Key, Known
from buspass.breakers.states import CLOSED, FORGET, Breaker, counts_until
from buspass.ports.clock import Clock
from buspass.ports.state import Delete, Equals, Item, OutcomeUnknown, Put, Refused, State, Unavailable

KEY: Final = "state"
INDEX: Final = "due"
SHARD: Final = "breakers"
TASKS: Final = "breaker:task:"
"""How the partitions of tasks' breakers begin."""
TRIES: Final = 20
"""How often a change is made, each time on what another host's change left."""
LOST: Final = 3
"""Lost answers of one change after which the store counts as away."""
WRITERS: Final = 4
"""Changes that an item names. One is looked for right after its answer was lost, when few can have come on top."""

log = logging.getLogger("buspass")

type Step = Callable[[Breaker, int], Breaker | None]
"""What a change makes of a breaker at a time (ms); None where nothing changes."""


class Stored:
    """The breakers in the store, as one host reads and changes them."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def read(self, key: Key, known: Known) -> bool:
        """Know it as it is now. False where the store is away: then what was known goes on."""
        try:
            item = await self._state.read(key.partition, KEY)
            known.breaker = CLOSED if item is None else breaker_in(item)
            there = True
        except Unavailable as error:
            log.warning("breaker %s can't be read: %s", key, error)
            there = False
        known.read = self._clock.monotonic()
        return there

    async def change(self, key: Key, known: Known, step: Step, *, alone: bool = True) -> Breaker:
        """Change it once, by a step of the table. `alone`: here at least, if the store is away."""
        with known:
            async with known.turn:
                await self._change(key, known, step, alone)
                return known.breaker

    async def _change(self, key: Key, known: Known, step: Step, alone: bool) -> None:
        mine, lost, before = self._clock.random(4).hex(), 0, known.breaker
        for _ in range(TRIES):
            old = known.breaker
            if mine in old.writers.split():  # it arrived, and only its answer was lost
                _log(key, before, old)
                return
            if (new := step(old, self._clock.now())) is None:
                return
            try:
                if await self._put(key, known, replace(new, writers=_writers(mine, old))):
                    return
                continue
            except OutcomeUnknown as error:
                away: Exception = error
                lost += 1
                if lost < LOST and await self.read(key, known):
                    continue
            except Unavailable as error:
                away = error
            log.warning("breaker %s can't be written: %s", key, away)
            if alone:
                known.breaker = replace(new, version=old.version)
            return

    async def _put(self, key: Key, known: Known, new: Breaker) -> bool:
        """Put it in the place of the one that is known; where that is there no more, know what is, and say False."""
        old = known.breaker
        answer = await self._state.apply(key.partition, [_operation(key, old, new)])
        known.read = self._clock.monotonic()
        if isinstance(answer, Refused):
            known.breaker = CLOSED if answer.item is None else breaker_in(answer.item)
            return False
        known.breaker = CLOSED if answer.item is None else new
        _log(key, old, new)
        return True


def _writers(mine: str, old: Breaker) -> str:
    return " ".join([mine, *old.writers.split()[: WRITERS - 1]])


def _log(key: Key, old: Breaker, new: Breaker) -> None:
    if new.state != old.state:
        level = logging.WARNING if new.state == "open" else logging.INFO
        log.log(level, "breaker %s: %s, then %s", key, old.state, new.state)


async def forget(state: State, now: int, limit: int) -> int:
    """Remove tasks' breakers that nobody has to heed any more, and give how many: a task ends and leaves its own open.

    Looks at `limit` breakers, those first that have been troubled for longest. Raises Unavailable, OutcomeUnknown.
    """
    gone = 0
    for partition, _ in await state.find(INDEX, SHARD, f"{now - FORGET:016d}", limit):
        if not partition.startswith(TASKS):
            continue
        item = await state.read(partition, KEY)
        if item is not None and counts_until(old := breaker_in(item)) <= now:
            gone += not isinstance(await state.apply(partition, [Delete(KEY, _unchanged(old))]), Refused)
    return gone


def _unchanged(old: Breaker) -> tuple[Equals, ...]:
    require: tuple[Equals, ...] = (Equals(("version",), old.version),) if old.version else ()
    if old.writers:  # a task's breaker that was gone in between may have the same version again
        require = (*require, Equals(("writers",), old.writers))
    return require


def _operation(key: Key, old: Breaker, new: Breaker) -> Put | Delete:
    require = _unchanged(old)
    if key.task and require and new.state == "closed":
        return Delete(KEY, require)  # a task ends, and nobody would
    value: Item = {**asdict(new), "breaker": key.kind, "name": key.name, "task": key.task}
    place = None if new.state == "closed" else (SHARD, f"{new.since:016d}")
    return Put(KEY, value, require, index={INDEX: place})


def breaker_in(item: Item) -> Breaker:
    """Read an item; what an older host's does not name yet is as it begins."""
    return Breaker(**{part: item[part] for part in Breaker.__struct_fields__ if part in item})  # type: ignore[arg-type]
