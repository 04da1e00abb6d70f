"""The operations of the state port as values, and what they mean on an item in hand.

Owns paths, conditions, operations and their pure meaning, which every adapter shares. Refuses to know a
store, and which operations the port accepts (`state.check`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

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
NAME: Final = 255
"""Characters of a partition or key."""
PAGE: Final = 1000
"""The largest `limit` of `list` and `find`."""
DEPTH: Final = 24
"""How deep a value may nest: DynamoDB allows 32 levels, its item and ours included."""

INDEXES: Final = ("due", "flow", "tail")
"""Every index that `find` may be asked for: a table in a cloud has each as an index of its own. A new one is added
here, and to the tables that exist before what needs it is deployed (docs/stores.md)."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
KNOWN: Final = 8192
_NAMES: Final[dict[str, None]] = {}
_SEGMENTS: Final[dict[str, None]] = {}
"""What was found to be one: a task's partition comes at each call, a call's id twice."""
MISSING: Final = object()
"""What `value_at` may be asked to give where nothing is: unlike None, never a value."""


class Present(Struct, frozen=True):
    """Something is there, be it null."""

    path: Path


class Absent(Struct, frozen=True):
    """Nothing is there, or what should hold it is missing or no map."""

    path: Path


class Equals(Struct, frozen=True):
    """This very value is there, of this very type: True is not 1."""

    path: Path
    value: Scalar


class AtLeast(Struct, frozen=True):
    """An integer is there, and it is not below `value`."""

    path: Path
    value: int


type Condition = Present | Absent | Equals | AtLeast


class Put(Struct, frozen=True):
    """Write the whole item. Without `require` there must be none; with it, one that satisfies it.

    Index entries that the item had and `index` does not name are withdrawn with the item they belonged to. `text`: the
    item as canonical JSON, where `shapes` wrote it and so proved that it keeps every rule; b"" where it is to be seen.
    """

    key: str
    value: Item
    require: tuple[Condition, ...] = ()
    index: Index = field(default_factory=dict)
    text: bytes = b""


class Update(Struct, frozen=True):
    """Change parts of an item that exists; never creates one. Index entries that `index` does not name stay.

    `add`: a missing leaf counts as 0. `set`: at depth one no map, because stores lay those out entry by
    entry. `remove`: each path is required by the same update. No two changes overlap. `require` must be
    falsified by the update itself (see `check`).
    """

    key: str
    require: tuple[Condition, ...]
    add: Mapping[Path, int] = field(default_factory=dict)
    set: Mapping[Path, Value] = field(default_factory=dict)
    remove: tuple[Path, ...] = ()
    index: Index = field(default_factory=dict)


class Delete(Struct, frozen=True):
    """Remove an item that exists and satisfies `require`, with its index entries."""

    key: str
    require: tuple[Condition, ...]


type Ordinary = Put | Update | Delete


class Misfit(ValueError):  # noqa: N818  (it says what is wrong)
    """Conditions hold, but the item has not the shape the update needs: surely not applied from `index` on.

    A change's parent is missing or no map, an addition meets something that is no integer or leaves
    ±(2⁵³-1), or nothing would be left of the item. A mistake of the caller, never a race that a repetition
    could win.
    """

    def __init__(self, index: int, why: str) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why

    def __str__(self) -> str:
        return self.why


def at(*segments: str) -> Path:
    """Make a path of one to three segments, each `[A-Za-z0-9_.:-]{1,128}`. Raises ValueError."""
    return checked_path(segments, 3, "a path")


def checked_path(path: Sequence[str], depth: int, where: str) -> Path:
    """Give the path, if it is one of 1 to `depth` segments; else ValueError, beginning with `where`."""
    try:
        if type(path) is tuple and 0 < SEGMENTS[path] <= depth:
            return path
    except TypeError:  # something in it can't be hashed, so it is no segment
        pass
    if not isinstance(path, tuple) or not 1 <= len(path) <= depth:
        raise ValueError(f"{where}: {path!r} is not a tuple of 1-{depth} segments")
    for segment in path:
        if not isinstance(segment, str) or not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{where}: segment {segment!r} in {path!r}; allowed is [A-Za-z0-9_.:-]{{1,128}}")
    return path


class Remembered[K, V](dict[K, V]):
    """What a function of a value says, asked once: a store meets the same paths and shapes at every call.

    A plain dictionary, as `lru_cache` costs several times the look into one. It begins anew when it is full.
    """

    def __init__(self, ask: Callable[[K], V], most: int = 8192) -> None:
        super().__init__()
        self._ask, self._most = ask, most

    def __missing__(self, about: K) -> V:
        if len(self) >= self._most:
            self.clear()
        answer = self[about] = self._ask(about)
        return answer


def is_name(name: object) -> bool:
    """Say whether this may be a partition or a key."""
    if type(name) is not str:
        return False
    if name not in _NAMES:
        if not 0 < len(name) <= NAME or not name.isascii() or not name.isprintable():
            return False
        _know(_NAMES, name)
    return True


def is_segment(name: object) -> bool:
    """Say whether this may be a segment of a path."""
    if type(name) is not str:
        return False
    if name not in _SEGMENTS:
        if _SEGMENT.fullmatch(name) is None:
            return False
        _know(_SEGMENTS, name)
    return True


def _know(known: dict[str, None], name: str) -> None:
    if len(known) >= KNOWN:
        known.clear()
    known[name] = None


def _segments(path: tuple[Any, ...]) -> int:
    return len(path) if all(map(is_segment, path)) else 0


SEGMENTS: Final = Remembered(_segments)
"""How many segments a path has; 0 where one is none. Raises TypeError for what can't be hashed."""


def is_whole(number: object) -> bool:
    """Say whether this is an integer (no boolean) that every store keeps exactly."""
    return type(number) is int and -WHOLE <= number <= WHOLE


def starts_with(path: Path, start: Path) -> bool:
    """Say whether `start` is the path itself or leads to it."""
    return path[: len(start)] == start


def value_at(value: Any, path: Path, default: Any = None) -> Any:
    """Walk `path` down from `value`; `default` where something is missing or no map."""
    for segment in path:
        if (type(value) is not dict and not isinstance(value, Mapping)) or segment not in value:
            return default
        value = value[segment]
    return value


def same(found: object, value: Scalar) -> bool:
    """Compare value and type: neither True nor "1" is 1."""
    return type(found) is type(value) and found == value


def holds(condition: Condition, item: Item) -> bool:
    """Say whether the condition is true of this item."""
    found: Any = item
    kind = type(condition)
    for segment in condition.path:
        if (type(found) is not dict and not isinstance(found, Mapping)) or segment not in found:
            return kind is Absent
        found = found[segment]
    if kind is Absent:
        return False
    if isinstance(condition, AtLeast):
        return type(found) is int and found >= condition.value
    return not isinstance(condition, Equals) or same(found, condition.value)


def accepts(operation: Ordinary, item: Item | None) -> bool:
    """Say whether the operation may be applied to what is there: an item, or None."""
    require = operation.require
    if not require and isinstance(operation, Put):
        return item is None
    if item is None:
        return False
    for condition in require:
        path = condition.path
        holder = item if len(path) == 1 else item.get(path[0])
        if type(holder) is dict and len(path) <= 2 and isinstance(condition, (AtLeast, Equals)):
            found, value = holder.get(path[-1]), condition.value
            if type(found) is not type(value) or (found < value if isinstance(condition, AtLeast) else found != value):
                return False
        elif not holds(condition, item):
            return False
    return True


def changed(update: Update, item: Item, index: int = 0) -> dict[str, Value]:
    """Give the item as the update makes it; `item` stays as it was. Raises Misfit(index)."""
    new: dict[str, Any] = dict(item)
    fresh: dict[str, dict[str, Any]] = {}

    def holder(path: Path) -> dict[str, Any]:
        """Give the map that the path's last name lies in: it is copied before its first change."""
        parent = new.get(path[0])
        if type(parent) is not dict and not isinstance(parent, Mapping):
            raise Misfit(index, f"{update.key!r}: {path} has no map to lie in")
        found = fresh[path[0]] = new[path[0]] = dict(parent)
        return found

    for path, value in update.set.items():
        holding = new if len(path) == 1 else fresh.get(path[0]) or holder(path)
        holding[path[-1]] = value
    for path, amount in update.add.items():
        holding = new if len(path) == 1 else fresh.get(path[0]) or holder(path)
        name = path[-1]
        total = holding.get(name, 0)
        if type(total) is not int or not -WHOLE <= (summed := total + amount) <= WHOLE:
            raise Misfit(index, f"{update.key!r}: {amount} can't be added to {total!r} at {path}")
        holding[name] = summed
    for path in update.remove:
        holding = new if len(path) == 1 else fresh.get(path[0]) or holder(path)
        del holding[path[-1]]
    if not new:
        raise Misfit(index, f"{update.key!r}: nothing would be left of the item")
    return new
