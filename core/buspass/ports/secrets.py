"""Where a `secret: NAME` of the configuration is looked up. Values never appear in logs, records or errors."""

from __future__ import annotations

from typing import Protocol


class SecretMissing(Exception):  # noqa: N818 - named for the state of the store
    """The store has no such secret; the text names it and where it was looked for, never a value."""


class Secrets(Protocol):
    """Looks a secret up by name. Adapters may cache for at most five minutes.

    `get` raises `SecretMissing`. `at_once` gives what `get` would, where that waits for nothing; None says nothing.
    """

    async def get(self, name: str) -> str: ...

    def at_once(self, name: str) -> str | None: ...
