"""The port's rules in one quick look: whether an operation surely keeps all of them.

Owns nothing that `state.check` does not say too, and says "not sure" wherever that must look closer: a call makes three
operations, which nearly always are sound. Refuses to name what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import compress
from operator import attrgetter
from typing import Any, Final

import orjson

from buspass.ports.operations import (
    CHANGES,
    DEPTH,
    SEGMENTS,
    WHOLE,
    Absent,
    AtLeast,
    Equals,
    Ordinary,
    Path,
    Present,
    Put,
    Remembered,
    Update,
)

SCALARS: Final = frozenset({str, int, bool, type(None)})
_TUPLES: Final = frozenset({tuple})
_INTEGERS: Final = frozenset({int})
_LOOKED_AT: Final = frozenset({1, 2, 3})
_PATH: Final = attrgetter("path")
_VALUE: Final = attrgetter("value")
_SEGMENTS_OF: Final = SEGMENTS.__getitem__


OFTEN: Final = 16
"""So many maps of the same names are looked at before a look is written for the like of the last (`straight`)."""
MET: Final = 512
"""Kinds of maps that are counted at once, none of them larger than a look may be."""
LOOKS: Final = 8
"""Looks that are kept for maps of one size."""
VALUES: Final = 128
"""The most that a map may have, those of its maps included, to have a look written for it."""
_MET: Final[dict[tuple[str, ...], int]] = {}
_LOOKS: Final[dict[tuple[int, int], list[Callable[[Mapping[str, Any]], bool]]]] = {}
"""By the number of members and how deep they lie."""


def _places(paths: tuple[Path, ...]) -> tuple[frozenset[str], frozenset[str]] | None:
    """Say what these paths add to: parts of the item itself, and maps in it. None where they are not sound."""
    if not {*map(type, paths)} <= _TUPLES or not {*map(_SEGMENTS_OF, paths)} <= {1, 2}:
        return None
    parts = frozenset([path[0] for path in paths if len(path) == 1])
    maps = frozenset([path[0] for path in paths if len(path) == 2])
    return (parts, maps) if parts.isdisjoint(maps) else None


def _kinds(kinds: tuple[type, ...]) -> tuple[tuple[bool, ...], ...] | None:
    """Say which conditions are AtLeast, which Equals, which Absent; None where one is of no kind."""
    if not {*kinds} <= {AtLeast, Equals, Absent, Present}:
        return None
    return tuple(tuple(kind is each for kind in kinds) for each in (AtLeast, Equals, Absent))


def _layout(layout: tuple[Any, ...]) -> tuple[str, ...] | None:
    """Of a map's names and its values' types: the names of what nests in it, or None where a name is not sound.

    The first two levels' names (the layout's last member is true) are segments, deeper ones any text but ''.
    """
    names, kinds, high = layout[: len(layout) // 2], layout[len(layout) // 2 : -1], layout[-1]
    sound = SEGMENTS[names] == len(names) if high else {*map(type, names)} <= {str} and "" not in names
    return tuple(compress(names, [kind not in SCALARS for kind in kinds])) if sound else None


_PLACES: Final = Remembered(_places)
_KINDS: Final = Remembered(_kinds)
_LAYOUTS: Final = Remembered(_layout)


def warm() -> None:
    """Load what writes forms and looks out, some ten milliseconds that their sixteenth operation waits for else."""
    from buspass.ports import straight  # noqa: F401, PLC0415 - no cold start waits for it


def surely(operation: Ordinary) -> bool:
    """Say whether the operation keeps every rule but those of its key; False where that is not sure."""
    try:
        if type(operation) is Update:
            return not operation.index and _changes(operation) and _conditions(operation)
        if type(operation) is Put:
            return not operation.index and not operation.require and (operation.text != b"" or _put(operation.value))
    except TypeError:  # what can't be hashed, compared or written
        pass
    return False


def surely_set(value: Any) -> bool:
    """Say whether this may surely be set at depth two. Raises TypeError for what can't be written."""
    return _whole(value, 2)


def _put(value: Any) -> bool:
    return type(value) is dict and bool(value) and _map(value, 1)


def _whole(value: Any, depth: int) -> bool:
    """Say whether the value surely may lie so deep, and be written. Raises TypeError for what can't be."""
    if type(value) is dict:
        return depth < DEPTH and _map(value, depth + 1)
    return _value(value, depth) and _writable(value)


def _map(members: Mapping[str, Any], depth: int) -> bool:
    """The same of a map whose members lie so deep. Maps of which the like were met often have a look of their own."""
    size = (len(members), depth)
    for look in _LOOKS.get(size, ()):
        if look(members):
            return True
    if not _members(members, depth) or not _writable(members):
        return False
    if len(members) <= VALUES:
        _meet(members, size)
    return True


def _meet(members: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Count a map that was just found to be sound; where such come often, have a look for the like of it."""
    names = (*members,)
    if len(_MET) >= MET:
        _MET.clear()
    _MET[names] = met = _MET.get(names, 0) + 1
    if met < OFTEN:
        return
    del _MET[names]
    if _values_in(members) <= VALUES:
        from buspass.ports import straight  # noqa: PLC0415 - no cold start waits for it

        looks = _LOOKS.setdefault(size, [])
        if len(looks) >= LOOKS:
            looks.clear()
        looks.insert(0, straight.look(members, _whole, size[1]))


def _values_in(members: Mapping[str, Any]) -> int:
    return sum([_values_in(value) if type(value) is dict else 1 for value in members.values()])


def _changes(update: Update) -> bool:
    """Each path is one, no two overlap, and what is set may be."""
    add, put = update.add, update.set
    others = (*put, *update.remove)
    added = _PLACES[tuple(add)]
    if added is None or len(add) + len(others) > CHANGES:
        return False
    parts, maps = added
    for path in others:
        if type(path) is not tuple or path in add:
            return False
        if SEGMENTS[path] != 2:
            if SEGMENTS[path] != 1 or path[0] in maps:
                return False
        elif path[0] in parts:
            return False
    if len(others) > 1 and (len({*others}) < len(others) or _PLACES[others] is None):
        return False
    for path, value in put.items():
        if type(value) not in SCALARS and (len(path) == 1 or not _value(value, 2)):
            return False
    return not put or _writable([*put.values()])


def _conditions(update: Update) -> bool:
    """Each is well formed, each removed path is required, and one at least is falsified; numbers are what may be."""
    require, add, put = update.require, update.add, update.set
    paths = [*map(_PATH, require)]
    masks = _KINDS[tuple(map(type, require))]
    if masks is None or not {*map(type, paths)} <= _TUPLES or not {*map(_SEGMENTS_OF, paths)} <= _LOOKED_AT:
        return False
    at_least, equals, absent = masks
    numbers = [*add.values(), *map(_VALUE, compress(require, at_least))]
    falsified = False
    same: Any = compress(require, equals)
    for condition in same:
        value = condition.value
        if type(value) is int:
            numbers.append(value)
        elif type(value) is str:
            if not value.isascii():
                return False
        elif type(value) is not bool:
            return False
        falsified = falsified or bool(add.get(condition.path))
    if numbers and not ({*map(type, numbers)} <= _INTEGERS and max(numbers) <= WHOLE >= -min(numbers)):
        return False
    for path in compress(paths, absent):
        falsified = falsified or path in put or path in add
    return falsified if not update.remove else _required(update.remove, paths, absent)


def _required(remove: tuple[Path, ...], paths: list[Path], absent: tuple[bool, ...]) -> bool:
    """Say that the one path which is removed is required: that condition is falsified, then."""
    (gone, *more), length = remove, len(remove[0])
    for path, is_absent in zip(paths, absent, strict=True):
        if path[:length] == gone and not is_absent:
            return not more
    return False


def _value(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in SCALARS:
        return True
    if depth >= DEPTH:
        return False
    if kind is dict:
        return _members(value, depth + 1)
    return kind is list and (not value or all(_value(part, max(2, depth + 1)) for part in value))


def _members(members: Mapping[str, Any], depth: int) -> bool:
    """Names are what they may be, and what nests in the map is sound; what is text or a number, `_writable` says."""
    layout = (*members, *map(type, members.values()), depth <= 2)
    nested = _LAYOUTS.get(layout)
    if nested is None and (nested := _LAYOUTS[layout]) is None:
        return False
    for name in nested:
        part = members[name]
        if type(part) is dict and depth < DEPTH:
            if not _members(part, depth + 1):
                return False
        elif not _value(part, depth):
            return False
    return True


def _writable(value: Any) -> bool:
    """Integers within ±(2⁵³-1) and text without lone surrogates, however deep they lie. Raises TypeError for others."""
    orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    return True
