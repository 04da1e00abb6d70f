"""The text of an item, of which what did not change is not written anew: a head with many calls in flight.

Owns what the entries of an item's large maps were last written as. Refuses to know which maps those are. What it has
stands for one very map and no other: items are values, so nothing in one ever changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from buspass.jsontext import written
from buspass.ports.forms import changed_in
from buspass.ports.state import Item, Prepared, Update

type Place = tuple[str, str]

LARGE: Final = 4096
"""Characters of an item's text from which on its parts are kept: of smaller ones nothing is worth it."""
MANY: Final = 8
"""Entries of a map from which on each is kept by itself."""
KEPT: Final = 64
"""Items whose parts are kept."""


class Part(Struct):
    """A map, and the text of each entry with its name, in the same order."""

    entries: Mapping[str, Any]
    texts: dict[str, str]


class Texts:
    """Writes items, character for character as `written` does."""

    def __init__(self) -> None:
        self._kept: dict[Place, dict[str, Part]] = {}

    def of(self, place: Place, item: Item, before: Item | None, updates: Sequence[Update | Prepared] | None) -> str:
        """Give the text of the item, which is what these updates made of the one before, or new where they are None."""
        parts = self._kept.pop(place, None) if self._kept else None
        if parts is None:
            text = written(item).decode()
        else:
            text = _assembled(item, before if before and updates else {}, updates or (), parts)
        if updates and len(text) >= LARGE:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[place] = parts or {}
        return text


def _assembled(item: Item, before: Item, updates: Sequence[Update | Prepared], parts: dict[str, Part]) -> str:
    """Join what is known, in one go: each copy of a text of 64 calls more costs as much as a commit's own Python."""
    pieces: list[str] = []
    small: dict[str, Any] = {}
    for name, entries in item.items():
        if type(entries) is not dict or len(entries) < MANY:
            small[name] = entries
            continue
        if small:
            pieces.append(_inner(small))
            small = {}
        part = parts.get(name)
        if part is None or part.entries is not before.get(name) or not _followed(part.texts, name, entries, updates):
            part = parts[name] = Part(entries, {each: _inner({each: entry}) for each, entry in entries.items()})
        part.entries = entries
        first, *texts = part.texts.values()
        pieces += [f"{_inner({name: {}})[:-1]}{first}", *texts]
        pieces[-1] += "}"
    if small:
        pieces.append(_inner(small))
    pieces[0] = "{" + pieces[0]
    pieces[-1] += "}"
    return ",".join(pieces)


def _followed(
    texts: dict[str, str], name: str, entries: Mapping[str, Any], updates: Sequence[Update | Prepared]
) -> bool:
    """Have the texts be those of these entries, which the updates left in the map of that name; say whether they are.

    The same changes in the same order leave the same order; what is changed at depth one is no map after it.
    """
    for update in updates:
        made, gone = changed_in(update, name)
        for each in made:
            if each in entries:
                texts[each] = _inner({each: entries[each]})
        for each in gone:
            texts.pop(each, None)
    return len(texts) == len(entries)


def _inner(members: Mapping[str, Any]) -> str:
    """Give the text of a map without its braces."""
    return written(members)[1:-1].decode()
