"""The port's operations in DynamoDB's words: attribute values, condition and update expressions.

Owns the codec and the translation. Refuses to know a network, and what an error means. No number is ever a Decimal or a
float: the port has integers, and DynamoDB's wire has them as text.

An expression asks more than the port's conditions: also that the change fits its item (a map to lie in, an integer to
add to that stays within ±(2⁵³-1), something left of the item). So what does not fit is refused as one step with the
conditions, and the item that comes back with the refusal says which of the two it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.ports.state import (
    INDEXES,
    WHOLE,
    Absent,
    AtLeast,
    Delete,
    Equals,
    Index,
    Item,
    Ordinary,
    Path,
    Present,
    Put,
    Update,
    Value,
)
from buspass_aws.dynamodb_table import ITEM, KEY, PARTITION, shard_of, sort_of

type Attribute = dict[str, Any]

LONGEST: Final = 4096
"""Bytes of an expression that DynamoDB takes."""
_END: Final = "\x1f"
"""Between the parts of an index's sort: below every character that a part may have, so that parts sort as such."""


def encoded(value: Value) -> Attribute:
    """Give DynamoDB's form of a value."""
    match value:  # the commonest first
        case str():
            return {"S": value}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case None:
            return {"NULL": True}
        case list():
            return {"L": [encoded(part) for part in value]}
        case _:
            return {"M": {name: encoded(part) for name, part in value.items()}}


def decoded(attribute: Attribute) -> Any:
    """Give the value of DynamoDB's form. Raises ValueError for one that Buspass never wrote."""
    ((kind, value),) = attribute.items()
    if kind == "M":
        members: dict[str, Any] = {}
        for name, part in value.items():  # most members are text or numbers, which need no call each
            if "N" in part:
                members[name] = int(part["N"])
            elif "S" in part:
                members[name] = part["S"]
            else:
                members[name] = decoded(part)
        return members
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return int(value)
        case "L":
            return [decoded(part) for part in value]
        case "NULL":
            return None
    raise ValueError(f"an attribute of type {kind}, which Buspass never writes")


def item_of(row: Mapping[str, Attribute] | None) -> Item | None:
    """Give the item of a row, or None. Raises ValueError for a row that is not ours."""
    if not row:
        return None
    if ITEM not in row:
        raise ValueError(f"a row without {ITEM!r}, which Buspass never writes")
    item: Item = decoded(row[ITEM])
    return item


def place(partition: str, key: str) -> dict[str, Attribute]:
    """Give the primary key of a row."""
    return {PARTITION: {"S": partition}, KEY: {"S": key}}


def sort_value(sort: str, partition: str, key: str) -> Attribute:
    """Give an entry's sort attribute: entries of one sort come in the order of their partitions and keys."""
    return {"S": f"{sort}{_END}{partition}{_END}{key}"}


def sort_bound(until: str) -> Attribute:
    """Give what every entry's attribute with sort ≤ `until` is below, and no other."""
    return {"S": f"{until}{_END}\x7f"}


def request(table: str, partition: str, operation: Ordinary) -> tuple[str, dict[str, Any]]:
    """Give the action and the body that carry out this operation. Raises ValueError for what DynamoDB can't carry."""
    text = _Expression()
    where = place(partition, operation.key)
    body: dict[str, Any] = {
        "TableName": table,
        "ConditionExpression": text.conditions(operation),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    match operation:
        case Put():
            action = "PutItem"
            body["Item"] = {
                **where,
                ITEM: encoded(operation.value),
                **_entries(operation.index, partition, operation.key),
            }
        case Update():
            action = "UpdateItem"
            body |= {"Key": where, "UpdateExpression": text.changes(operation, partition), "ReturnValues": "ALL_NEW"}
        case Delete():
            action = "DeleteItem"
            body["Key"] = where
    if text.names:
        body["ExpressionAttributeNames"] = {alias: name for name, alias in text.names.items()}
    if text.values:
        body["ExpressionAttributeValues"] = text.values
    for name in ("ConditionExpression", "UpdateExpression"):
        if len(body.get(name, "")) > LONGEST:
            raise ValueError(f"operation on {operation.key!r}: more conditions or changes than DynamoDB takes in one")
    return action, body


def check_index(name: str) -> None:
    """Raise ValueError unless the table has this index."""
    if name not in INDEXES:
        raise ValueError(f"index {name!r}: allowed are {', '.join(INDEXES)} (operations.INDEXES)")


def _entries(index: Index, partition: str, key: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for name, entry in index.items():
        if entry is not None:
            shard, sort = entry
            found |= {shard_of(name): {"S": shard}, sort_of(name): sort_value(sort, partition, key)}
    return found


class _Expression:
    """The expressions of one request. Every name is an alias (`#0`): segments hold dots, colons and reserved words."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Attribute] = {}
        self._paths: dict[Path, str] = {}
        self._numbers: dict[int, str] = {}

    def conditions(self, operation: Ordinary) -> str:
        require = operation.require
        if not require and isinstance(operation, Put):
            return f"attribute_not_exists({PARTITION})"
        parts = [f"attribute_exists({PARTITION})"]
        for condition in require:
            at = self._path(condition.path)
            match condition:
                case AtLeast(_, value):
                    parts.append(f"{at} >= {self._number(value)}")
                case Equals(_, value):
                    same = self._number(value) if type(value) is int else self._value(encoded(value))
                    parts.append(f"{at} = {same}")
                case Absent():
                    parts.append(f"attribute_not_exists({at})")
                case Present():
                    parts.append(f"attribute_exists({at})")
        if isinstance(operation, Update):
            self._fits(operation, parts)
        return " AND ".join(parts)

    def changes(self, update: Update, partition: str) -> str:
        sets = [f"{self._path(path)} = {self._value(encoded(value))}" for path, value in update.set.items()]
        if update.add:
            zero = self._number(0)
            for path, amount in update.add.items():
                at = self._path(path)
                sets.append(f"{at} = if_not_exists({at}, {zero}) + {self._number(amount)}")
        removes = [self._path(path) for path in update.remove]
        for name, attribute in _entries(update.index, partition, update.key).items():
            sets.append(f"{self._name(name)} = {self._value(attribute)}")
        for name, entry in update.index.items():
            if entry is None:
                removes += [self._name(shard_of(name)), self._name(sort_of(name))]
        clauses = [f"SET {', '.join(sets)}" if sets else "", f"REMOVE {', '.join(removes)}" if removes else ""]
        return " ".join(filter(None, clauses))

    def _fits(self, update: Update, parts: list[str]) -> None:
        paths = [*update.add, *update.set, *update.remove]
        parents = dict.fromkeys([path[:1] for path in paths if len(path) > 1])
        if parents:
            map_ = self._value({"S": "M"})
            parts += [f"attribute_type({self._path(parent)}, {map_})" for parent in parents]
        for path, amount in update.add.items():
            at = self._path(path)
            # What is there lies within, so one side alone can be left; and only a number compares with a number.
            side = f">= {self._number(-WHOLE - amount)}" if amount < 0 else f"<= {self._number(WHOLE - amount)}"
            parts.append(f"(attribute_not_exists({at}) OR {at} {side})")
        if len(update.remove) == len(paths) and all(len(path) == 1 for path in paths):
            parts.append(f"size({self._name(ITEM)}) > {self._number(len(paths))}")

    def _path(self, path: Path) -> str:
        known = self._paths.get(path)
        if known is None:
            known = self._name(ITEM)
            for name in path:
                known += f".{self._name(name)}"
            self._paths[path] = known
        return known

    def _name(self, name: str) -> str:
        alias = self.names.get(name)
        if alias is None:
            alias = self.names[name] = f"#{len(self.names)}"
        return alias

    def _number(self, number: int) -> str:
        alias = self._numbers.get(number)
        if alias is None:
            alias = self._numbers[number] = self._value({"N": str(number)})
        return alias

    def _value(self, attribute: Attribute) -> str:
        alias = f":{len(self.values)}"
        self.values[alias] = attribute
        return alias
