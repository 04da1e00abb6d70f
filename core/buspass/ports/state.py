"""The state port: items in partitions, changed by ordered, conditional operations.

Owns what each store guarantees, the answers and errors, and the rules that make a repetition harmless
(`check`). Refuses to know what an item means, and which store keeps it. The operations themselves:
`operations`; their names are offered here too.

**Items.** An item is a map, never empty, found by (partition, key). Values are strings, booleans, integers
within ±(2⁵³-1), null, lists and maps; no floats. A null is a value: it is present, and equals nothing.
Partitions and keys are 1-255 printable ASCII characters, so that every store sorts them alike. The names of
an item's first two levels are segments (see `at`), because paths reach them; a client's own text enters
there as a digest.

**Conditions** look at most three segments deep, **changes** at most two; the map that a change lies in must
exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from buspass.ports.forms import Operation, Prepared, accepts, changed, judged, plain
from buspass.ports.operations import (
    CHANGES,
    DEPTH,
    INDEXES,
    MISSING,
    PAGE,
    SEGMENTS,
    WHOLE,
    Absent,
    AtLeast,
    Condition,
    Delete,
    Equals,
    Index,
    Item,
    Misfit,
    Ordinary,
    Path,
    Present,
    Put,
    Scalar,
    Update,
    Value,
    at,
    checked_path,
    holds,
    is_name,
    is_whole,
    same,
    starts_with,
    value_at,
)
from buspass.ports.sound import surely

__all__ = [
    "CHANGES",
    "DEPTH",
    "INDEXES",
    "PAGE",
    "WHOLE",
    "Absent",
    "Applied",
    "AtLeast",
    "Condition",
    "Delete",
    "Equals",
    "Index",
    "Item",
    "Misfit",
    "Operation",
    "Ordinary",
    "OutcomeUnknown",
    "Path",
    "Prepared",
    "Present",
    "Put",
    "Refused",
    "Scalar",
    "State",
    "Unavailable",
    "Update",
    "Value",
    "accepts",
    "answered",
    "at",
    "changed",
    "check",
    "check_names",
    "check_page",
    "holds",
    "judged",
    "plain",
    "value_at",
]


class Applied(Struct, frozen=True):
    """All operations stand. `item` is the last one's as it became; None after a delete."""

    item: Item | None


class Refused(Struct, frozen=True):
    """Operation `index` met an item that does not satisfy it: `item`, as it was then or later; None if none.

    Neither it nor a later one was applied. Those before it stand, or were undone, as the store pleases.
    """

    index: int
    item: Item | None


class Unavailable(Exception):  # noqa: N818  (the name is the port's word for what happened)
    """The store does not take it now. Surely not applied from `index` on; what came before may stand."""

    def __init__(self, index: int = 0, why: str = "") -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why or f"the store is unavailable (operation {self.index})"


class OutcomeUnknown(Exception):  # noqa: N818
    """From `index` on: applied, or not, or later. Read and see; to apply the same again is harmless."""

    def __init__(self, index: int = 0, why: str = "") -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why or f"the outcome of operation {self.index} is unknown"


class State(Protocol):
    """A store. Safe for any number of concurrent callers on its event loop, beside any number of processes.

    Every method raises ValueError for arguments outside the port's rules, before anything is sent, and
    Unavailable when the store can't answer or was closed. Operations and items are values: neither side
    changes one, or anything in it, once it was handed over. Writes are never retried here.
    """

    async def read(self, partition: str, key: str) -> Item | None:
        """Give the item as it is now, or None. Strongly consistent: sees every apply answered before."""
        ...

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        """Give up to `limit` (1-1000) items whose key starts with `prefix` and is > `after`, in key order.

        Key order is by code points. Fewer than `limit` means that there are no more. Each item is consistent
        like `read`; the page as a whole is not a snapshot. `prefix` and `after` may be empty.
        """
        ...

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        """Give up to `limit` (1-1000) entries with sort ≤ `until` as (partition, key), ascending by sort.

        A hint, eventually consistent: an entry may be missing for a while, or stand although its item
        changed or is gone. The finder reads the item, and withdraws a stale entry with an update. Spans
        partitions.
        """
        ...

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        """Apply operations in order, each atomically, each key at most once; stop at the first refused.

        A store may do all in one transaction or one by one: after a refusal or an error the operations
        before `index` may stand or be undone, so the one that gives the others meaning is put last. Once
        answered with Applied, the operations are durable as the store's URL says, and visible to every
        reader.

        Raises Unavailable(index) and OutcomeUnknown(index) as they say, Misfit where a change does not fit
        its item, ValueError (nothing applied) from `check`. A cancelled caller knows as much as after
        OutcomeUnknown.
        """
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. Idempotent; every later call raises Unavailable."""
        ...


def check(operations: Sequence[Operation]) -> None:
    """Raise ValueError (what, where, what is allowed) unless these operations keep every rule of the port.

    Among them: an operation must falsify its own condition, so that it can't be applied twice. That is
    decided from its text: a put without `require`, or whose value does not satisfy it; `Absent p` and p is
    set or added; `Present|Equals|AtLeast p` and p or what holds it is removed; `Equals p` and p is added to
    or set otherwise.
    """
    if not operations:
        raise ValueError("no operations: an apply carries at least one")
    seen: set[str] = set()
    for operation in operations:
        key = operation.key
        if type(operation) is not Prepared:  # which keeps every rule, or could not have been made
            if not is_name(key):
                check_names(key)
            if not surely(operation):
                _check_closely(operation)
        if key in seen:
            raise ValueError(f"operation on {key!r}: its key has one already; each key at most once")
        seen.add(key)


def _check_closely(operation: Ordinary) -> None:
    where = f"operation on {operation.key!r}"
    for condition in operation.require:
        _check_condition(condition, where)
    if isinstance(operation, Put):
        _check_put(operation, where)
    elif isinstance(operation, Update):
        _check_update(operation, where)


def check_names(*names: str) -> None:
    """Raise ValueError unless each (a partition, key, shard or sort) is 1-255 printable ASCII characters."""
    for name in names:
        if not is_name(name):
            raise ValueError(f"{name!r}: partitions, keys, shards and sorts are 1-255 printable ASCII characters")


def check_page(limit: int, *bounds: str) -> None:
    """Raise ValueError unless `limit` is 1-1000 and each bound (prefix, after, until) is empty or a name."""
    if type(limit) is not int or not 1 <= limit <= PAGE:
        raise ValueError(f"limit {limit!r}: allowed are 1-{PAGE}")
    check_names(*(bound for bound in bounds if bound != ""))


def _check_condition(condition: Condition, where: str) -> None:
    checked_path(condition.path, 3, where)
    if isinstance(condition, AtLeast):
        if not is_whole(condition.value):
            raise ValueError(f"{where}: {condition!r}; AtLeast compares with an integer within ±(2⁵³-1)")
    elif isinstance(condition, Equals):
        if type(condition.value) not in (str, int, bool):
            raise ValueError(f"{where}: {condition!r}; Equals compares with a string, an integer or a boolean")
        _check_value(condition.value, DEPTH, where)


def _check_put(put: Put, where: str) -> None:
    if not isinstance(put.value, Mapping) or not put.value:
        raise ValueError(f"{where}: an item is a map and never empty")
    _check_members(put.value, 1, where)
    _check_index(put.index, where)
    if put.require and all(holds(condition, put.value) for condition in put.require):
        raise ValueError(f"{where}: the new item satisfies `require`, so the put could be applied twice")


def _check_update(update: Update, where: str) -> None:
    changes = [*update.add, *update.set, *update.remove]
    if len(changes) > CHANGES:
        raise ValueError(f"{where}: {len(changes)} changes; allowed are {CHANGES}")
    paths = {checked_path(path, 2, where) for path in changes}
    if len(paths) < len(changes) or not _apart(paths):
        raise ValueError(f"{where}: changes overlap; each place is changed at most once")
    for path, amount in update.add.items():
        if type(amount) is not int or not -WHOLE <= amount <= WHOLE:
            raise ValueError(f"{where}: {amount!r} added at {path}; allowed are integers within ±(2⁵³-1)")
    for path, value in update.set.items():
        if len(path) == 1 and isinstance(value, Mapping):
            raise ValueError(f"{where}: a map set at {path}; an update sets maps at depth two only, a put at any")
        _check_value(value, len(path), where)
    for path in update.remove:
        if not any(starts_with(c.path, path) for c in update.require if not isinstance(c, Absent)):
            raise ValueError(f"{where}: {path} is removed; `require` must say that it, or a part of it, is there")
    _check_index(update.index, where)
    if not any(_falsified(condition, update) for condition in update.require):
        raise ValueError(f"{where}: the update leaves every condition standing, so it could be applied twice")


def _apart(paths: Collection[Path]) -> bool:
    maps = {path[0] for path in paths if len(path) == 1}
    return maps.isdisjoint([path[0] for path in paths if len(path) > 1])


def _check_index(index: Index, where: str) -> None:
    for name, entry in index.items():
        if name not in INDEXES:
            raise ValueError(f"{where}: index {name!r}; allowed are {', '.join(INDEXES)} (operations.INDEXES)")
        if entry is not None:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise ValueError(f"{where}: index {name} has {entry!r}; allowed are (shard, sort) and None")
            check_names(*entry)


def _check_value(value: Any, depth: int, where: str) -> None:
    """`depth` segments lead to the value. Second-level names are segments, deeper ones any text but ''."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{where}: {value!r} holds a lone surrogate; allowed is Unicode text")
    elif isinstance(value, Mapping):
        _check_members(value, _deeper(depth, where), where)
    elif isinstance(value, list):
        for part in value:
            _check_value(part, max(2, _deeper(depth, where)), where)
    elif value is not None and not isinstance(value, bool) and not is_whole(value):
        raise ValueError(
            f"{where}: {value!r}; allowed are strings, booleans, integers within ±(2⁵³-1), null, lists, maps"
        )


def _check_members(members: Mapping[str, Any], depth: int, where: str) -> None:
    """A map whose members lie `depth` segments deep. What most of them are needs no second look."""
    if depth <= 2:
        if SEGMENTS[tuple(members)] != len(members):
            for name in members:
                checked_path((name,), 1, where)
    else:
        for name in members:
            if not isinstance(name, str) or not name:
                raise ValueError(f"{where}: {name!r} as a name in a map; allowed is text that is not empty")
            _check_value(name, depth, where)
    for part in members.values():
        if type(part) is str:
            if part.isascii():
                continue
        elif type(part) is int and -WHOLE <= part <= WHOLE:
            continue
        _check_value(part, depth, where)


def _deeper(depth: int, where: str) -> int:
    if depth >= DEPTH:
        raise ValueError(f"{where}: a value nests deeper than {DEPTH}")
    return depth + 1


def _falsified(condition: Condition, update: Update) -> bool:
    path = condition.path
    if isinstance(condition, Absent):
        if path in update.add:
            return True
    else:
        for gone in update.remove:
            if starts_with(path, gone):
                return True
        if not isinstance(condition, Equals):
            return False
        if update.add.get(path):
            return True
    for place, value in update.set.items():
        if starts_with(path, place):
            outcome = value_at(value, path[len(place) :], MISSING)
            return outcome is not MISSING if isinstance(condition, Absent) else not same(outcome, condition.value)
    return False


async def answered(
    state: State, partition: str, operations: Sequence[Operation], tries: int = 3
) -> tuple[Applied | Refused, bool]:
    """Apply, after a lost answer again; and say whether one was lost: a refusal may then be the first try's own doing.

    For operations of which each falsifies its own condition, so that a repetition is harmless. Raises `Unavailable` at
    once, and `OutcomeUnknown` when the last answer was lost, too.
    """
    for left in range(tries - 1, 0, -1):
        try:
            return await state.apply(partition, operations), left < tries - 1
        except OutcomeUnknown:
            continue
    return await state.apply(partition, operations), tries > 1
