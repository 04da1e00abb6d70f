"""Which breaker is meant, and where it lies. Refuses to know what is known of it."""

from __future__ import annotations

import hashlib
from typing import Literal

from msgspec import Struct


class Key(Struct, frozen=True):
    """Which breaker: of a model's target, of a tool's host, or of such a host for one task.

    `address`: where a target's provider is, for its name says who it is and not where: what one address came to is no
    sign of another, which a new configuration or another host may have for it.
    """

    kind: Literal["model", "tool", "task"]
    name: str
    task: str = ""
    address: str = ""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"tool {name} of task {self.task}" if self.task else f"{self.kind} {name}"

    @property
    def partition(self) -> str:
        """Give its partition in the store."""
        name = f"{self.name}@{self.address}" if self.address else self.name
        if not (name.isascii() and name.isprintable() and len(name) < 128):
            name = hashlib.sha256(name.encode()).hexdigest()
        return f"breaker:{self.kind}:{self.task}:{name}" if self.task else f"breaker:{self.kind}:{name}"
