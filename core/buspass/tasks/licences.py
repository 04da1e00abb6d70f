"""Licences: each tool call of a model is a licence for one action.

Owns how the licence of an action is found, and the ids of calls: a keyless inference's id begins with the time turned
round, so that a listing meets the newest first and no index is needed. Refuses to know what a tool does, and a record
that no host of the domain wrote.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, Final, cast

from msgspec import Struct

from buspass.errors import Problem
from buspass.ports.clock import Clock
from buspass.ports.state import Item, State, Unavailable, Value

log = logging.getLogger(__name__)

LATEST: Final = 2**48 - 1
LOOK_BACK: Final = 512
"""Inferences that are searched for a licence: so many keyless ones, and so many calls with a key."""
HELD_BACK: Final = 60_000
"""Milliseconds that a call may have waited for its hold: what began earlier by less may have been held later."""
KEYLESS: Final = "rec:i"
KEYED: Final = "rec:k"

type Place = tuple[int, int]
"""When a call's hold stood (ms), and its turn among those of its name."""


class Licence(Struct, frozen=True, kw_only=True):
    """One tool call that a model asked for: the inference's id, its place there, its tool and arguments' digest."""

    inference: str
    index: int
    tool: str
    fingerprint: str

    @property
    def call(self) -> str:
        """Give the id of the one action this licence allows."""
        return "l" + digest("licence", self.inference, str(self.index))


def digest(*parts: str) -> str:
    """Give 128 bits over parts that can't run into each other."""
    return hashlib.sha256("\x00".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:32]


def keyless(clock: Clock, letter: str) -> str:
    """Give a new call's id; of two, the later sorts first (`i` inference, `a` action, `t` thought)."""
    return f"{letter}{LATEST - clock.now():012x}{clock.random(5).hex()}"


def keyed(task: str, key: str, kind: str) -> str:
    """Give the id of a call with an Idempotency-Key: a client's text enters as a digest."""
    return "k" + digest(kind, task, key)


class Licences:
    """Finds licences in a task's journal. `genuine` is the journal's."""

    def __init__(self, state: State, genuine: Callable[[str, str, Item], bool]) -> None:
        self._state = state
        self._genuine = genuine

    async def by_id(self, task: str, tool_call_id: str) -> Licence | None:
        """Give the licence with this id in the newest inference that offered it: models use an id again and again.

        The newest is the one whose hold stood last, whatever its id and its client's key.
        """
        found: list[tuple[Place, Licence]] = []
        async for call, record in self._inferences(task, KEYLESS):
            if found and began(call) < found[0][0][0] - HELD_BACK:
                break  # this one and all after it began so long before that they were held before, too
            found += self._with_id(task, call, record, tool_call_id)
        async for call, record in self._inferences(task, KEYED):
            found += self._with_id(task, call, record, tool_call_id)
        return max(found, key=lambda pair: pair[0])[1] if found else None

    async def by_content(self, task: str, tool: str, fingerprint: str) -> Licence | None:
        """Give the newest licence for this tool and these arguments that no finished action has used.

        One that an action in flight uses is given only where there is no other.
        """
        open_now = await self._in_flight(task)
        in_use: Licence | None = None
        for prefix in (KEYLESS, KEYED):
            async for call, record in self._inferences(task, prefix):
                for index, offer in _offers(record):
                    if offer["tool"] != tool or offer["fingerprint"] != fingerprint:
                        continue
                    if not self._believed(task, call, record):
                        break
                    found = licence(call, index, offer)
                    if found.call in open_now:
                        in_use = in_use or found
                    elif await self._read(task, f"rec:{found.call}") is None:
                        return found
        return in_use

    def _with_id(self, task: str, call: str, record: Item, tool_call_id: str) -> list[tuple[Place, Licence]]:
        offered = [licence(call, index, offer) for index, offer in _offers(record) if offer["id"] == tool_call_id]
        if not offered or not self._believed(task, call, record):
            return []
        return [((_whole(record.get("at")), _whole(record.get("turn"))), found) for found in offered]

    def _believed(self, task: str, call: str, record: Item) -> bool:
        """Whether a host of this domain wrote it: who can write to the database makes no licence."""
        if self._genuine(task, f"rec:{call}", record):
            return True
        log.error("record %s of task %s was not written by a host of this domain: it licenses nothing", call, task)
        return False

    async def _in_flight(self, task: str) -> Collection[str]:
        head = await self._read(task, "head")
        found = head.get("open") if head else None
        return found.keys() if isinstance(found, Mapping) else ()

    async def _read(self, task: str, key: str) -> Item | None:
        try:
            return await self._state.read(task, key)
        except Unavailable as error:
            raise _away(error) from error

    async def _inferences(self, task: str, prefix: str) -> AsyncIterator[tuple[str, Item]]:
        """Yield up to LOOK_BACK calls and their records, the keyless ones newest first."""
        after, size, seen = "", 4, 0
        while seen < LOOK_BACK:
            try:
                page = await self._state.list(task, prefix, after, size)
            except Unavailable as error:
                raise _away(error) from error
            for key, record in page:
                yield key.removeprefix("rec:"), record
            if len(page) < size:
                return
            after, seen, size = page[-1][0], seen + size, 64


def began(call: str) -> int:
    """Give when a keyless call began (ms), as its id says."""
    return LATEST - int(call[1:13], 16)


def _offers(record: Item) -> Iterable[tuple[int, Mapping[str, Any]]]:
    offers = record.get("offers")
    return enumerate(cast("list[Mapping[str, Any]]", offers) if isinstance(offers, list) else ())


def _whole(value: Value) -> int:
    return value if type(value) is int else 0


def _away(error: Unavailable) -> Problem:
    return Problem("state_unavailable", f"the journal could not be read ({error})", retry_after=1)


def licence(call: str, index: int, offer: Mapping[str, Any]) -> Licence:
    """Give the licence that an offer in a record is."""
    return Licence(inference=call, index=index, tool=offer["tool"], fingerprint=offer["fingerprint"])
