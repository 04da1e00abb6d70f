"""Which breaker is meant, and what one host knows of it, in memory that is bounded.

Refuses to know the store, but for the partition that a breaker has there, and who may go.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from typing import Final, Literal

from msgspec import Struct, field

from buspass.breakers.states import CLOSED, Breaker, counts_until
from buspass.ports.clock import Clock

KEPT: Final = 4_096
"""Breakers that a host remembers, unless more are in use. Only those of tasks are ever forgotten."""


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


class Known(Struct, eq=False):
    """What this host knows of one breaker. `read` and `proven` are monotonic seconds; `flying`: its calls under way.

    `asked`: the loop's seconds when the one call was sent that finds out for all; inf before that, and once it failed.
    `using`: how many wait for it, read or change it just now: as a context it is one more.
    """

    breaker: Breaker = CLOSED
    read: float = -math.inf
    proven: float = -math.inf
    asked: float = -math.inf
    flying: int = 0
    using: int = 0
    run: int = 0
    forgiven: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __enter__(self) -> None:
        self.using += 1

    def __exit__(self, *_: object) -> None:
        self.using -= 1

    def tell(self) -> None:
        """Wake who waits for a change."""
        self.news.set()
        self.news = asyncio.Event()


class Memory(dict[Key, Known]):
    """What a host knows, by key. It forgets tasks' breakers that are not in use: closed ones, then the first due."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._full = KEPT
        self._doubtful = 0

    def of(self, key: Key) -> Known:
        """Give what is known of it, if it is nothing yet, too."""
        if (known := self.get(key)) is None:
            if key.task and len(self) >= self._full:
                self._forget()
            known = self[key] = Known()
        return known

    def doubtful(self) -> bool:
        """Whether an unknown breaker of a task may be one that was forgotten unclosed: then it is to be read."""
        return self._doubtful > 0 and self._clock.now() < self._doubtful

    def _forget(self) -> None:
        """Make room for an eighth more at once, so that a look through all of them is rare."""
        idle = [(known.breaker, key) for key, known in self.items() if key.task and not (known.flying or known.using)]
        idle.sort(key=lambda each: 0 if each[0].state == "closed" else counts_until(each[0]))
        surplus = len(self) - KEPT + max(KEPT // 8, 1)
        for place, (breaker, key) in enumerate(idle):
            if breaker.state != "closed":
                if place >= surplus:
                    break
                self._doubtful = max(self._doubtful, counts_until(breaker))
            del self[key]
        self._full = max(KEPT, len(self) + KEPT // 8)
