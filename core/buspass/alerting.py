"""Webhooks: what a timer sends to operators' own systems, and how it notices that a breaker has changed.

Owns delivery: one try at a time, signed, no redirect followed, never on a call's way. Breakers are looked at, not
listened to: a message says how one is now, once for each time it has opened and once when it has closed; what opens and
closes between two ticks is not told. Refuses to know what else is told: that is put where it happens (`alerts`).
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, Final

from buspass.alerts import Alert, signed
from buspass.alerts.alerts import TRIES
from buspass.breakers import Breaker, Key
from buspass.breakers.stored import KEY as STATE
from buspass.breakers.stored import breaker_in
from buspass.calls.house import House
from buspass.config.settings import Webhook
from buspass.errors import Problem
from buspass.journal.timeline import moment
from buspass.ports.outbound import Ambiguous, NotSent, Request
from buspass.ports.state import Delete, Equals, Item, OutcomeUnknown, Put, Unavailable

log = logging.getLogger("buspass")

SECONDS: Final = 5.0
"""How long a webhook has to answer."""
ANSWER: Final = 64_000
"""Bytes of its answer that are taken; nothing is read in them."""
GONE: Final = 410
"""The status by which a webhook says that it wants nothing any more."""
TOLD: Final = "told"
"""The partition of breakers whose opening was told and whose closing was not."""
LATER: Final = 60_000
"""Milliseconds that a message waits which could not even be tried: its webhook failed a moment ago."""


async def deliver(house: House, where: str, failed: set[str]) -> None:
    """Try a message that is due. `failed`: webhooks that this tick has seen fail, which the others wait for.

    Raises Problem state_unavailable.
    """
    try:
        item = await house.state.read(where, "alert")
        if item is not None and str(item["webhook"]) in failed:
            await house.alerts.postpone(where, LATER)
            return
        if (alert := await house.alerts.take(where)) is None:
            return
        webhook = house.settings.webhooks.get(alert.webhook)
        if webhook is None or await _sent(house, webhook, alert):
            await house.alerts.over(alert)
            return
        failed.add(alert.webhook)
        if alert.tries >= TRIES:
            log.error("webhook %s: message %s is given up after %s tries", alert.webhook, alert.message, alert.tries)
            await house.alerts.over(alert)
    except Unavailable as error:
        raise Problem(
            "state_unavailable", f"what waits to be told can't be reached ({error})", retry_after=1
        ) from error


async def _sent(house: House, webhook: Webhook, alert: Alert) -> bool:
    """Send once; say whether it need not be sent again."""
    body = alert.body.encode()
    try:
        headers = signed(await house.secret(webhook.secret), alert.message, house.clock.now() // 1000, body)
    except (Problem, ValueError) as error:  # unsigned nothing leaves
        log.error("webhook %s: its secret %s: %s", webhook.name, webhook.secret, error)  # noqa: TRY400 - no stack helps
        return False
    request = Request(
        method="POST", url=webhook.url, headers=headers, body=body, timeout=SECONDS, limit=ANSWER, idle=SECONDS
    )
    try:
        status = (await house.outbound.send(request)).status
    except (NotSent, Ambiguous) as error:
        log.warning("webhook %s: try %s failed: %s", webhook.name, alert.tries, type(error).__name__)
        return False
    if status == GONE:
        log.error("webhook %s wants nothing any more (410): message %s is dropped", webhook.name, alert.message)
    elif not 200 <= status < 300:
        log.warning("webhook %s: try %s was answered with %s", webhook.name, alert.tries, status)
    return status == GONE or 200 <= status < 300


# ── breakers ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def watch(house: House) -> None:
    """Tell of breakers that have opened, or closed after that. Raises Problem state_unavailable."""
    if not house.alerts.wanted("breaker"):
        return
    try:
        told = dict(await house.state.list(TOLD, "", "", 1000))
        for key in house.watched:
            item = await house.state.read(key.partition, STATE)
            await _tell(house, key, Breaker() if item is None else breaker_in(item), told)
    except Unavailable as error:
        raise Problem("state_unavailable", f"the breakers can't be read ({error})", retry_after=1) from error


async def _tell(house: House, key: Key, breaker: Breaker, told: dict[str, Item]) -> None:
    name = hashlib.sha256(key.partition.encode()).hexdigest()[:32]
    before = told.get(name)
    if breaker.state == "open" and before is None:
        since = breaker.since
        await house.alerts.tell("breaker", f"{key.partition} open {since}", shown(key, breaker))
        operation: Put | Delete = Put(name, {"partition": key.partition, "since": since})
    elif breaker.state == "closed" and before is not None:
        since = int(str(before["since"]))
        await house.alerts.tell("breaker", f"{key.partition} closed {since}", shown(key, breaker))
        operation = Delete(name, (Equals(("since",), since),))
    else:
        return
    try:
        await house.state.apply(TOLD, [operation])
    except OutcomeUnknown:
        return  # the next tick sees; the message has its id already


def shown(key: Key, breaker: Breaker) -> dict[str, Any]:
    """Give a breaker as `GET /v1/breakers` does."""
    row: dict[str, Any] = {"breaker": key.kind, "name": key.name}
    if key.task:
        row["task"] = key.task
    row["state"] = breaker.state
    if breaker.since:
        row["since"] = moment(breaker.since)
    if breaker.state in {"open", "half_open"}:
        row["retry_at"] = moment(breaker.until)
    row |= {"failures": breaker.strikes, "opened": breaker.level}
    if breaker.kind:
        row["upstream"] = ({"status": breaker.status} if breaker.status else {}) | {"kind": breaker.kind}
    return row
