"""Licences: each tool call of a model is a licence for one action.

Owns how the licence of an action is found, and the ids of calls: a keyless inference's id begins with the time turned
round, so that a listing meets the newest first and no index is needed. Refuses to know what a tool does.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from buspass.errors import Problem
from buspass.ports.clock import Clock
from buspass.ports.state import Item, State, Unavailable

LATEST: Final = 2**48 - 1
LOOK_BACK: Final = 512
"""Inferences that are searched for a licence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
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
    """Finds licences in a task's journal."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def by_id(self, task: str, tool_call_id: str) -> Licence | None:
        """Give the licence with this id in the newest inference that offered it."""
        async for call, offer, index in self._offers(task):
            if offer["id"] == tool_call_id:
                return licence(call, index, offer)
        return None

    async def by_content(self, task: str, tool: str, fingerprint: str) -> Licence | None:
        """Give the newest licence for this tool and these arguments that no finished action has used."""
        async for call, offer, index in self._offers(task):
            if offer["tool"] == tool and offer["fingerprint"] == fingerprint:
                found = licence(call, index, offer)
                if await self._state.read(task, f"rec:{found.call}") is None:
                    return found
        return None

    async def _offers(self, task: str) -> AsyncIterator[tuple[str, Mapping[str, Any], int]]:
        try:
            async for key, record in self._inferences(task):
                offers = record.get("offers")
                for index, offer in enumerate(offers if isinstance(offers, list) else ()):
                    yield key.removeprefix("rec:"), cast("Mapping[str, Any]", offer), index
        except Unavailable as error:
            raise Problem("state_unavailable", f"the journal could not be read ({error})", retry_after=1) from error

    async def _inferences(self, task: str) -> AsyncIterator[tuple[str, Item]]:
        """Yield inferences newest first; those with a client's key, whose ids bear no time, after them."""
        for prefix in ("rec:i", "rec:k"):
            after, size, seen = "", 4, 0
            while seen < LOOK_BACK:
                page = await self._state.list(task, prefix, after, size)
                for pair in page:
                    yield pair
                if len(page) < size:
                    break
                after, seen, size = page[-1][0], seen + size, 64


def licence(call: str, index: int, offer: Mapping[str, Any]) -> Licence:
    """Give the licence that an offer in a record is."""
    return Licence(inference=call, index=index, tool=offer["tool"], fingerprint=offer["fingerprint"])
