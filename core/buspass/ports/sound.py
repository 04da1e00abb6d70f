"""The port's rules in one quick look: whether an operation surely keeps all of them.

Owns nothing that `state.check` does not say too, and says "not sure" wherever that must look closer: a call makes three
operations, which nearly always are sound. Refuses to name what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from buspass.ports.operations import (
    CHANGES,
    DEPTH,
    WHOLE,
    Absent,
    AtLeast,
    Condition,
    Equals,
    Operation,
    Put,
    Update,
    segments,
)

_SCALARS: Final = frozenset({str, int, bool, type(None)})
_TUPLES: Final = frozenset({tuple})
_INTEGERS: Final = frozenset({int})
_NAMES: Final = frozenset({str})
_CHANGED: Final = frozenset({1, 2})


def surely(operation: Operation) -> bool:
    """Say whether the operation keeps every rule but those of its key; False where that is not sure."""
    try:
        if type(operation) is Update:
            return not operation.index and _update(operation)
        if type(operation) is Put:
            return not operation.index and not operation.require and _put(operation.value)
    except TypeError:  # what can't be hashed, compared or written
        pass
    return False


def _put(value: Any) -> bool:
    return type(value) is dict and bool(value) and _members(value, 1) and _writable(value)


def _update(update: Update) -> bool:
    add, put, remove = update.add, update.set, update.remove
    paths = [*add, *put, *remove]
    if len(paths) > CHANGES or len({*paths}) < len(paths) or not {*map(type, paths)} <= _TUPLES:
        return False
    if not {*map(segments, paths)} <= _CHANGED:
        return False
    if not {path[0] for path in paths if len(path) == 2}.isdisjoint([path[0] for path in paths if len(path) == 1]):
        return False
    if add and not ({*map(type, add.values())} <= _INTEGERS and max(add.values()) <= WHOLE >= -min(add.values())):
        return False
    for path, value in put.items():
        if not _value(value, len(path)) or (type(value) is dict and len(path) == 1):
            return False
    return (not put or _writable([*put.values()])) and _conditions(update)


def _conditions(update: Update) -> bool:
    """Each is well formed, each removed path is required, and one at least is falsified."""
    falsified, required = False, 0
    for condition in update.require:
        path = condition.path
        if type(path) is not tuple or not 0 < segments(path) <= 3 or not _compares(condition):
            return False
        if type(condition) is Absent:
            falsified = falsified or path in update.set or path in update.add
        else:
            for gone in update.remove:
                if path[: len(gone)] == gone:
                    falsified, required = True, required + 1
            falsified = falsified or (type(condition) is Equals and bool(update.add.get(path)))
    return falsified and (not update.remove or (len(update.remove) == 1 and required > 0))


def _compares(condition: Condition) -> bool:
    if type(condition) is AtLeast:
        return type(condition.value) is int and -WHOLE <= condition.value <= WHOLE
    if type(condition) is Equals:
        value = condition.value
        if type(value) is str:
            return value.isascii()
        return type(value) is bool or (type(value) is int and -WHOLE <= value <= WHOLE)
    return True


def _value(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth >= DEPTH:
        return False
    if kind is dict:
        return _members(value, depth + 1)
    return kind is list and all(_value(part, max(2, depth + 1)) for part in value)


def _members(members: Mapping[str, Any], depth: int) -> bool:
    """Names of the first two levels are segments, deeper ones any text but ''; what is written is text or integers."""
    if depth <= 2:
        if segments(tuple(members)) != len(members):
            return False
    elif not {*map(type, members)} <= _NAMES or "" in members:
        return False
    if {*map(type, members.values())} <= _SCALARS:
        return True
    deep = [part for part in members.values() if type(part) not in _SCALARS]
    return all(_value(part, depth) for part in deep)


def _writable(value: Any) -> bool:
    """Integers within ±(2⁵³-1) and text without lone surrogates, however deep they lie. Raises TypeError for others."""
    orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    return True
