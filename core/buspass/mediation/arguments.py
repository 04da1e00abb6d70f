"""Which properties of a tool may get a person's data: its JSON Schema says so, by `x-buspass-personal: [class]`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from buspass.mediation.placeholders import Placeholders

MARK: Final = "x-buspass-personal"
BRANCHES: Final = ("allOf", "anyOf", "oneOf")


def restore_arguments(
    schema: Mapping[str, Any], arguments: Any, placeholders: Placeholders, classes: Collection[str] | None = None
) -> Any:
    """The arguments with values in place of placeholders, at marked properties only and of the marked classes only.

    `classes` narrows further (`personal_data.to_tools` of the workflow). Follows `properties`, `items`, `prefixItems`,
    `additionalProperties`, `allOf`, `anyOf`, `oneOf` and `$ref` within the schema. A mark holds for the strings at
    its own place and in the items of a list there, not for properties below. `arguments` is not changed.
    """
    return _restored([schema], arguments, _Restoring(schema, placeholders, classes), frozenset())


class _Restoring:
    """What stays the same on the way down."""

    def __init__(self, root: Mapping[str, Any], placeholders: Placeholders, classes: Collection[str] | None) -> None:
        self.root = root
        self._placeholders = placeholders
        self._classes = classes

    def text(self, text: str, marked: frozenset[str]) -> str:
        return self._placeholders.restore(text, marked if self._classes is None else marked & set(self._classes))


def _restored(schemas: list[Any], value: Any, restoring: _Restoring, inherited: frozenset[str]) -> Any:
    every = [schema for one in schemas for schema in _flat(one, restoring.root, set())]
    marked = inherited.union(*(_marked(schema) for schema in every))
    match value:
        case str():
            return restoring.text(value, marked)
        case dict():
            return {
                name: _restored(list(_properties(every, name)), part, restoring, frozenset())
                for name, part in value.items()
            }
        case list():
            return [_restored(list(_items(every, index)), part, restoring, marked) for index, part in enumerate(value)]
        case _:
            return value


def _marked(schema: Mapping[str, Any]) -> frozenset[str]:
    classes = schema.get(MARK)
    return frozenset(filter(lambda name: isinstance(name, str), classes)) if isinstance(classes, list) else frozenset()


def _flat(schema: Any, root: Mapping[str, Any], seen: set[str]) -> Iterator[Mapping[str, Any]]:
    """A schema with its branches and what it refers to; each reference once, for they may be circular."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for keyword in BRANCHES:
        for branch in schema.get(keyword) or ():
            yield from _flat(branch, root, seen)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        seen.add(reference)
        yield from _flat(_referred(root, reference), root, seen)


def _referred(root: Mapping[str, Any], reference: str) -> Any:
    """RFC 6901 within the schema; nothing for what lies outside or is missing: nothing is restored there."""
    place: Any = root
    if not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _properties(schemas: list[Mapping[str, Any]], name: str) -> Iterator[Any]:
    for schema in schemas:
        properties = schema.get("properties") or {}
        yield properties[name] if name in properties else schema.get("additionalProperties")


def _items(schemas: list[Mapping[str, Any]], index: int) -> Iterator[Any]:
    for schema in schemas:
        first = schema.get("prefixItems") or []
        yield first[index] if index < len(first) else schema.get("items")
