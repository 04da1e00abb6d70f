"""The executable specification of the state port, with every fault a store may show.

Owns items in memory and the troubles asked of it. Refuses to be durable, and to know what an item means.

Transactional, it stands for SQLite, a Redis script, a Cosmos batch: an apply is one step. Otherwise it
stands for DynamoDB: each operation is a step of its own, others come between, and a prefix stands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from msgspec import Struct

from buspass.ports.state import (
    Applied,
    Delete,
    Index,
    Item,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    accepts,
    check,
    check_names,
    check_page,
    judged,
)
from buspass.testing.state_counting import Count


class Crash(BaseException):
    """The caller's process died here: no code of its own may catch it, so it is no Exception."""


class Down(Struct, frozen=True):
    """Unavailable(at): this operation and those after it are not applied."""

    at: int = 0


class Lost(Struct, frozen=True):
    """OutcomeUnknown(at) although this operation was applied (if it was not refused)."""

    at: int = 0


class Late(Struct, frozen=True):
    """OutcomeUnknown(at); the operation arrives with `deliver`, or never if `late` is cleared before."""

    at: int = 0


class Dies(Struct, frozen=True):
    """Crash once `after` operations of the apply are done; in a transaction only a whole apply is done."""

    after: int = 0


type Fault = Down | Lost | Late | Dies
type Step = tuple[int, Sequence[Operation]]


class MemoryState:
    """A store in memory. `late` holds writes that have not arrived, `count` what was asked of it.

    With `trouble` > 0 each apply meets a random Down, Lost or Late with that probability, drawn from
    `random`, and late writes arrive at random times. `lagging` delays index entries until `deliver`. Without
    `copies` items are handed over as they are: faster, where nobody changes one.
    """

    def __init__(
        self,
        *,
        transactional: bool = True,
        trouble: float = 0.0,
        random: Random | None = None,
        lagging: bool = False,
        copies: bool = True,
    ) -> None:
        self._copied: Callable[[Any], Any] = _copy if copies else _same
        self.transactional, self.trouble, self.lagging = transactional, trouble, lagging
        self.down = False
        self.closed = False
        self.count = Count()
        self.late: list[tuple[str, Sequence[Operation]]] = []
        self._random = random or Random(0)
        self._plan: deque[Fault | None] = deque()
        self._crash_in: int | None = None
        self._items: dict[str, dict[str, Item]] = {}
        self._entries: dict[tuple[str, str, str], tuple[str, str]] = {}  # (partition, key, index): (shard, sort)
        self._lagged: list[tuple[tuple[str, str, str], tuple[str, str] | None]] = []

    # ── faults ──

    def meet(self, *faults: Fault | None) -> None:
        """Say what the next applies meet, one each; None is an undisturbed one."""
        self._plan.extend(faults)

    def crash_after(self, writes: int) -> None:
        """Let the caller die once this many more single operations were tried: 0 is before the next."""
        self._crash_in = writes

    def deliver(self) -> None:
        """Let everything late arrive: writes are judged by their conditions now, index entries catch up."""
        late, self.late = self.late, []
        for partition, operations in late:
            for step in self._steps(operations):
                if isinstance(self._take(partition, *step), Refused):
                    break
        for place, entry in self._lagged:
            self._enter(place, entry)
        self._lagged.clear()

    def dump(self) -> dict[str, dict[str, Any]]:
        """Give all partitions with all items, as they are now."""
        return {part: {key: _copy(item) for key, item in items.items()} for part, items in self._items.items()}

    # ── the port ──

    async def read(self, partition: str, key: str) -> Item | None:
        check_names(partition, key)
        self.count.reads += 1
        await self._arrive()
        item = self._items.get(partition, {}).get(key)
        return None if item is None else self._copied(item)

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        check_names(partition)
        check_page(limit, prefix, after)
        self.count.lists += 1
        await self._arrive()
        items = self._items.get(partition, {})
        keys = sorted(key for key in items if key.startswith(prefix) and key > after)
        return [(key, self._copied(items[key])) for key in keys[:limit]]

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        check_names(index, shard)
        check_page(limit, until)
        self.count.finds += 1
        await self._arrive()
        found = sorted(
            (sort, partition, key)
            for (partition, key, name), (where, sort) in self._entries.items()
            if name == index and where == shard and sort <= until
        )
        return [(partition, key) for _, partition, key in found[:limit]]

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        check_names(partition)
        check(operations)
        self.count.applies += 1
        await self._arrive()
        fault = self._plan.popleft() if self._plan else self._drawn(len(operations))
        operations = tuple(operations)
        answer: Applied | Refused = Applied(None)
        for index, step in self._steps(operations):
            if index:
                await asyncio.sleep(0)  # between single operations others come in
            answer = self._step(partition, index, step, fault)
            if isinstance(answer, Refused):
                return answer
        if isinstance(fault, Dies):
            raise Crash
        return answer

    async def close(self) -> None:
        self.closed = True

    # ── how it is done ──

    async def _arrive(self) -> None:
        if self.closed or self.down:
            raise Unavailable(0, "the store is closed" if self.closed else "")
        await asyncio.sleep(0)
        if self.trouble and self.late and self._random.random() < 0.3:
            self.deliver()

    def _drawn(self, operations: int) -> Fault | None:
        if not self.trouble or self._random.random() >= self.trouble:
            return None
        return self._random.choice((Down, Lost, Late))(self._random.randrange(operations))

    def _steps(self, operations: Sequence[Operation]) -> Sequence[Step]:
        if self.transactional:
            return [(0, operations)]
        return [(index, (operation,)) for index, operation in enumerate(operations)]

    def _step(self, partition: str, index: int, step: Sequence[Operation], fault: Fault | None) -> Applied | Refused:
        last = index + len(step)  # a fault inside a transaction befalls the whole of it
        if isinstance(fault, Dies) and fault.after < last:
            raise Crash
        self._crash_before(len(step))
        if isinstance(fault, Down) and fault.at < last:
            raise Unavailable(index)
        if isinstance(fault, Late) and fault.at < last:
            self.late.append((partition, step))
            raise OutcomeUnknown(index)
        answer = self._take(partition, index, step)
        if isinstance(fault, Lost) and fault.at < last:
            raise OutcomeUnknown(index)
        return answer

    def _crash_before(self, writes: int) -> None:
        if self._crash_in is not None:
            if self._crash_in < writes:
                self._crash_in = None
                raise Crash
            self._crash_in -= writes

    def _take(self, partition: str, first: int, step: Sequence[Operation]) -> Applied | Refused:
        """One step: all of its operations, or none."""
        items = self._items.setdefault(partition, {})
        new: dict[str, Item | None] = {}
        item: Item | None = None
        for index, operation in enumerate(step, first):
            self.count.writes += 1
            item = items.get(operation.key)
            taken, outcome = _outcome(operation, item, index)
            if not taken:
                return Refused(index, None if item is None else self._copied(item))
            item = new[operation.key] = self._copied(outcome)
        for operation in step:
            self._index(partition, operation)
        for key, value in new.items():
            if value is None:
                del items[key]
            else:
                items[key] = value
        return Applied(None if item is None else self._copied(item))

    def _index(self, partition: str, operation: Operation) -> None:
        entries: Index = operation.index if isinstance(operation, Put | Update) else {}
        if not isinstance(operation, Put | Delete):
            gone: set[str] = set()
        else:
            gone = {name for part, key, name in self._entries if (part, key) == (partition, operation.key)}
        for name in gone | set(entries):
            place, entry = (partition, operation.key, name), entries.get(name)
            if self.lagging:
                self._lagged.append((place, entry))
            else:
                self._enter(place, entry)

    def _enter(self, place: tuple[str, str, str], entry: tuple[str, str] | None) -> None:
        if entry is None:
            self._entries.pop(place, None)
        else:
            self._entries[place] = entry


def _outcome(operation: Operation, item: Item | None, index: int) -> tuple[bool, Item | None]:
    """Say whether it may be applied to the item, and what becomes of that."""
    if isinstance(operation, Put | Delete):
        return accepts(operation, item), operation.value if isinstance(operation, Put) else None
    outcome = judged(operation, item, index)
    return outcome is not None, outcome


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(part) for name, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _same(value: Any) -> Any:
    return value


async def open(url: str) -> State:  # noqa: A001  (the name and form every adapter's way in has)
    """Open `memory://`: a store of its own each time, gone with the process. Raises ValueError."""
    if url != "memory://":
        raise ValueError(f"state {url!r}: allowed is memory:// and nothing after it")
    return MemoryState()
