"""Looking at tasks: one, many, their journal, their actions, their checkpoint; and adding a thought.

Owns the shapes that api.md gives them. Refuses to change status and money.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Container, Mapping
from contextlib import suppress
from itertools import batched
from typing import Any, Final

from msgspec.structs import asdict

from buspass.callers import Caller, TaskCaller, WorkloadCaller, fence_of, visible
from buspass.calls.house import House
from buspass.calls.screening import redacted
from buspass.closing import draining
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.journal import SEAL_EVERY, Erased, timeline
from buspass.journal.audit import verify
from buspass.journal.seals import Read, read_all, read_steady
from buspass.journal.timeline import LAST, Place, moment, order, place
from buspass.ledger import balance, delegations
from buspass.ledger.holds import entries
from buspass.lifecycle import Lifecycle
from buspass.model import ACCOUNTS, MICRO
from buspass.ports.state import Item, Value
from buspass.tasks import Task, View, keyless
from buspass.tasks.store import FACTS, item_at

CHECKPOINT_BYTES: Final = 256 * 1024
THOUGHT_CHARACTERS: Final = 20_000
AT_ONCE: Final = 32
"""Payloads that are read at a time."""
LOOKED: Final = 500
"""Tasks that one page of a list looks at."""


class Reading:
    """What one host shows of tasks."""

    def __init__(self, house: House, lifecycle: Lifecycle) -> None:
        self._house = house
        self._lifecycle = lifecycle

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def task(self, who: Caller, task: str) -> dict[str, Any]:
        """Give one task, after the lazy sweep."""
        return document(await self._lifecycle.settle_overdue(await visible(self._house, who, task)))

    async def tasks(
        self, who: Caller, *, status: str | None, workflow: str | None, limit: int, cursor: str
    ) -> dict[str, Any]:
        """Give a page, newest first: of all (operator), of those it started (workload), of its own (task token).

        It looks at LOOKED tasks at most, so a page may hold fewer than `limit` and still have a next one.
        """
        if isinstance(who, TaskCaller):
            return {"data": [await self.task(who, who.claims.task)], "next_cursor": None}
        data: list[dict[str, Any]] = []
        hints, after = await self._house.tasks.listing(cursor, LOOKED, self._days())
        for task, behind in hints:
            row = await self._row(who, task)
            if row and _wanted(row, status, workflow):
                data.append(row)
                if len(data) == limit:
                    after = None if after is None and behind == hints[-1][1] else behind
                    break
        return {"data": data, "next_cursor": after}

    async def _row(self, who: Caller, task: str) -> dict[str, Any] | None:
        try:
            view = await self._house.tasks.look(task)
        except Problem as problem:
            if problem.code not in {"not_found", "internal"}:
                raise
            return None  # a hint whose task was never born, or one that was altered, of which the log tells
        if isinstance(who, WorkloadCaller) and who.principal.name != view.task.principal.name:
            return None
        return document(view)

    def _days(self) -> int:
        """Days that a listing goes back: the longest that any workflow keeps its journal."""
        retained = [workflow.retain for workflow in self._house.settings.workflows.values()]
        return round(max(retained, default=0) / 86_400) + 2

    async def killed(self, task: str, head: Item) -> dict[str, Any]:
        """Give what a kill answers: the task, what is still in flight, and when that is over at the latest."""
        view = await self._house.tasks.look(task)
        count, latest = await draining(self._house, head)
        return {
            **document(view),
            "in_flight": count,
            "drained_by": moment(latest or self._house.clock.now()),
        }

    # ── journal ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def trace(self, who: Caller, task: str, *, limit: int, after: tuple[int, str] | None) -> dict[str, Any]:
        """Give a page of the journal in order, each action with the thought that caused it.

        `after`: when the last row of the page before began (ms), and its key. What was left after each row is summed
        over the whole journal for every page, so it goes on from one page to the next.
        """
        house = self._house
        view = await self._lifecycle.settle_overdue(await visible(house, who, task))
        records = (await self._journal(view)).records
        places = order(records)
        first = bisect_right(places, _place(records, *after)) if after else 0
        page = [key for *_, key in places[first : first + limit]]
        payloads = await self._payloads(view.task, {key: str(records[key].get("payload") or "") for key in page})
        rows = timeline(records, payloads, balance(view.head).limits)[first : first + limit]
        more = len(places) > first + limit
        cursor = "{0}.{3}".format(*places[first + limit - 1]) if more else None
        return {"task": document(view), "records": rows, "next_cursor": cursor}

    async def _journal(self, view: View) -> Read:
        """Read the journal, and post what a crash left between a credit's record and the head."""
        journal = await read_all(self._house.state, view.task.id)
        await self._house.ledger.finish_credits(view.task.id, view.head, journal.covered)
        return journal

    async def _payloads(self, task: Task, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        logged = [(key, name) for key, name in names.items() if name]
        found: dict[str, dict[str, Any]] = {}
        for part in batched(logged, AT_ONCE):
            payloads = await asyncio.gather(*(self._payload(task, name) for _, name in part))
            found.update(zip((key for key, _ in part), payloads, strict=True))
        return found

    async def _payload(self, task: Task, name: str) -> dict[str, Any]:
        try:
            found = await self._house.vault.get(self._house.task_key(task), name)
        except Erased:
            return {"erased": True}
        payload = json.loads(found) if found else {}
        return {part: payload[part] for part in ("thought", "arguments", "result", "tool_calls") if part in payload}

    async def verdict(self, who: Caller, task: str) -> dict[str, Any]:
        """Prove that a journal is whole. Raises Problem conflict where the task never rests for long enough."""
        house = self._house
        await self._journal(await self._lifecycle.settle_overdue(await visible(house, who, task)))
        steady = await read_steady(house.state, task)
        if steady is None:
            raise Problem("conflict", "the task is too busy to be audited now; retry, or suspend it", retry_after=1)
        head, journal = steady
        spent = balance(head).spent
        found = await verify(house.journal, task, head, spent, journal, house.keyring.check)
        problems = [*found.problems]
        facts = await item_at(house.state, task, FACTS)
        if facts is None or not house.journal.genuine(task, FACTS, facts):
            problems.append("task: its facts were altered or not written by a host of this domain")
        return {"ok": not problems, **asdict(found), "problems": problems}

    async def think(self, who: Caller, task: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Add reasoning that the gateway could not see by itself. It licenses nothing."""
        house = self._house
        fence = fence_of(who)
        if fence is None:
            raise Problem("denied", "only the task's own agent adds thoughts", reasons=["caller"])
        text, parent = body.get("text"), body.get("parent", "")
        if set(body) - {"text", "parent"} or not isinstance(text, str) or not isinstance(parent, str) or not text:
            raise Problem("invalid_request", "the body is {text, parent?}, strings; text is not empty")
        if len(text) > THOUGHT_CHARACTERS or len(parent) > 128:
            raise Problem("invalid_request", f"text has at most {THOUGHT_CHARACTERS} characters, parent 128")
        view = await visible(house, who, task)
        check_standing(view.head, fence, house.clock.now())
        call = keyless(house.clock, "t")
        record: dict[str, Value] = {
            "kind": "thought",
            "state": "noted",
            "name": "thought",
            "host": house.host.name,
            "at": house.clock.now(),
            "cause": parent,
            "attempt": "",
            "use": {},
        }
        if view.task.payloads != "none":
            record |= await self._log_thought(view.task, call, text)
        head = await house.tasks.note(task, call, record, fence)
        if int(str(head["entries"])) - int(str(head["sealed"])) >= SEAL_EVERY:
            with suppress(Problem):  # the thought stands; what is not sealed now is sealed at the next occasion
                await house.sealer.seal(task)
        return {"id": call}

    async def _log_thought(self, task: Task, call: str, text: str) -> dict[str, Value]:
        try:
            key = self._house.task_key(task)
        except Erased:
            return {}
        name = f"{task.id}/payload/{call}"
        thought = {"thought": text}
        kept = redacted(thought) if task.payloads == "redacted" else thought
        data = json.dumps(kept, ensure_ascii=False).encode()
        part: dict[str, Value] = {"digests": {"payload": self._house.vault.commit(key, name, data)}}
        if task.payloads in {"redacted", "full"}:
            await self._house.vault.put(key, name, data)
            part["payload"] = name
        return part

    # ── actions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def actions(self, who: Caller, status: str | None) -> dict[str, Any]:
        """Give the actions of the caller's own task, in flight and finished."""
        if not isinstance(who, TaskCaller):
            detail = "actions are read with their task's token; others read GET /v1/tasks/{id}/trace, which has them"
            raise Problem("denied", detail, reasons=["caller"])
        task = who.claims.task
        view = await visible(self._house, who, task)
        journal = await read_all(self._house.state, task)
        rows = [_in_flight(task, entry) for entry in entries(view.head) if entry.kind == "action"]
        rows += [
            _action(task, key, record) for key, record in journal.records.items() if record.get("kind") == "action"
        ]
        rows.sort(key=lambda row: row["created_at"])
        return {"data": [row for row in rows if status in (None, row["status"])], "next_cursor": None}

    async def action(self, who: Caller, action: str) -> dict[str, Any]:
        """Give one action of the caller's own task."""
        rows = await self.actions(who, None)
        for row in rows["data"]:
            if row["id"] == action:
                return dict(row)
        raise Problem("not_found", "this task has no such action")

    # ── checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────

    async def checkpoint(self, who: Caller, task: str) -> tuple[str, bytes]:
        """Give the agent's own state, as (ETag, JSON)."""
        etag = None
        while True:
            view = await visible(self._house, who, task)
            before, etag = etag, view.head.get("checkpoint")
            if not etag:
                raise Problem("not_found", "this task has no checkpoint yet")
            try:
                data = await self._house.vault.get(self._house.task_key(view.task), f"{task}/checkpoint/{etag}")
            except Erased:
                data = None
            if data is not None:
                return str(etag), data
            if before == etag:  # else it may have been replaced between two looks
                raise Problem("not_found", "this task's checkpoint was erased")

    async def save(self, who: Caller, task: str, data: bytes, expected: Container[str] | None) -> str:
        """Keep the agent's state and give its ETag. `expected`: ETags one of which it must replace, "" for none."""
        house = self._house
        fence = fence_of(who)
        if fence is None:
            raise Problem("denied", "only the task's own agent saves its checkpoint", reasons=["caller"])
        view = await visible(house, who, task)
        if view.head["status"] != "suspended":  # a worker that is parked may still say where it was
            check_standing(view.head, fence, house.clock.now())
        etag = house.clock.random(12).hex()
        try:
            await house.vault.put(house.task_key(view.task), f"{task}/checkpoint/{etag}", data)
        except Erased as error:
            raise Problem("not_found", "this task was erased") from error
        try:
            old = await house.tasks.point(task, fence, etag, expected)
        except Problem as problem:
            if problem.code != "state_unavailable":  # then it may be the one that is pointed at
                await house.vault.delete(f"{task}/checkpoint/{etag}")
            raise
        if old:
            await house.vault.delete(f"{task}/checkpoint/{old}")
        return etag


def document(view: View) -> dict[str, Any]:
    """Give a task as `GET /v1/tasks/{id}` does."""
    task, head = view.task, view.head
    money = balance(head)
    limits = _budget(money.limits) | {"wall": task.wall, "depth": task.depth}
    subject = task.subject
    return {
        "id": task.id,
        "workflow": task.workflow,
        "status": head["status"],
        "principal": {
            "identity": task.principal.identity,
            "issuer": task.principal.issuer,
            "agent": task.principal.agent,
            "claims": dict(task.principal.claims),
        },
        "subject": {"type": subject.type, "id": subject.id, "proof": subject.proof} if subject else None,
        "metadata": dict(task.metadata),
        "grant": {"models": list(task.grant.models), "tools": list(task.grant.tools)},
        "budget": {
            "limits": limits,
            "spent": _budget(money.spent),
            "held": _budget(money.held),
            "allocated": _budget(money.allocated),
            "available": _budget(money.available),
        },
        "parent": str(link["task"]) if isinstance(link := head.get("parent"), Mapping) else None,
        "children": sorted({entry.task for entry in delegations(head)}),
        "fence": head["fence"],
        "host": task.host,
        "revision": task.revision,
        "created_at": moment(task.created_at),
        "expires_at": moment(task.deadline),
    }


def _budget(amounts: Mapping[str, int]) -> dict[str, int | float]:
    ordered = {name: amounts[name] for name in ACCOUNTS if name in amounts}
    return {name: amount / MICRO if name == "cost" else amount for name, amount in ordered.items()}


def _wanted(row: Mapping[str, Any], status: str | None, workflow: str | None) -> bool:
    return status in (None, row["status"]) and workflow in (None, row["workflow"])


def _place(records: Mapping[str, Item], at: int, key: str) -> Place:
    """Give where a cursor stands; one that names no record stands behind all of its millisecond."""
    return place(key, records[key]) if key in records else (at, LAST, 0, key)


def _action(task: str, key: str, record: Item) -> dict[str, Any]:
    return {
        "id": key.split(":", 1)[1],
        "task": task,
        "tool": record.get("name"),
        "status": record.get("status"),
        "cause": record.get("cause") or None,
        "code": record.get("code"),
        "created_at": moment(int(str(record["at"]))),
        "ended_at": moment(int(str(record.get("ended") or record["at"]))),
    }


def _in_flight(task: str, entry: Any) -> dict[str, Any]:
    return {
        "id": entry.call,
        "task": task,
        "tool": entry.name,
        "status": entry.state,
        "cause": entry.cause or None,
        "code": None,
        "created_at": moment(entry.at),
        "ended_at": None,
    }
