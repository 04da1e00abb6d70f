"""How many retries an alias may make: a share of its dispatches, lest repetitions bury a failing provider.

Owns one purse per alias, in this process. Refuses to know why a retry is wanted.
"""

from __future__ import annotations

from typing import Final

RESERVE: Final = 10
"""Retries that an alias begins with, and the most that it saves up."""
WHOLE: Final = 1_000_000
FULL: Final = RESERVE * WHOLE


class Retries:
    """Each dispatch earns the alias its share of a retry; each retry costs a whole one."""

    def __init__(self) -> None:
        self._purses: dict[str, int] = {}

    def earn(self, alias: str, share: float) -> None:
        """Count a call's first dispatch; `share` is the alias's `retry.budget`, 0 to 1."""
        left = self._purses.get(alias)
        if left is not None and left < FULL:  # nearly always it is full, which need not be written down
            self._purses[alias] = min(FULL, left + round(share * WHOLE))

    def spend(self, alias: str) -> bool:
        """Take one retry, if it is there."""
        left = self._left(alias)
        if left < WHOLE:
            return False
        self._purses[alias] = left - WHOLE
        return True

    def _left(self, alias: str) -> int:
        return self._purses.get(alias, FULL)
