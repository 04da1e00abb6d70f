"""The state port's operations in Cosmos DB's words: documents, filter predicates, patches, queries.

Owns the layout of a document and every text that is sent as code. Refuses to know accounts, connections and retries.

A document is `{id, part, k, v, x}`: the partition, the key, the item, and its index entries as `{NAME: {s, o}}`
(shard and sort; null once withdrawn). Filter predicates take no parameters (learn.microsoft.com/azure/cosmos-db/
partial-document-update), so what enters them is checked here once more: paths by the port's alphabet, numbers by their
type, and a text as a JSON string, whose escapes are those of the query language's own constants.

A patch would take what the port calls a misfit for something else: `incr` makes a number beyond 2⁵³ inexact, and what
a 400 means is not told in a batch. So every update's predicate also says that its changes fit, and who is refused
reads the item to learn why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from buspass.ports.operations import (
    CHANGES,
    WHOLE,
    Absent,
    AtLeast,
    Condition,
    Delete,
    Equals,
    Index,
    Item,
    Ordinary,
    Path,
    Present,
    Put,
    Remembered,
    Update,
    checked_path,
)

type Parameters = list[dict[str, object]]
type Step = tuple[str, tuple[Any, ...], dict[str, Any]]
"""One operation of a batch as the SDK takes it: its name, its arguments, its options."""

LIST: Final = (
    'SELECT c["k"] AS k, c["v"] AS v FROM c '
    'WHERE c["k"] >= @prefix AND c["k"] > @after AND c["k"] < @end ORDER BY c["k"]'
)
INDEXING: Final[Mapping[str, Any]] = {
    "indexingMode": "consistent",
    "includedPaths": [{"path": "/k/?"}, {"path": "/x/*"}],
    "excludedPaths": [{"path": "/*"}],
}
"""The indexing policy that `list` and `find` need, and no more: each indexed path makes every write dearer."""

STEPS: Final = 100
"""Operations in a batch."""
_SAFE: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_AFTER_ALL: Final = "\x7f"  # keys are printable ASCII, so this comes after each of them
_NEVER: Final = "false"


def identity(key: str) -> str:
    """Give the document's id for a key: slash, backslash, ? and # may not be in one; others get lost in addresses."""
    if _SAFE.fullmatch(key) and key.strip("."):
        return key
    return "".join(c if _SAFE.fullmatch(c) and c != "." else f"~{ord(c):02X}" for c in key)


def document(partition: str, put: Put) -> dict[str, Any]:
    """Lay out a new item."""
    entries = {name: entry for name, entry in _entries(put.index).items() if entry is not None}
    return {"id": identity(put.key), "part": partition, "k": put.key, "v": put.value, "x": entries}


def item(found: Mapping[str, Any]) -> Item:
    """Give a document's item. The service holds numbers as doubles: a whole one is an integer again."""
    whole: Item = _whole(found["v"])
    return whole


def steps(partition: str, operation: Ordinary, keep: str | None = None) -> list[Step]:
    """Give the steps of a batch that do this operation, or fail at their first.

    `keep` is a name that the item still has after an update that only removes (see `bare`): without it nothing
    would be left. Raises ValueError where a path is none.
    """
    key = identity(operation.key)
    if isinstance(operation, Put):
        if not operation.require:
            return [("create", (document(partition, operation),), {})]
        new = document(partition, operation)
        changes = [{"op": "set", "path": f"/{name}", "value": new[name]} for name in ("v", "x")]
        return [("patch", (key, changes), {"filter_predicate": predicate(operation.require)})]
    if isinstance(operation, Delete):
        delete: Step = ("delete", (key,), {})
        if not operation.require:
            return [delete]
        mark = [{"op": "set", "path": "/gone", "value": True}]  # a delete takes no predicate: a patch before it does
        return [("patch", (key, mark), {"filter_predicate": predicate(operation.require)}), delete]
    guards = [*_fits(operation), *([_there((keep,)) if keep else _NEVER] if bare(operation) else [])]
    patches = [*_patches(operation)]
    first, *more = [patches[start : start + CHANGES] for start in range(0, len(patches), CHANGES)]
    conditional: Step = ("patch", (key, first), {"filter_predicate": predicate(operation.require, guards)})
    return [conditional, *(("patch", (key, rest), {}) for rest in more)]


def fitting(operations: Sequence[Ordinary]) -> int:
    """Give how many of the first operations go in one batch: at least one."""
    steps = 0
    for count, operation in enumerate(operations):
        steps += _weight(operation)
        if steps > STEPS:
            return max(count, 1)
    return len(operations)


def operation_at(operations: Sequence[Ordinary], step: int) -> int:
    """Give which operation a step of their batch belongs to."""
    for index, operation in enumerate(operations):
        step -= _weight(operation)
        if step < 0:
            return index
    raise LookupError(step)


def _weight(operation: Ordinary) -> int:
    """Give how many steps `steps` makes of it."""
    if isinstance(operation, Update):
        changes = len(operation.add) + len(operation.set) + len(operation.remove) + len(operation.index)
        return -(-changes // CHANGES)
    return 2 if isinstance(operation, Delete) and operation.require else 1


def bare(operation: Ordinary) -> bool:
    """Say whether an update only removes names of the first level, so that nothing might be left of the item."""
    return (
        isinstance(operation, Update)
        and not operation.add
        and not operation.set
        and all(len(path) == 1 for path in operation.remove)
    )


def predicate(conditions: Sequence[Condition], guards: Sequence[str] = ()) -> str:
    """Give a patch's filter predicate. Raises ValueError for what must not enter it."""
    return "FROM c WHERE " + " AND ".join([*(_clause(condition) for condition in conditions), *guards])


def listing(prefix: str, after: str) -> Parameters:
    """Give the parameters of LIST."""
    return _parameters(prefix=prefix, after=after, end=prefix + _AFTER_ALL)


def finding(index: str, shard: str, until: str) -> tuple[str, Parameters]:
    """Give the query of `find` and its parameters. A name of an index can't be a parameter: it is checked."""
    checked_path((index,), 1, "an index")
    entry = f'c["x"][{json.dumps(index)}]'
    text = (  # the name was checked, the rest are parameters
        f'SELECT c["part"] AS p, c["k"] AS k, {entry}["o"] AS o FROM c '  # noqa: S608
        f'WHERE {entry}["s"] = @shard AND {entry}["o"] <= @until ORDER BY {entry}["o"]'
    )
    return text, _parameters(shard=shard, until=until)


def _parameters(**values: str) -> Parameters:
    return [{"name": f"@{name}", "value": value} for name, value in values.items()]


def _clause(condition: Condition) -> str:
    place = _PLACE[condition.path]
    match condition:
        case Present():
            return f"IS_DEFINED({place})"
        case Absent():
            return f"NOT IS_DEFINED({place})"
        case Equals(_, value):
            return f"{place} = {_literal(value)}"
        case AtLeast(_, value):
            return f"{place} >= {_literal(value)}"


def _fits(update: Update) -> Iterator[str]:
    """Yield what must be true of an item so that the update's changes fit it."""
    parents = dict.fromkeys(path[:1] for path in (*update.add, *update.set, *update.remove) if len(path) == 2)
    for parent in parents:
        yield f"IS_OBJECT({_PLACE[parent]})"
    for path, amount in update.add.items():
        place = _PLACE[path]
        bound = f" AND {place} <= {WHOLE - amount}" if amount > 0 else ""
        bound = f" AND {place} >= {-WHOLE - amount}" if amount < 0 else bound
        yield f"(NOT IS_DEFINED({place}) OR (IS_NUMBER({place}){bound}))"


def _patches(update: Update) -> Iterator[dict[str, Any]]:
    for path, amount in update.add.items():
        yield {"op": "incr", "path": _pointer(path), "value": amount}
    for path, value in update.set.items():
        yield {"op": "set", "path": _pointer(path), "value": value}
    for path in update.remove:
        yield {"op": "remove", "path": _pointer(path)}
    for name, entry in _entries(update.index).items():
        yield {"op": "set", "path": f"/x/{name}", "value": entry}  # null, as removing what isn't there is an error


def _entries(index: Index) -> dict[str, dict[str, str] | None]:
    for name in index:
        checked_path((name,), 1, "an index")
    return {name: entry and {"s": entry[0], "o": entry[1]} for name, entry in index.items()}


def _pointer(path: Path) -> str:
    return "/v/" + "/".join(checked_path(path, 2, "a change"))  # neither / nor ~ is in a segment: nothing to escape


def _written(path: Path) -> str:
    return 'c["v"]' + "".join([f'["{segment}"]' for segment in checked_path(path, 3, "a place")])


_PLACE: Final = Remembered(_written)
"""Where a part of the item lies, as a query names it: the port's alphabet has nothing that a query would read."""


def _there(path: Path) -> str:
    return f"IS_DEFINED({_PLACE[path]})"


def _literal(value: object) -> str:
    if type(value) is int and -WHOLE <= value <= WHOLE:
        return str(value)
    if type(value) not in (str, bool):
        raise ValueError(f"{value!r}: only strings, booleans and integers within ±(2⁵³-1) enter a predicate")
    return json.dumps(value, ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, list) else value
