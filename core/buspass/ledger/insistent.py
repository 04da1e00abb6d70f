"""The store as ledger and delegations ask it: what had no answer is sent again, and what can't be had is a Problem.

Owns how often and how soon. Refuses to know what is sent: each operation falsifies its own condition, so that to send
it again is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from buspass.errors import Problem
from buspass.ledger.holds import HEAD
from buspass.ports.state import Applied, Item, Operation, OutcomeUnknown, Refused, State, Unavailable

TRIES: Final = 6
"""How often operations are sent until they have an answer."""


class Insistent:
    """One store. Every method raises Problem state_unavailable. `sleep` waits for so many seconds."""

    def __init__(self, state: State, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._state, self._sleep = state, sleep

    async def commit(self, task: str, operations: Sequence[Operation]) -> Applied | Refused:
        """Apply, again and again until there is an answer."""
        try:
            return await self._state.apply(task, operations)
        except (OutcomeUnknown, Unavailable):
            return await self.again(task, operations)

    async def again(self, task: str, operations: Sequence[Operation]) -> Applied | Refused:
        """Send what had no answer again. Raises Problem state_unavailable after the last of TRIES."""
        pause = 0.02
        for left in range(TRIES - 2, -1, -1):
            await self._sleep(pause)
            try:
                return await self._state.apply(task, operations)
            except (OutcomeUnknown, Unavailable) as error:
                if not left:
                    raise unavailable(str(error)) from error
            pause *= 2
        raise AssertionError("unreachable")  # pragma: no cover

    async def read(self, task: str, key: str) -> Item | None:
        """Give an item as it is now."""
        try:
            return await self._state.read(task, key)
        except Unavailable as error:
            raise unavailable(str(error)) from error

    async def list(self, task: str, prefix: str, after: str, most: int = 100) -> Sequence[tuple[str, Item]]:
        """Give up to `most` items whose keys begin so and come after that one."""
        try:
            return await self._state.list(task, prefix, after, most)
        except Unavailable as error:
            raise unavailable(str(error)) from error

    async def head(self, task: str) -> Item:
        """Give a task's head. Raises Problem not_found."""
        head = await self.read(task, HEAD)
        if head is None:
            raise Problem("not_found", "there is no such task in this trust domain")
        return head


def unavailable(why: str) -> Problem:
    """Give the problem for a store that can't be reached."""
    return Problem("state_unavailable", f"the task's state could not be reached ({why}); retry later", retry_after=1)
