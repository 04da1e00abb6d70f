"""Hold, settle, sweep, credit: the protocol of money, written once above the state port.

Owns every store operation that moves a task's accounts. Fails closed: what can't be written was not granted. Refuses
to know prices, tools, models, who waits for an answer, and what to do where one is lost (`insistent`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from buspass.errors import Problem
from buspass.ledger import refusals
from buspass.ledger.accounts import amounts, table, whole
from buspass.ledger.holds import (
    HEAD,
    SWEEPING,
    Claim,
    Entry,
    Held,
    Outcome,
    closing,
    credit_key,
    crediting,
    entries,
    entry_of,
    expired,
    needs,
    record_key,
    releasing,
    reminding,
    settling,
    sweeping,
    taken,
    taking,
)
from buspass.ledger.insistent import Insistent, unavailable
from buspass.ledger.records import closing_facts, entry_held, lost, outcome_of, turn_of, used
from buspass.ledger.shortages import Shortage, exhausted, shortage, still_held
from buspass.ledger.waiting import Inside, Lines
from buspass.model import Amounts
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Absent,
    Applied,
    Delete,
    Item,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    Value,
)

type Stamp = Callable[[str, str, Mapping[str, Value]], Item]
"""(task, key, record) → the record with its MAC. The journal's; the ledger only calls it."""
type Stamped = Callable[[str, str, Mapping[str, Value]], Put]
"""The same as a put of that record: the journal knows its text."""
type Wrote = Callable[[str, Put, Item], None]
"""(task, record as put, head before): told of each settled record that stands, so that a seal need not look for it."""

SKEW: Final = 5_000
"""Milliseconds that two hosts' clocks may differ."""
LOOKED: Final = 4096
"""Tasks of which is known when to look for overdue calls."""


class Stale(Struct, frozen=True):
    """The hold was refused for no lack of money: `head` as it is now says why, and the guard reads it."""

    head: Item


class Finished(Struct, frozen=True):
    """Another worker finished this keyed call meanwhile; the hold was given back. `record` is the outcome's."""

    record: Item


class Ledger:
    """The accounts of tasks in one store. Safe for any number of concurrent callers and processes."""

    def __init__(
        self,
        state: State,
        clock: Clock,
        stamp: Stamp,
        wrote: Wrote = lambda *_: None,
        stamped: Stamped | None = None,
    ) -> None:
        self._state, self._store = state, Insistent(state)
        self._clock = clock
        self._stamp, self._wrote = stamp, wrote
        self._stamped = stamped or (lambda task, key, record: Put(key, stamp(task, key, record)))
        self._lines = Lines()
        self._looked: dict[str, int] = {}
        """By task, the time (ms) before which none of its calls can be overdue."""

    # ── hold ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(self, claim: Claim, wait: float) -> Held | Stale | Finished:
        """Take the claim out of the task's accounts, waiting up to `wait` seconds for calls in flight.

        Raises Problem: budget_exhausted (the money is gone), budget_held and too_many_in_flight (still held
        when the wait was over), state_unavailable (nothing may be sent).
        """
        short: Shortage | None = None
        with self._lines.at_once(claim.task) or await self._inside(claim):
            lacks: frozenset[str] = frozenset()
            if self._lines.stand(claim.task) and not claim.observed:
                lacks = self._lines.ahead(claim.task, needs(claim))
            if not lacks:
                taken = await self._take(claim)
                result = taken if isinstance(taken, Held) and not claim.keyed else await self._weighed(claim, taken)
                if type(result) is not Shortage:
                    return result
                if not result.held:
                    raise exhausted(result)
                short, lacks = result, result.lacks
        return await self._wait(claim, wait, short, lacks)

    async def _inside(self, claim: Claim) -> Inside:
        """Wait for the claim's turn to be written, which is not of the time it has to be sent."""
        return await self._lines.enter(claim.task, (claim.deadline - self._clock.now()) / 1000)

    async def _wait(
        self, claim: Claim, wait: float, short: Shortage | None, lacks: frozenset[str]
    ) -> Held | Stale | Finished:
        until = asyncio.get_running_loop().time() + wait
        try:
            with self._lines.place(claim.task, needs(claim), lacks) as mine:
                while True:
                    await self._lines.turn(claim.task, mine, until)
                    with self._lines.at_once(claim.task) or await self._inside(claim):
                        result = await self._weighed(claim, await self._take(claim))
                    if type(result) is not Shortage:
                        return result
                    short = result
                    if not short.held:
                        raise exhausted(short)
                    await self._lines.lacking(claim.task, mine, short.lacks, until)
        except TimeoutError:
            raise still_held(short, wait) from None

    async def _weighed(self, claim: Claim, result: Held | Item) -> Held | Stale | Finished | Shortage:
        """Look at a hold once more, or find why there is none, after a sweep of what would be overdue."""
        if not isinstance(result, Held) and expired(result, self._clock.now(), 2 * SKEW):
            await self.sweep(claim.task, result)
            result = await self._take(claim)
        if isinstance(result, Held):
            return await self._recheck(result) if claim.keyed else result
        return Stale(result) if self._pointless(result, claim) else shortage(result, claim) or Stale(result)

    def _pointless(self, head: Item, claim: Claim) -> bool:
        """Say whether no money could help: the guard then says why, and nobody waits for it."""
        over = (
            head["status"] != "open" or head["fence"] != claim.fence or whole(head["expires_at"]) <= self._clock.now()
        )
        capped = claim.capped and not claim.observed and whole(table(head, "left").get(claim.name, 0)) < 1
        return over or capped or claim.call in table(head, "open")

    async def _take(self, claim: Claim, *, again: bool = True) -> Held | Item:
        """Hold, or give the head that refused. The turn is read off the answer alone.

        A head read later counts holds that came after this one: with their turn, an older result would pass for the
        newest. So a hold whose answer was lost is given back and taken once more.
        """
        attempt, now = self._clock.random(8).hex(), self._clock.now()
        try:
            result = await self._state.apply(claim.task, [taking(claim, attempt, now)])
        except OutcomeUnknown as error:
            head = await self._store.head(claim.task)
            mine = table(head, "open").get(claim.call)
            if not isinstance(mine, Mapping) or mine["attempt"] != attempt:
                raise unavailable(f"the hold's answer was lost: {error}") from error
            entry = entry_of(claim.call, mine)
            gone = await self._store.commit(claim.task, [releasing(entry)]) if entry.state != SWEEPING else None
            if not again or not isinstance(gone, Applied):  # a sweep ends it, and its record is this call's
                raise unavailable(f"the hold's answer was lost twice, it was given back: {error}") from error
            return await self._take(claim, again=False)
        except Unavailable as error:
            raise unavailable(str(error)) from error
        head = result.item or {}
        if isinstance(result, Applied):
            turns: Any = head["turns"]  # which the hold has just counted on
            return Held(claim=claim, attempt=attempt, at=now, turn=turns[claim.name], head=head)
        if not head:
            raise Problem("not_found", "there is no such task in this trust domain")
        return head

    async def _recheck(self, held: Held) -> Held | Finished:
        """Look at a keyed call's record once more: it may have been finished between recall and hold."""
        record = await self._store.read(held.claim.task, record_key(held.claim.call))
        if record is None:
            return held
        if record["attempt"] == held.attempt:
            raise Problem("deadline_exceeded", "this call was swept before it could be sent; nothing was sent")
        await self.give_back(held)
        return Finished(record)

    async def give_back(self, held: Held) -> None:
        """End a hold that stands for nothing: no record, no count."""
        await self._store.commit(held.claim.task, [releasing(entry_held(held))])
        self._lines.wake(held.claim.task)

    # ── settle ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, held: Held, outcome: Outcome, record: Mapping[str, Value]) -> Item:
        """Write the finished call's record, then its real use in place of the hold; give the head as it is.

        Raises Problem state_unavailable when the store took neither: the hold then stays charged, and the
        sweep ends it.
        """
        claim, mine, now = held.claim, taken(held.claim), self._clock.now()
        task, key = claim.task, record_key(claim.call)
        full = {**record, **closing_facts(held, outcome), "use": used(mine, outcome)}
        end = settling(held, mine, outcome, now)
        put = self._stamped(task, key, full)
        result: Applied | Refused | None
        try:
            result = await self._state.apply(task, [put, end])
        except (OutcomeUnknown, Unavailable):
            result = await self._store.again(task, [put, end])
        if isinstance(result, Applied):
            self._wrote(task, put, held.head)
        elif isinstance(result, Refused) and result.index == 0:
            result = await self._settle_again(task, entry_held(held), end, full, result.item)
        self._lines.wake(task)
        head = result.item if result is not None else None
        if not head or "open" not in head:
            head = await self._store.head(task)
        if self.overdue(task, head, now):  # the lazy sweep: whoever comes by ends what others left
            with suppress(Problem):  # this call is settled whatever becomes of the others
                await self.sweep(task, head)
                head = await self._store.head(task)
        return head

    async def _settle_again(
        self, task: str, entry: Entry, end: Operation, full: Mapping[str, Value], found: Item | None
    ) -> Applied | Refused | None:
        """The record is there: our own from a lost answer, or the sweep's."""
        if found is None or found["attempt"] != entry.attempt:
            return None
        if found["state"] == "settled":
            return await self._store.commit(task, [end])
        charged, use = amounts(found, "use"), amounts(full, "use")
        back = {name: charged.get(name, 0) - use.get(name, 0) for name in charged.keys() | use.keys()}
        return await self._credit(task, entry.call, back, full)

    async def _credit(self, task: str, call: str, back: Amounts, full: Mapping[str, Value]) -> Applied | Refused:
        key, now = credit_key(call), self._clock.now()
        correction = {**full, "state": "credit", "use": {name: -amount for name, amount in back.items()}}
        reminder = reminding(task, call, now)
        steps: list[Operation] = [
            reminder,
            Put(key, self._stamp(task, key, correction)),
            crediting(task, call, back, now),
        ]
        while isinstance(result := await self._store.commit(task, steps), Refused) and result.index + 1 < len(steps):
            del steps[: result.index + 1]  # so far it stands, from an answer that was lost
        with suppress(Problem):  # else a timer finds that nothing is left to post
            await self._store.commit(task, [Delete(reminder.key, ())])
        return result

    def overdue(self, task: str, head: Item, now: int) -> bool:
        """Say whether calls of the task are to be swept at `now` (ms); looked at when one can be, not at every call.

        What is in flight now is swept 2 SKEW after its deadline. What begins later, at whatever host, has a deadline of
        SKEW before now at the earliest.
        """
        if now < self._looked.get(task, 0):
            return False
        if expired(head, now, 2 * SKEW):
            return True
        if len(self._looked) >= LOOKED:
            self._looked.clear()
        flying: Mapping[str, Any] = table(head, "open")
        self._looked[task] = min([now - SKEW, *(entry["deadline"] for entry in flying.values())]) + 2 * SKEW
        return False

    # ── sweep ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def sweep(self, task: str, head: Item | None = None) -> int:
        """End every hold that nobody will settle, and finish what a crash left between two operations.

        A hold that was dispatching is charged in full, one never sent costs nothing. Gives how many ended.
        """
        head = head or await self._store.head(task)
        shown = table(head, "open")
        ended = sum([await self._sweep_one(task, entry, table(shown, entry.call)) for entry in entries(head)])
        if ended:
            self._lines.wake(task)
        return ended

    async def _sweep_one(self, task: str, entry: Entry, item: Mapping[str, Value]) -> bool:
        now = self._clock.now()
        overdue = now > entry.deadline + 2 * SKEW
        key = record_key(entry.call)
        record = await self._store.read(task, key)
        if record is not None and record["attempt"] == entry.attempt:
            # a crash between record and head, or a settle at work in this moment: closing is safe either way
            await self._store.commit(task, [closing(entry, outcome_of(record), now, turn_of(record))])
            return True
        if record is not None:
            if overdue:  # a second hold on a finished key, never dispatched
                await self._store.commit(task, [releasing(entry)])
            return overdue
        if not overdue:
            return False
        sent = entry.state in {"dispatching", SWEEPING}
        if entry.state == "dispatching" and isinstance(
            await self._store.commit(task, [sweeping(entry, item)]), Refused
        ):
            return False  # it ended, or another sweeps
        outcome, swept = lost(entry, now, sent=sent)
        operations: list[Operation] = [Put(key, self._stamp(task, key, swept)), closing(entry, outcome, now)]
        return isinstance(await self._store.commit(task, operations), Applied)

    async def finish_credits(self, task: str, head: Item, sealed: frozenset[str]) -> None:
        """Post what a crash left between a credit's record and the head; `sealed` ones were posted long ago."""
        after = ""
        while page := await self._store.list(task, credit_key(""), after):
            for key, record in page:
                call = key.removeprefix("credit:")
                if key not in sealed and call not in table(head, "late"):
                    back = {name: -amount for name, amount in amounts(record, "use").items()}
                    await self._store.commit(task, [crediting(task, call, back, self._clock.now())])
            after = page[-1][0]

    # ── mark ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def mark(self, task: str, table_: str, name: str, record: Mapping[str, Value]) -> None:
        """Write a record that moves no money, once: `name` in that map of the head says that it was.

        Raises Problem state_unavailable.
        """
        key, path = f"rec:{table_}.{name}", (table_, name)
        counted = Update(HEAD, (Absent(path),), {("entries",): 1}, {path: self._clock.now()})
        result = await self._store.commit(task, [Put(key, self._stamp(task, key, record)), counted])
        if isinstance(result, Refused) and result.index == 0:  # from a crash between the two, or another host's
            await self._store.commit(task, [counted])

    # ── refuse ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def refuse(
        self, task: str, code: str, status: int, record: Mapping[str, Value], mark: refusals.Mark | None = None
    ) -> bool:
        """Count a refusal; write its record for the first twenty of a code, then for one in a hundred.

        True: the run of them has reached the limit that suspends. A lost store loses the count. `mark`: a loop's.
        """
        return await refusals.refuse(self._state, self._stamp, self._clock, task, code, status, record, mark)
