"""What a stop does beyond refusing: it is made known in every store of the domain, and ends the tasks that it meets.

Owns how those are found (by the index of tasks whose journal is not folded in yet, where every living one stands) and
that nothing slips through between two looks: a host may go by a view that is a second old, so the second pass begins
when that second is over. Refuses to know who ordered it (`operating`). Done once, whoever repeats it: a host that dies
in the middle leaves a stop that is not `done`, which every host's timer takes up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buspass.calls.house import House
from buspass.closing import draining, end, lifecycle_record
from buspass.errors import Problem
from buspass.ledger.holds import Entry, entries
from buspass.ports.state import Item, Unavailable, Value
from buspass.routing import targets
from buspass.stops import VIEW, Stop
from buspass.tasks import Task, View, segment
from buspass.tasks.lifecycle import LIVING
from buspass.tasks.store import moment

AT_ONCE: Final = 16
"""Tasks that are looked at at a time."""
BEFORE: Final = 7
"""Days that a task may have begun earlier than the longest time which a workflow gives now."""
PAGE: Final = 500
ABANDONED: Final = 30_000
"""Milliseconds after which a timer takes up a stop that is not done."""
CALM: Final = 0.25
"""Seconds between two looks at calls in flight."""


class Swept(Struct, kw_only=True):
    """What a stop came to. `missing`: hosts whose store could not be reached; `failed`: tasks that could not be ended.

    `flying`: tasks that had calls in flight when they were ended, with the house on their store. `calls`: those.
    """

    tasks: int = 0
    failed: int = 0
    calls: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    flying: dict[str, House] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not (self.failed or self.missing)


async def stores(house: House) -> tuple[list[House], list[str]]:
    """Give the houses on every store of the domain, this one first, and the hosts whose store can't be reached."""
    found, missing, seen = [house], [], {house.settings.hosts[house.place].state}
    for name, host in house.settings.hosts.items():
        if host.state not in seen:
            seen.add(host.state)
            try:
                found.append(await house.beside(name))
            except Problem:
                missing.append(name)
    return found, missing


async def spread(house: House, stop: Stop) -> tuple[Stop, list[House], list[str]]:
    """Let a stop stand in every store; give the one that stands here, and where it does. Raises Problem."""
    stands = await house.stops.put(stop)
    places, missing = await stores(house)
    reached = [house]
    for there in places[1:]:
        try:
            await there.stops.put(replace(stop, done=0))
        except Problem:
            missing.append(there.place)
        else:
            reached.append(there)
    return stands, reached, missing


async def carry_out(house: House, stop: Stop, patience: float = 0.0) -> tuple[Stop, Swept]:
    """Do what a stop does, and wait up to `patience` seconds for calls in flight. Raises Problem."""
    stands, places, missing = await spread(house, stop)
    ends = house.clock.monotonic() + patience
    swept = Swept(missing=missing)
    for there in places:
        await _pass(there, stands, swept)
    await house.clock.sleep(VIEW)
    await _drained(swept, stands, ends)
    swept.failed = 0
    for there in places:  # what began on a view from before the stop
        await _pass(there, stands, swept)
    done = await house.stops.progress(stands.id, tasks=swept.tasks, done=house.clock.now() if swept.whole else 0)
    stands = done or stands
    if stands.done and (swept.tasks or stands.tasks):
        told = {"stop": stands.id, "stopped": stands.what, "tasks": stands.tasks}
        await house.alerts.tell("killed", f"{stands.id} {stands.at}", told | {"reason": stands.reason, "by": stands.by})
    return stands, swept


async def finish(house: House) -> None:
    """Take up what a lost host, or a store out of reach, has left of a stop. Raises Problem state_unavailable."""
    now = house.clock.now()
    for stop in await house.stops.look():
        if not stop.done and stop.at and stop.at + ABANDONED <= now:
            await carry_out(house, stop)


async def in_flight(swept: Swept, stop: Stop) -> tuple[int, int]:
    """Say how many calls that a stop meets are in flight, and when that is over at the latest (ms). Raises Problem."""
    count = latest = 0
    for task, there in list(swept.flying.items()):
        head = (await there.tasks.look(task)).head
        more, until = await _flying(there, stop, head)
        if not more:
            del swept.flying[task]
        count, latest = count + more, max(latest, until)
    return count, latest


async def _drained(swept: Swept, stop: Stop, ends: float) -> None:
    while swept.flying:
        clock = next(iter(swept.flying.values())).clock
        with suppress(Problem):
            await in_flight(swept, stop)
        if not swept.flying or clock.monotonic() >= ends:
            return
        await clock.sleep(CALM)


async def _flying(house: House, stop: Stop, head: Item) -> tuple[int, int]:
    if stop.kind not in {"tool", "model"}:
        return await draining(house, head)
    calls = _met(house, stop, entries(head))
    return len(calls), max((call.deadline for call in calls), default=0)


def _met(house: House, stop: Stop, calls: Iterable[Entry]) -> list[Entry]:
    """Give the calls of a tool or a model that is stopped."""
    if stop.kind == "tool":
        return [call for call in calls if call.kind == "action" and call.name == segment(stop.name)]
    models = house.settings.models.values()
    behind = [model.alias for model in models if any(targets.name(each) == stop.name for each in model.targets)]
    names = {segment(name) for name in (stop.name, *behind)}
    return [call for call in calls if call.kind == "inference" and call.name in names]


# ── the tasks that it meets ─────────────────────────────────────────────────────────────────────────────────────────


async def _pass(house: House, stop: Stop, swept: Swept) -> None:
    """Look at every living task of this store once, and end it where the stop meets it.

    First all are killed, which is one write each; what follows from that, below them and in their journals, comes then.
    """
    limit = asyncio.Semaphore(AT_ONCE)

    async def each[T](work: Callable[[T], Awaitable[None]], what: Iterable[T]) -> None:
        async def one(thing: T) -> None:
            async with limit:
                try:
                    await work(thing)
                except Problem as problem:
                    swept.failed += problem.code != "not_found"

        await asyncio.gather(*(one(thing) for thing in what))

    met: list[View] = []
    killed: list[View] = []

    async def look(task: str) -> None:
        view = await house.tasks.look(task)
        if _meets(house, stop, view, swept):
            met.append(view)

    async def end_one(view: View) -> None:
        if await _change(house, view, stop):
            killed.append(view)

    try:
        async for found in living(house):
            await each(look, found)
    except Unavailable:
        swept.missing.append(house.place)
    await each(end_one, met)
    swept.tasks += len(killed)
    await each(lambda view: _end(house, view, stop), killed)


def _meets(house: House, stop: Stop, view: View, swept: Swept) -> bool:
    """Take note of the calls in flight that a stop meets; say whether it ends their task."""
    task, ends = view.task.id, stop.kind not in {"tool", "model"}
    if ends and not (view.head["status"] in LIVING and stop.meets(view.task.workflow, names(view.task))):
        return False
    calls = list(entries(view.head)) if ends else _met(house, stop, entries(view.head))
    if calls:
        swept.flying[task] = house
        swept.calls |= {f"{task} {call.call}" for call in calls}
    return ends


def _record(house: House, stop: Stop) -> dict[str, Value]:
    record = lifecycle_record(house, "kill", status="killed", reason=stop.reason, by=f"operator {stop.by}")
    return record | {"stop": stop.id}


async def _change(house: House, view: View, stop: Stop) -> bool:
    """Kill a task; False where it has ended by itself. Raises Problem state_unavailable, conflict."""
    try:
        await house.tasks.change(view.task.id, "kill", _record(house, stop))
    except Problem as problem:
        if problem.code in {"task_expired", "task_not_open", "task_killed"}:
            return False
        raise
    return True


async def _end(house: House, view: View, stop: Stop) -> None:
    await end(house, view.task.id, "kill", _record(house, stop))


async def kill(house: House, view: View, stop: Stop) -> None:
    """End a task that a stop meets, and those below it. Raises Problem state_unavailable, conflict."""
    if await _change(house, view, stop):
        await _end(house, view, stop)


def names(task: Task) -> tuple[str, ...]:
    """Give the names that a stop may know a task's agent by."""
    return (task.principal.name,)


async def living(house: House) -> AsyncIterator[Sequence[str]]:
    """Give the tasks of a store that may still live, in parts. Raises Unavailable."""
    workflows = house.settings.workflows.values()
    days = BEFORE + round(max((workflow.wall for workflow in workflows), default=0) / 86_400) + 1
    last = moment(house.clock.now()).date() + timedelta(days=1)
    for back in range(days):
        day = f"{last - timedelta(days=back)}"
        found = await house.rollups.tails(day)
        if found is not None:
            yield found
            continue
        after = ""  # more than the index can tell at once: then the list of the whole day
        while rows := await house.state.list(f"tasks:{day}", "", after, PAGE):
            yield [str(item["task"]) for _, item in rows]
            after = rows[-1][0]
