"""The state port: items in partitions, changed by ordered, conditional operations.

Owns the operations, what each store guarantees for them, and the rules that make a repetition harmless (`check`).
Refuses to know what an item means, and which store keeps it.

**Items.** An item is a map, never empty, found by (partition, key). Values are strings, booleans, integers within
±(2⁵³-1), null, lists and maps; no floats. A null is a value: it is present, and equals nothing. Partitions and keys
are 1-255 printable ASCII characters, so that every store sorts them alike. The names of an item's first two levels
are segments (see `at`), because paths reach them; a client's own text enters there as a digest.

**Conditions** look at most three segments deep, **changes** at most two; the map that a change lies in must exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

type Path = tuple[str, ...]
"""Made by `at`. Conditions reach three segments deep, changes two."""
type Scalar = str | int | bool
type Value = str | int | bool | list[Value] | Mapping[str, Value] | None
type Item = Mapping[str, Value]
type Index = Mapping[str, tuple[str, str] | None]
"""By the index's name: (shard, sort), or None to withdraw the entry."""

WHOLE: Final = 2**53 - 1
"""The largest integer every store keeps exactly: Cosmos and Redis scripts hold numbers as doubles."""
CHANGES: Final = 10
"""Changes in one update: what a patch may carry in Cosmos."""
PAGE: Final = 1000
"""The largest `limit` of `list` and `find`."""
DEPTH: Final = 24
"""How deep a value may nest: DynamoDB allows 32 levels, its item and ours included."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAME: Final = re.compile(r"[ -~]{1,255}")
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Present:
    """Something is there, be it null."""

    path: Path


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing is there, or what should hold it is missing or no map."""

    path: Path


@dataclass(frozen=True, slots=True)
class Equals:
    """This very value is there, of this very type: True is not 1."""

    path: Path
    value: Scalar


@dataclass(frozen=True, slots=True)
class AtLeast:
    """An integer is there, and it is not below `value`."""

    path: Path
    value: int


type Condition = Present | Absent | Equals | AtLeast


@dataclass(frozen=True, slots=True)
class Put:
    """Write the whole item and its index entries. Without `require` there must be no item; with it, one that satisfies it.

    Index entries that the item had and `index` does not name are withdrawn with the item they belonged to.
    """

    key: str
    value: Item
    require: tuple[Condition, ...] = ()
    index: Index = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Update:
    """Change parts of an item that exists; never creates one. Index entries that `index` does not name stay.

    `add`: a missing leaf counts as 0. `set`: at depth one no map, because stores lay those out entry by entry.
    `remove`: each path is required by the same update. No two changes overlap. `require` must be falsified by the
    update itself (see `check`).
    """

    key: str
    require: tuple[Condition, ...]
    add: Mapping[Path, int] = field(default_factory=dict)
    set: Mapping[Path, Value] = field(default_factory=dict)
    remove: tuple[Path, ...] = ()
    index: Index = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an item that exists and satisfies `require`, with its index entries."""

    key: str
    require: tuple[Condition, ...]


type Operation = Put | Update | Delete


@dataclass(frozen=True, slots=True)
class Applied:
    """All operations stand. `item` is the last one's as it became; None after a delete."""

    item: Item | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Operation `index` met an item that does not satisfy it. `item` is that item then or later; None if there is none.

    Neither it nor a later one was applied. Those before it stand, or were undone, as the store pleases.
    """

    index: int
    item: Item | None


class Unavailable(Exception):  # noqa: N818  (the name is the port's word for what happened)
    """The store can't be reached or does not take it now: surely not applied from `index` on; the prefix may stand."""

    def __init__(self, index: int = 0, why: str = "") -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why or f"the store is unavailable (operation {self.index})"


class OutcomeUnknown(Exception):  # noqa: N818
    """From `index` on: applied, or not, or applied later. Read and see; applying the same again is harmless."""

    def __init__(self, index: int = 0, why: str = "") -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why or f"the outcome of operation {self.index} is unknown"


class Misfit(ValueError):
    """Conditions hold, but the item has not the shape the update needs: surely not applied from `index` on.

    A change's parent is missing or no map, an addition meets something that is no integer or leaves ±(2⁵³-1).
    A mistake of the caller, never a race that a repetition could win.
    """

    def __init__(self, index: int, why: str) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why


class State(Protocol):
    """A store. Safe for any number of concurrent callers on its event loop, and beside other processes on one store.

    Every method raises ValueError for arguments outside the port's rules, before anything is sent, and Unavailable
    when the store can't answer or was closed. Items handed out are the caller's own. Writes are never retried here.
    """

    async def read(self, partition: str, key: str) -> Item | None:
        """Give the item as it is now, or None. Strongly consistent: sees every apply that was answered before."""
        ...

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        """Give up to `limit` (1-1000) items, ascending by key (code points), whose key starts with `prefix`, > `after`.

        Fewer than `limit` means that there are no more. Each item is consistent like `read`; the page as a whole
        is not a snapshot. `prefix` and `after` may be empty.
        """
        ...

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        """Give up to `limit` (1-1000) entries as (partition, key), ascending by sort, whose sort is ≤ `until`.

        A hint, eventually consistent: an entry may be missing for a while, or stand although its item changed or
        is gone. The finder reads the item, and withdraws a stale entry with an update. Spans partitions.
        """
        ...

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        """Apply operations in order, each atomically, each key at most once; stop at the first that is refused.

        A store may do all in one transaction or one by one: after a refusal or an error the operations before
        `index` may stand or be undone, so the one that gives the others meaning is put last. Once answered with
        Applied, the operations are durable as the store's URL says, and visible to every reader.

        Raises Unavailable(index) and OutcomeUnknown(index) as they say, Misfit where a change does not fit its item,
        ValueError (nothing applied) from `check`. A cancelled caller knows as much as after OutcomeUnknown.
        """
        ...

    async def close(self) -> None:
        """Finish what is under way and let go of the store. Idempotent; every later call raises Unavailable."""
        ...


# ── the rules of an operation's text ────────────────────────────────────────────────────────────────────────────────


def at(*segments: str) -> Path:
    """Make a path of one to three segments, each `[A-Za-z0-9_.:-]{1,128}`. Raises ValueError."""
    return _path(segments, 3, "a path")


def check(operations: Sequence[Operation]) -> None:
    """Raise ValueError (what, where, what is allowed) unless every rule of the port holds for these operations.

    Among them: an operation must falsify its own condition, so that it can't be applied twice. That is decided
    from its text: a put without `require`, or whose value does not satisfy it; `Absent p` and p is set or added;
    `Present|Equals|AtLeast p` and p or what holds it is removed; `Equals p` and p is added to or set otherwise.
    """
    if not operations:
        raise ValueError("no operations: an apply carries at least one")
    seen: set[str] = set()
    for operation in operations:
        where = f"operation on {operation.key!r}"
        check_names(operation.key)
        if operation.key in seen:
            raise ValueError(f"{where}: its key has one already; each key at most once in an apply")
        seen.add(operation.key)
        for condition in operation.require:
            _check_condition(condition, where)
        if isinstance(operation, Put):
            _check_put(operation, where)
        elif isinstance(operation, Update):
            _check_update(operation, where)


def check_names(*names: str) -> None:
    """Raise ValueError unless each (a partition, key, shard or sort) is 1-255 printable ASCII characters."""
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r}: partitions, keys, shards and sorts are 1-255 printable ASCII characters"
            )


def check_page(limit: int, *bounds: str) -> None:
    """Raise ValueError unless `limit` is 1-1000 and each bound (prefix, after, until) is empty or a name."""
    if type(limit) is not int or not 1 <= limit <= PAGE:
        raise ValueError(f"limit {limit!r}: allowed are 1-{PAGE}")
    check_names(*(bound for bound in bounds if bound != ""))


def _path(path: Sequence[str], depth: int, where: str) -> Path:
    if not isinstance(path, tuple) or not 1 <= len(path) <= depth:
        raise ValueError(f"{where}: {path!r} is not a tuple of 1-{depth} segments")
    for segment in path:
        if not isinstance(segment, str) or not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{where}: segment {segment!r} in {path!r}; allowed is [A-Za-z0-9_.:-]{{1,128}}")
    return path


def _whole(number: object) -> bool:
    return type(number) is int and -WHOLE <= number <= WHOLE


def _check_condition(condition: Condition, where: str) -> None:
    _path(condition.path, 3, where)
    if isinstance(condition, AtLeast) and not _whole(condition.value):
        raise ValueError(f"{where}: {condition!r}; AtLeast compares with an integer within ±(2⁵³-1)")
    if isinstance(condition, Equals):
        if type(condition.value) not in (str, int, bool):
            raise ValueError(
                f"{where}: {condition!r}; Equals compares with a string, an integer or a boolean"
            )
        _check_value(condition.value, DEPTH, where)


def _check_put(put: Put, where: str) -> None:
    if not isinstance(put.value, Mapping) or not put.value:
        raise ValueError(f"{where}: an item is a map and never empty")
    for name, value in put.value.items():
        _path((name,), 1, where)
        _check_value(value, 1, where)
    _check_index(put.index, where)
    if put.require and all(holds(condition, put.value) for condition in put.require):
        raise ValueError(f"{where}: the new item satisfies `require`, so the put could be applied twice")


def _check_update(update: Update, where: str) -> None:
    changes = [*update.add, *update.set, *update.remove]
    if len(changes) > CHANGES:
        raise ValueError(f"{where}: {len(changes)} changes; allowed are {CHANGES}")
    paths = {_path(path, 2, where) for path in changes}
    if len(paths) < len(changes) or any(len(path) > 1 and path[:1] in paths for path in changes):
        raise ValueError(f"{where}: changes overlap; each place is changed at most once")
    for path, amount in update.add.items():
        if not _whole(amount):
            raise ValueError(f"{where}: {amount!r} added at {path}; allowed are integers within ±(2⁵³-1)")
    for path, value in update.set.items():
        if len(path) == 1 and isinstance(value, Mapping):
            raise ValueError(
                f"{where}: a map set at {path}; an update sets maps at depth two only, a put at any"
            )
        _check_value(value, len(path), where)
    for path in update.remove:
        if not any(_starts(c.path, path) for c in update.require if not isinstance(c, Absent)):
            raise ValueError(
                f"{where}: {path} is removed; `require` must say that it, or a part of it, is there"
            )
    _check_index(update.index, where)
    if not any(_falsified(condition, update) for condition in update.require):
        raise ValueError(f"{where}: the update leaves every condition standing, so it could be applied twice")


def _check_index(index: Index, where: str) -> None:
    for name, entry in index.items():
        _path((name,), 1, where)
        if entry is not None:
            check_names(*entry)
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise ValueError(f"{where}: index {name} has {entry!r}; allowed are (shard, sort) and None")


def _check_value(value: Any, depth: int, where: str) -> None:
    """`depth` segments lead to the value; names of the second level are segments, deeper ones any text but ''."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{where}: {value!r} holds a lone surrogate; allowed is Unicode text")
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if depth == 1:
                _path((name,), 1, where)
            elif not isinstance(name, str) or not name:
                raise ValueError(f"{where}: {name!r} as a name in a map; allowed is text that is not empty")
            else:
                _check_value(name, depth, where)
            _check_value(part, _deeper(depth, where), where)
    elif isinstance(value, list):
        for part in value:
            _check_value(part, max(2, _deeper(depth, where)), where)
    elif value is not None and not isinstance(value, bool) and not _whole(value):
        raise ValueError(
            f"{where}: {value!r}; allowed are strings, booleans, integers within ±(2⁵³-1), null, lists and maps"
        )


def _deeper(depth: int, where: str) -> int:
    if depth >= DEPTH:
        raise ValueError(f"{where}: a value nests deeper than {DEPTH}")
    return depth + 1


def _starts(path: Path, start: Path) -> bool:
    return path[: len(start)] == start


def _falsified(condition: Condition, update: Update) -> bool:
    path = condition.path
    outcome = next(
        (value_at(v, path[len(p) :], _MISSING) for p, v in update.set.items() if _starts(path, p)), None
    )
    is_set = any(_starts(path, p) for p in update.set)
    if isinstance(condition, Absent):
        return path in update.add or (is_set and outcome is not _MISSING)
    if any(_starts(path, gone) for gone in update.remove):
        return True
    if not isinstance(condition, Equals):
        return False
    return bool(update.add.get(path)) or (is_set and not _same(outcome, condition.value))


# ── what adapters share: the meaning of conditions and changes on an item in hand ───────────────────────────────────


def value_at(value: Any, path: Path, default: Any = None) -> Any:
    """Walk `path` down from `value`; `default` where something is missing or no map."""
    for segment in path:
        if not isinstance(value, Mapping) or segment not in value:
            return default
        value = value[segment]
    return value


def _same(found: object, value: Scalar) -> bool:
    return type(found) is type(value) and found == value


def holds(condition: Condition, item: Item) -> bool:
    """Say whether the condition is true of this item."""
    found = value_at(item, condition.path, _MISSING)
    match condition:
        case Present():
            return found is not _MISSING
        case Absent():
            return found is _MISSING
        case Equals(_, value):
            return _same(found, value)
        case AtLeast(_, value):
            return type(found) is int and found >= value


def accepts(operation: Operation, item: Item | None) -> bool:
    """Say whether the operation may be applied to what is there: an item, or None."""
    if isinstance(operation, Put) and not operation.require:
        return item is None
    return item is not None and all(holds(condition, item) for condition in operation.require)


def changed(update: Update, item: Item, index: int = 0) -> dict[str, Value]:
    """Give the item as the update makes it; `item` stays as it was. Raises Misfit(index)."""
    new: dict[str, Any] = dict(item)
    fresh: set[str] = set()
    for path in _changes(update):
        if len(path) == 2 and path[0] not in fresh:
            parent = new.get(path[0])
            if not isinstance(parent, Mapping):
                raise Misfit(index, f"{update.key!r}: {path} has no map to lie in")
            new[path[0]] = dict(parent)
            fresh.add(path[0])
    for path, value in update.set.items():
        _parent(new, path)[path[-1]] = value
    for path, amount in update.add.items():
        parent = _parent(new, path)
        total = parent.get(path[-1], 0)
        if type(total) is not int or not _whole(total + amount):
            raise Misfit(index, f"{update.key!r}: {amount} can't be added to {total!r} at {path}")
        parent[path[-1]] = total + amount
    for path in update.remove:
        del _parent(new, path)[path[-1]]
    if not new:
        raise Misfit(index, f"{update.key!r}: nothing would be left of the item")
    return new


def _changes(update: Update) -> Iterator[Path]:
    yield from update.add
    yield from update.set
    yield from update.remove


def _parent(item: dict[str, Any], path: Path) -> dict[str, Any]:
    return item if len(path) == 1 else item[path[0]]
