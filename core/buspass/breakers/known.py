"""What one host knows of breakers, in memory. Refuses to know the store, and who may go."""

from __future__ import annotations

import asyncio
import math

from msgspec import Struct, field

from buspass.breakers.states import CLOSED, Breaker


class Known(Struct, eq=False):
    """What this host knows of one breaker. `read` and `proven` are monotonic seconds; `flying`: its calls under way.

    `asked`: the loop's seconds when the one call was sent that finds out for all; inf before that, and once it failed.
    """

    breaker: Breaker = CLOSED
    read: float = -math.inf
    proven: float = -math.inf
    asked: float = -math.inf
    flying: int = 0
    run: int = 0
    forgiven: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def tell(self) -> None:
        """Wake who waits for a change."""
        self.news.set()
        self.news = asyncio.Event()
