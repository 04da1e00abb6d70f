"""What nobody comes by for: holds, tasks, children and pools whose time it is, looked after by every host's timer.

Owns when somebody must look again, and how much one tick does. Every host may run it, at the same time and as often as
it likes: all that is done is done once, because it falsifies its own condition. Refuses to know what starts a tick.
The index `due` is a hint: entries are written with what they are about, and withdrawn here when nothing is left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from buspass.alerting import deliver, watch
from buspass.alerts.alerts import PREFIX
from buspass.allocation import SWEPT, tend
from buspass.breakers.stored import forget
from buspass.calls.house import House
from buspass.closing import LEASE, ask_peers, settle_overdue
from buspass.errors import Problem
from buspass.journal.seals import KEEP_LATE, read_all
from buspass.leases import renew_below
from buspass.ledger import delegations
from buspass.ledger.delegations import RENEWED
from buspass.ledger.holds import HEAD, REMINDER, credit_key, entries
from buspass.ledger.ledger import SKEW
from buspass.model import DUE_INDEX, DUE_SHARDS, LOOK, due_shard
from buspass.peering import told
from buspass.ports.state import Delete, Equals, Item, OutcomeUnknown, Unavailable, Update
from buspass.stopping import finish
from buspass.tasks import View
from buspass.tasks.lifecycle import LIVING

_log = logging.getLogger(__name__)

EVERY: Final = 15.0
"""Seconds between two ticks of a host that runs all the time; a cloud's schedule ticks each minute."""
LIMIT: Final = 200
"""Tasks and accounts that one tick looks at at most."""
SECONDS: Final = 20.0
"""After which a tick begins nothing more."""
LATER: Final = 60_000
"""Milliseconds until the next look at what could not be looked after, and at what only waits for others."""
_POOL: Final = "pool:"


async def tick(house: House, *, limit: int = LIMIT, seconds: float = SECONDS) -> int:
    """Look after what is due, `limit` of it at most; say how much that was. Raises Problem state_unavailable."""
    until, done = house.clock.monotonic() + seconds, 0
    failed: set[str] = set()
    for work in (finish, watch, _forget):
        with suppress(Problem):  # as of what is due: the next tick takes it up
            await work(house)
    first = house.clock.random(1)[0]  # so that hosts don't all begin at the same place
    for step in range(DUE_SHARDS):
        shard = f"due:{(first + step) % DUE_SHARDS}"
        share = max(1, (limit - done) // (DUE_SHARDS - step))
        for partition, key in await _due(house, shard, share):
            if done >= limit or house.clock.monotonic() > until:
                return done
            done += 1
            with suppress(Problem):  # what could not be done now stays due
                await (_post(house, partition, key) if key.startswith(REMINDER) else _look(house, partition, failed))
    return done


async def keep(house: House, every: float = EVERY) -> None:
    """Tick for as long as this is not cancelled, on a host that runs all the time. A tick that fails is logged."""
    while True:
        await house.clock.sleep(every * (0.5 + house.clock.random(1)[0] / 256))  # so that hosts don't keep step
        try:
            await tick(house)
        except Problem as problem:
            _log.warning("the timer: %s", problem)
        except Exception:  # noqa: BLE001 - a fault of one tick must not end the timer
            _log.exception("the timer failed")


async def _forget(house: House) -> None:
    with suppress(Unavailable, OutcomeUnknown):  # the next tick finds them again
        await forget(house.state, house.clock.now(), LIMIT)


async def _due(house: House, shard: str, limit: int) -> Sequence[tuple[str, str]]:
    try:
        return await house.state.find(DUE_INDEX, shard, f"{house.clock.now():016d}", limit)
    except Unavailable as error:
        raise Problem("state_unavailable", f"what is due could not be found ({error})", retry_after=1) from error


async def _post(house: House, task: str, reminder: str) -> None:
    """Post a correction whose writer died between its record and the head; then nobody need be reminded of it."""
    with suppress(Unavailable, OutcomeUnknown):  # the next tick takes it up
        journal = await read_all(house.state, task)
        await house.ledger.finish_credits(task, (await house.tasks.look(task)).head, journal.covered)
        item = await house.state.read(task, reminder)
        written = credit_key(reminder.removeprefix(REMINDER)) in journal.records
        if item is not None and (written or house.clock.now() - int(str(item["at"])) > KEEP_LATE):
            await house.state.apply(task, [Delete(reminder, ())])


async def _look(house: House, partition: str, failed: set[str]) -> None:
    if partition.startswith(PREFIX):
        await deliver(house, partition, failed)
        return
    if partition.startswith(_POOL):
        await tend(house, partition.removeprefix(_POOL), SWEPT)
        return
    now, version = house.clock.now(), None
    try:
        view = await settle_overdue(house, await house.tasks.look(partition))
        until = min(now + LEASE, int(str(view.head["expires_at"]))) if "lease" in view.head else now + LEASE
        if await ask_peers(house, partition, view.head, until):
            view = await house.tasks.look(partition)
        await renew_below(house, view, until)
        when = next_look(view, now)
        if when is None and not await told(house, partition, view.head):
            when = now + max(LATER, (now - view.task.deadline) // 4)  # ever more seldom, however long it takes
        version = int(str(view.head["version"]))
    except Problem:
        when = now + LATER
    await _set(house, partition, when, version)


def next_look(view: View, now: int) -> int | None:
    """Say when (ms) somebody must look at this task again; None where nothing is left to do."""
    head, children = view.head, delegations(view.head)
    living = head["status"] in LIVING
    if not living and not head["open"] and not children:
        return None
    ends = [call.deadline for call in entries(head)] + [child.deadline for child in children]
    ends += [view.task.deadline] if living else []
    times = [now + LOOK, *(end + 2 * SKEW + 1000 for end in ends)]
    if any(child.apart for child in children):
        times.append(now + RENEWED)
    if head["status"] == "killed" and children:
        times.append(now + LATER)
    return max(min(times), now + 5000)


async def _set(house: House, task: str, when: int | None, version: int | None) -> None:
    """Set the task's due time, or none; not where its head is no longer the `version` looked at: the next tick sees.

    None: whichever it is. A correction that came meanwhile wants a look of its own.
    """
    with suppress(OutcomeUnknown, Unavailable):
        head: Item | None = await house.state.read(task, HEAD)
        if head is None:
            return
        due = None if when is None else (due_shard(task), f"{when:016d}")
        seen = int(str(head["version"])) if version is None else version
        update = Update(HEAD, (Equals(("version",), seen),), {("version",): 1}, index={DUE_INDEX: due})
        await house.state.apply(task, [update])
