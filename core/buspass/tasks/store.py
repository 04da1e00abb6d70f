"""Tasks in the store: begin, look, list, change status, keep a checkpoint.

Owns the items `task`, `key` and the day lists. A host keeps the last head it saw of a task: stations 4-7 work on that
copy, the hold's conditions decide, and nothing is refused on a copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.model import DUE_INDEX, LOOK, THOUGHTS, due_shard
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Absent,
    Applied,
    Equals,
    Item,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    Value,
    answered,
)
from buspass.tasks.changes import BORN, HEAD, noting, remaining, transition
from buspass.tasks.facts import Task, from_item, to_item
from buspass.tasks.lifecycle import DONE, Verb

log = logging.getLogger(__name__)

FACTS: Final = "task"
COPIES: Final = 4096
"""Tasks whose last head a host keeps."""
TRIES: Final = 8
NOTE_TRIES: Final = 24
KEY_AGE: Final = 60_000
"""Milliseconds that a copy of a task's key is used before the store is asked whether it was erased."""
SPREAD: Final = 32
"""Places that thoughts are counted at: parallel ones seldom meet at the same."""
OPENING: Final = 3
"""Items that a task begins with after its facts: key, first record, head."""
LATEST: Final = 2**48 - 1
LISTED_DAYS: Final = 100
"""Days that one look at the lists goes through."""
FIRST: Final = "0"
"""Sorts before every entry of a day."""


class View(Struct, frozen=True, kw_only=True):
    """A task and its head as last seen. `fresh`: read for this very call, so a refusal may rest on it.

    `key_at`: when its key was seen in the store (ms), for an erasure elsewhere must be noticed here.
    """

    task: Task
    head: Item
    fresh: bool
    key_at: int = 0


class Tasks:
    """The tasks of one trust domain, in one store. `stamp`, `genuine`: the journal's.

    `index`: entries that every head is put with, by the index's name: (task, day it began on) → (shard, sort).
    """

    def __init__(
        self,
        state: State,
        clock: Clock,
        stamp: Callable[[str, str, Mapping[str, Value]], Item],
        genuine: Callable[[str, str, Item], bool],
        index: Mapping[str, Callable[[str, str], tuple[str, str]]] | None = None,
    ) -> None:
        self._state = state
        self._clock = clock
        self._stamp, self._genuine = stamp, genuine
        self._index = index or {}
        self._seen: OrderedDict[str, View] = OrderedDict()

    # ── begin ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self, task: Task, head: Mapping[str, Value], opening: Mapping[str, Value]) -> Task:
        """Put the task: facts, key, first record, and last its head, which is the commit point.

        Gives the task as it is: with the same id from before (a repeated Idempotency-Key) the one that
        stands. Raises Problem idempotency_mismatch where that one was asked for otherwise, state_unavailable.
        The first record keeps the limits, so that an audit finds a head whose limits were altered, and whose money
        they are.
        """
        met = await self._apply(task.id, [Put(FACTS, self._stamp(task.id, FACTS, to_item(task)))])
        first = isinstance(met, Applied)
        if not first and met.item is not None:
            if met.item.get("fingerprint") != task.fingerprint:
                raise _mismatch()
            if await self._read(task.id, HEAD) is not None:
                return (await self.look(task.id)).task
            task = replace(task, created_at=int(str(met.item["created_at"])))
        # the day's entry stands where the facts say, so that a task has one, however often its beginning is repeated
        began = f"{moment(task.created_at):%Y-%m-%d}"
        await self._apply(f"tasks:{began}", [Put(f"{LATEST - task.created_at:012x}.{task.id}", {"task": task.id})])
        due = (due_shard(task.id), f"{min(task.deadline, self._clock.now() + LOOK):016d}")
        index = {DUE_INDEX: due, **{name: of(task.id, began) for name, of in self._index.items()}}
        operations: list[Operation] = [
            Put("key", {"wrapped": task.wrapped_key or ""}),
            Put("rec:e0", self._stamp(task.id, "rec:e0", {**opening, **{name: head[name] for name in BORN & {*head}}})),
            Put(HEAD, {**head, "entries": 1}, index=index),
        ]
        while True:
            result = await self._apply(task.id, operations)
            if isinstance(result, Applied) and first and len(operations) == OPENING:
                self._keep(View(task=task, head=result.item or head, fresh=False, key_at=self._clock.now()))
                return task
            if isinstance(result, Applied) or operations[result.index].key == HEAD:
                return (await self.look(task.id)).task
            operations = remaining(operations, result)

    # ── look ────────────────────────────────────────────────────────────────────────────────────────────────────

    def seen(self, task: str) -> View | None:
        """Give the copy this host has, if it has one."""
        return self._seen.get(task)

    def known(self, task: str, now: int) -> View | None:
        """Give the copy at `now` (ms) while its key need not be looked up; else None: `view` it."""
        found = self._seen.get(task)
        return found if found is not None and now - found.key_at <= KEY_AGE else None

    async def view(self, task: str) -> View:
        """Give the copy, or read: the first call of a task at a host reads once, and its key once a minute."""
        found = self._seen.get(task)
        if found is None:
            return await self.look(task)
        if self.known(task, self._clock.now()) is not None:
            return found
        key, now = await self._read(task, "key"), self._clock.now()
        opened = replace(found.task, wrapped_key=str(key["wrapped"]) if key else None)
        self._keep(replace(found, task=opened, key_at=now))
        return self._seen[task]

    async def look(self, task: str) -> View:
        """Read a task as it is now. Raises Problem not_found, state_unavailable."""
        known, now = self._seen.get(task), self._clock.now()
        if known is not None and known.task.wrapped_key and now - known.key_at <= KEY_AGE:
            head = await self._read(task, HEAD)
            facts: Task | None = known.task
            now = known.key_at
        else:
            head, item, key = await asyncio.gather(*(self._read(task, name) for name in (HEAD, FACTS, "key")))
            facts = self._facts(task, item, key) if item else None
        if head is None or facts is None:
            raise Problem("not_found", "there is no such task in this trust domain")
        view = View(task=facts, head=head, fresh=True, key_at=now)
        self._keep(replace(view, fresh=False))
        return view

    def _facts(self, task: str, item: Item, key: Item | None) -> Task:
        """Read the facts. Who can write to the database changes nobody's grant or subject: altered ones are none."""
        if not self._genuine(task, FACTS, item):
            log.error("the facts of task %s were not written by a host of this domain: all it asks is refused", task)
            raise Problem("internal", "the task's facts in the store were altered; its operator must look into it")
        return from_item(item, key)

    def saw(self, task: str, head: Item) -> None:
        """Keep a newer head that an operation answered with."""
        if (known := self._seen.get(task)) is None or "open" not in head:
            return
        before: Any = known.head["version"]
        if before <= head["version"]:
            self._seen[task] = View(task=known.task, head=head, fresh=known.fresh, key_at=known.key_at)
            self._seen.move_to_end(task)

    def _keep(self, view: View) -> None:
        known = self._seen.get(view.task.id)
        if known is not None and int(str(known.head["version"])) > int(str(view.head["version"])):
            view = replace(view, head=known.head)
        if known is not None and known.key_at > view.key_at:
            view = replace(view, task=known.task, key_at=known.key_at)
        self._seen[view.task.id] = view
        self._seen.move_to_end(view.task.id)
        if len(self._seen) > COPIES:
            self._seen.popitem(last=False)

    async def listing(self, after: str, limit: int, days: int) -> tuple[list[tuple[str, str]], str | None]:
        """Give up to `limit` tasks, newest first, as (id, cursor behind it), and the cursor behind all of them.

        It looks `days` back from tomorrow, at most LISTED_DAYS of them at once. Entries are hints.
        """
        found: list[tuple[str, str]] = []
        start, _, key = after.partition("/")
        newest = moment(self._clock.now()).date() + timedelta(days=1)
        first = min(date.fromisoformat(start), newest) if start else newest
        last = newest - timedelta(days=days - 1)
        for back in range(LISTED_DAYS):
            if (day := first - timedelta(days=back)) < last:
                return found, None
            rows = await self._list(f"tasks:{day}", key if str(day) == start else "", limit - len(found))
            found += [(str(item["task"]), f"{day}/{name}") for name, item in rows]
            if len(found) >= limit:
                return found, found[-1][1]
        on = first - timedelta(days=LISTED_DAYS)
        return found, f"{on}/{FIRST}" if on >= last else None

    # ── change ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def change(self, task: str, verb: Verb, record: Mapping[str, Value], fence: int | None = None) -> Item:
        """Take a task from one status to the next, with its record, and give the new head.

        A repetition answers as the first time. `fence`: only for the holder of that fence. Raises Problem
        task_killed, task_expired, task_not_open, fenced, conflict, state_unavailable.
        """
        head: Item | None = (await self.look(task)).head
        key = f"rec:e{LATEST - self._clock.now():012x}{self._clock.random(4).hex()}"
        for _ in range(TRIES):
            if head is None:
                raise Problem("not_found", "there is no such task in this trust domain")
            if DONE.get(verb) == head["status"] or head["written"] == key:  # the latter: only the answer was lost
                self.saw(task, head)
                return head
            update = transition(head, verb, fence, key)
            result = await self._apply(task, [Put(key, self._stamp(task, key, record)), update])
            if isinstance(result, Applied):
                self.saw(task, result.item or head)
                return result.item or head
            if result.index == 0:  # the record stands from a try whose second half was refused or lost: it may
                # be counted already, and one more counted than written would look like a loss
                add = {path: amount for path, amount in update.add.items() if path != ("entries",)}
                update = Update(HEAD, update.require, add, update.set)
                result = await self._apply(task, [update])
                if isinstance(result, Applied):
                    self.saw(task, result.item or head)
                    return result.item or head
            head = result.item
        raise Problem("conflict", "the task changes too fast right now; retry", retry_after=0.5)

    async def note(self, task: str, call: str, record: Mapping[str, Value], fence: int) -> Item:
        """Add a record that moves no money (a thought): it is counted like any other. Gives the head.

        Raises Problem call_limit after THOUGHTS of them, fenced, conflict, state_unavailable.
        """
        head: Item | None = (await self.look(task)).head
        key = f"rec:{call}"
        operations: list[Operation] = [Put(key, self._stamp(task, key, record))]
        for _ in range(NOTE_TRIES):
            if head is None:
                raise Problem("not_found", "there is no such task in this trust domain")
            if head["fence"] != fence:
                raise Problem("fenced", "another worker has resumed this task")
            if int(str(head["thoughts"])) < 1:
                raise Problem("call_limit", f"a task takes at most {THOUGHTS} thoughts", limit=THOUGHTS)
            place = str(self._clock.random(1)[0] % SPREAD)
            result, lost = await self._send(task, [*operations, noting(head, place, call, fence)])
            if isinstance(result, Applied):
                self.saw(task, result.item or head)
                return result.item or head
            if lost:  # it may be counted already, and one more counted than written would look like a loss
                return head
            if result.index == 0 and operations:  # it stands from a try whose count was refused
                operations = []
                continue
            head = result.item
        raise Problem("conflict", "the task changes too fast right now; retry", retry_after=0.5)

    # ── checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────

    async def point(self, task: str, fence: int, etag: str, expected: Container[str] | None) -> str | None:
        """Make the head point at a new checkpoint; give the one it pointed at.

        `expected`: one of these it must point at now ("" for nothing), or at anything where it is None. Raises Problem
        precondition_failed, fenced, conflict.
        """
        head: Item | None = (await self.look(task)).head
        before: str | None = None
        for _ in range(TRIES):
            if head is None:
                raise Problem("not_found", "there is no such task in this trust domain")
            now = head.get("checkpoint")
            if now == etag:  # only the answer was lost
                return before
            if head["fence"] != fence:
                raise Problem("fenced", "another worker has resumed this task")
            if expected is not None and (now or "") not in expected:
                raise Problem("precondition_failed", "the checkpoint is another one by now; read it again")
            is_now = Equals(("checkpoint",), str(now)) if now else Absent(("checkpoint",))
            update = Update(HEAD, (is_now, Equals(("fence",), fence)), {("version",): 1}, {("checkpoint",): etag})
            result = await self._apply(task, [update])
            before = str(now) if now else None
            if isinstance(result, Applied):
                return before
            head = result.item
        raise Problem("conflict", "the checkpoint changes too fast right now; retry", retry_after=0.5)

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, partition: str, key: str) -> Item | None:
        return await item_at(self._state, partition, key)

    async def _list(self, partition: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        try:
            return await self._state.list(partition, "", after, limit)
        except Unavailable as error:
            raise unavailable(error) from error

    async def _apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        return (await self._send(partition, operations))[0]

    async def _send(self, partition: str, operations: Sequence[Operation]) -> tuple[Applied | Refused, bool]:
        """Apply; after a lost answer once more, and say so: a refusal may then be the first try's own doing.

        Every operation falsifies its own condition, so that is harmless.
        """
        try:
            return await answered(self._state, partition, operations)
        except (Unavailable, OutcomeUnknown) as error:
            raise unavailable(error) from error


def _mismatch() -> Problem:
    return Problem("idempotency_mismatch", "this Idempotency-Key started another task; use a new one")


async def item_at(state: State, partition: str, key: str) -> Item | None:
    """Give an item as it is now. Raises Problem state_unavailable."""
    try:
        return await state.read(partition, key)
    except Unavailable as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> Problem:
    """Give the problem for a store that can't be reached."""
    return Problem("state_unavailable", f"the task's state could not be reached ({error}); retry", retry_after=1)


def moment(ms: int) -> datetime:
    """Give a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
