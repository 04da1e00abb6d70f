"""What waits to be told: one item for each message and webhook, put when something happens, sent by a timer.

Owns the partitions `alert:…`, when each is tried again and when it is given up. A message's id follows from what
happened, so it waits once, whoever notices it; and a try is written before it is made, so that of several timers one
makes it. Refuses to know what happens, and to send.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from buspass.config.settings import Webhook
from buspass.model import DUE_INDEX, due_shard
from buspass.ports.clock import Clock
from buspass.ports.state import Applied, Delete, Equals, Item, OutcomeUnknown, Put, State, Unavailable, Update

PREFIX: Final = "alert:"
KEY: Final = "alert"
FIRST: Final = 15_000
"""Milliseconds after the first try that failed; each time twice as long, give or take a half."""
LONGEST: Final = 6 * 3_600_000
TRIES: Final = 13
"""Tries until it is given up: after about a day."""


class Alert(Struct, frozen=True, kw_only=True):
    """A message that waits. `body` is what is sent, the same at every try; `tries`: how many were begun."""

    id: str
    webhook: str
    event: str
    body: str
    tries: int = 0

    @property
    def message(self) -> str:
        """Its `webhook-id`, by which who gets it knows a repetition."""
        return f"msg_{self.id}"


class Alerts:
    """The messages of one trust domain that wait in one store."""

    def __init__(self, state: State, clock: Clock, webhooks: Mapping[str, Webhook]) -> None:
        self._state = state
        self._clock = clock
        self._webhooks = webhooks

    def wanted(self, event: str) -> bool:
        """Say whether any webhook wants to hear of this."""
        return any(event in webhook.on for webhook in self._webhooks.values())

    async def tell(self, event: str, what: str, data: Mapping[str, Any]) -> None:
        """Have every webhook that wants it told: `what` happened is unique among all events of this kind.

        Nothing is sent here, and nothing is waited for but the store. Where that is away, the message is lost: what
        happened must not be undone for it.
        """
        now = self._clock.now()
        at = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = json.dumps({"type": event, "timestamp": at, "data": dict(data)}, ensure_ascii=False)
        for name, webhook in self._webhooks.items():
            if event in webhook.on:
                digest = hashlib.sha256(f"{name}\x00{event}\x00{what}".encode()).hexdigest()[:24]
                item: Item = {"id": digest, "webhook": name, "event": event, "body": body, "tries": 0, "moved": 0}
                due = (due_shard(partition(digest)), f"{now:016d}")
                with suppress(Unavailable, OutcomeUnknown):
                    await self._state.apply(partition(digest), [Put(KEY, item, index={DUE_INDEX: due})])

    async def take(self, where: str) -> Alert | None:
        """Begin the next try of a message: None where somebody else did, or it is gone. Raises Unavailable."""
        item = await self._state.read(where, KEY)
        if item is None:
            return None
        alert = Alert(
            id=str(item["id"]),
            webhook=str(item["webhook"]),
            event=str(item["event"]),
            body=str(item["body"]),
            tries=int(str(item["tries"])) + 1,
        )
        due = (due_shard(where), f"{self._clock.now() + self._pause(alert.tries):016d}")
        begun = Update(KEY, (Equals(("tries",), alert.tries - 1),), {("tries",): 1}, index={DUE_INDEX: due})
        try:
            return alert if isinstance(await self._state.apply(where, [begun]), Applied) else None
        except OutcomeUnknown:
            return None  # it is due again, later

    async def postpone(self, where: str, ms: int) -> None:
        """Let a message wait longer, without a try. Raises Unavailable."""
        item = await self._state.read(where, KEY)
        if item is not None:
            due = (due_shard(where), f"{self._clock.now() + ms:016d}")
            later = Update(KEY, (Equals(("moved",), int(str(item["moved"]))),), {("moved",): 1}, index={DUE_INDEX: due})
            with suppress(OutcomeUnknown):
                await self._state.apply(where, [later])

    async def over(self, alert: Alert) -> None:
        """Forget a message: it has arrived, or is given up. Raises Unavailable."""
        with suppress(OutcomeUnknown):  # then it is told once more, under the same id
            await self._state.apply(partition(alert.id), [Delete(KEY, (Equals(("tries",), alert.tries),))])

    def _pause(self, tries: int) -> int:
        whole = min(FIRST << min(tries - 1, 20), LONGEST)
        return whole // 2 + whole * self._clock.random(1)[0] // 256


def partition(alert: str) -> str:
    """Give where a message waits."""
    return PREFIX + alert
