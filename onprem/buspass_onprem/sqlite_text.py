"""The text of an item, of which what did not change is not written anew: a head with many calls in flight.

Owns the sheet, a large item's text with room in it, and which bytes of it changed. Refuses to know what the maps are
for, and how bytes reach the file. A sheet stands for one very item and no other: items are values, so nothing in one
ever changes, and whoever reads the file sees JSON with blanks in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct, field

from buspass.jsontext import written
from buspass.ports.forms import VARIES, changed_in
from buspass.ports.state import Item, Prepared, Update

type Place = tuple[str, str]
type Updates = Sequence[Update | Prepared] | None
type Range = tuple[int, int]

LARGE: Final = 2048
"""Bytes of an item's text from which on it is worth a sheet."""
MANY: Final = 8
"""Entries of a map from which on each has a place of its own."""
KEPT: Final = 64
"""Items whose sheets are kept, those written last."""
STEP: Final = 32
"""Places are multiples of it wide, so that what one entry leaves another finds large enough."""
SPARE: Final = 96
"""Bytes left for the rest of the item to grow by: counters gain digits."""
PAGE: Final = 4092
"""Bytes of a row that each of its overflow pages takes, of pages as SQLite makes them."""
OWN: Final = 4032
"""Bytes that its own page takes where those over fill whole ones: part, key and the text's beginning."""
_ITS_SEGMENT: Final = (VARIES,)


class Area(Struct):
    """A large map's part of a text. Each entry has a place (position, width), with its comma; what is free is blank."""

    name: str
    fresh: int
    """From here on nothing was ever written."""
    end: int
    first: int = 0
    """The place of the entry that has no comma."""
    used: int = 0
    places: dict[str, Range] = field(default_factory=dict)
    free: dict[int, list[int]] = field(default_factory=dict)

    def found(self, width: int) -> Range | None:
        """Take a place of this width, or one a step wider."""
        for each in (width, width + STEP):
            if self.free.get(each):
                return self.free[each].pop(), each
        at = self.fresh
        if at + width > self.end:
            return None
        self.fresh = at + width
        return at, width


class Sheet(Struct):
    """An item's text as the file has it, in UTF-8: what lies outside of large maps, with blanks; then the areas."""

    item: Item
    text: bytearray
    rest: int
    """So many bytes are for what lies outside of the areas."""
    areas: list[Area]
    row: int = 0
    """The number of its row in the file, once it was asked for."""

    def follow(self, item: Item, updates: Sequence[Update | Prepared]) -> list[Range] | None:
        """Become the text of what these updates made of the item; give the ranges that changed.

        None where it has no room, or far too much: nothing of the sheet is worth anything then.
        """
        rest = dict(item)
        changed: list[Range] = []
        for area in self.areas:
            entries = rest.pop(area.name, None)
            if type(entries) is not dict:
                return None
            if entries is not self.item[area.name] and not self._follow(area, entries, updates, changed):
                return None
        head = _opened(rest)
        if len(head) > self.rest or sum([area.used for area in self.areas]) * 8 < len(self.text):
            return None
        self.text[: self.rest] = head.ljust(self.rest)
        self.item = item
        if len(changed) * PAGE > 2 * len(self.text):  # two a page: hardly any is left as it was
            return [(0, len(self.text))]
        return _joined([(0, self.rest), *changed])

    def _follow(
        self, area: Area, entries: dict[str, Any], updates: Sequence[Update | Prepared], changed: list[Range]
    ) -> bool:
        for name in _touched(updates, area.name):
            if name not in entries:
                if name in area.places:
                    self._leave(area, name, changed)
            elif not self._stays(area, name, entries[name], changed):
                return False
        return len(area.places) == len(entries)

    def _stays(self, area: Area, name: str, entry: Any, changed: list[Range]) -> bool:
        """Write the entry where it was, or else where there is room; say whether there is."""
        text = _entry(name, entry)
        if name in area.places:
            at, width = area.places[name]
            if len(text) < width:
                self.text[at + 1 : at + width] = text.ljust(width - 1)
                changed.append((at, at + width))
                return True
            self._leave(area, name, changed)
        return self._enter(area, name, text, changed)

    def _enter(self, area: Area, name: str, text: bytes, changed: list[Range]) -> bool:
        place = area.found(-(-(len(text) + 1) // STEP) * STEP)
        if place is None:
            return False
        at, width = area.places[name] = place
        area.used += width
        if at > area.first and len(area.places) > 1:
            self.text[at : at + width] = b"," + text.ljust(width - 1)
        else:
            if len(area.places) > 1:
                self.text[area.first] = 44  # a comma
                changed.append((area.first, area.first + 1))
            area.first = at
            self.text[at : at + width] = b" " + text.ljust(width - 1)
        changed.append((at, at + width))
        return True

    def _leave(self, area: Area, name: str, changed: list[Range]) -> None:
        at, width = area.places.pop(name)
        self.text[at : at + width] = b" " * width
        changed.append((at, at + width))
        area.free.setdefault(width, []).append(at)
        area.used -= width
        if at == area.first and area.places:
            area.first, _ = min(area.places.values())
            self.text[area.first] = 32  # a blank
            changed.append((area.first, area.first + 1))


class Texts:
    """Writes items, so that they are read as they are."""

    def __init__(self) -> None:
        self._kept: dict[Place, Sheet | Item] = {}
        """The sheets of items; of those that were large once, the item itself."""

    def changed(self, place: Place, item: Item, before: Item, updates: Updates) -> tuple[Sheet, list[Range]] | None:
        """Give the item's sheet and what of it has to be written, or None where it has to be written as a whole."""
        sheet = self._kept.get(place) if self._kept else None
        if type(sheet) is not Sheet or sheet.item is not before or not updates:
            return None
        ranges = sheet.follow(item, updates)
        if ranges is None:
            self._kept[place] = before  # so that it is laid out anew
            return None
        self._kept[place] = self._kept.pop(place)
        return sheet, ranges

    def whole(self, place: Place, item: Item, before: Item, updates: Updates) -> str:
        """Give the whole text. An item that is large twice, and nobody else wrote meanwhile, gets a sheet."""
        text = written(item)
        kept = self._kept.pop(place, None) if self._kept else None
        if updates and len(text) >= LARGE:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            sheet = laid_out(item, OWN - len("".join(place))) if kept is before else None
            self._kept[place] = sheet or item
            if sheet is not None:
                return sheet.text.decode()
        return text.decode()

    def forget(self, place: Place) -> None:
        """The file has not what was written."""
        self._kept.pop(place, None)


def laid_out(item: Item, own: int) -> Sheet | None:
    """Make a sheet of whole pages (`own` bytes, and PAGE each) with room for a quarter more entries.

    None where no map is large.
    """
    large = {name: each for name, each in item.items() if type(each) is dict and len(each) >= MANY}
    if not large:
        return None
    head = _opened({name: each for name, each in item.items() if name not in large})
    sheet = Sheet(item, bytearray(), len(head) + SPARE, [])
    sheet.text += head.ljust(sheet.rest)
    for name, entries in large.items():
        sheet.text += b"%b:{" % written(name)
        texts = [_entry(each, entry) for each, entry in entries.items()]
        room = sum([_width(text) for text in texts]) * 5 // 4
        if len(sheet.areas) == len(large) - 1:
            room += (own - len(sheet.text) - room) % PAGE
        at = len(sheet.text)
        area = Area(name, at, at + room)
        sheet.areas.append(area)
        sheet.text += b" " * room + b"},"
        for each, text in zip(entries, texts, strict=True):
            sheet._enter(area, each, text, [])  # noqa: SLF001
    sheet.text[-1:] = b"}"
    return sheet


def _opened(rest: dict[str, Any]) -> bytes:
    """Give the text of what is outside of areas, as far as the first of them."""
    return written(rest)[:-1] + b"," if rest else b"{"


def _touched(updates: Sequence[Update | Prepared], name: str) -> dict[str, None]:
    """Name what the updates change in the map of that name."""
    touched: dict[str, None] = {}
    for update in updates:
        if type(update) is Prepared and update.form.within.get(name) == _ITS_SEGMENT:  # a call in flight
            touched[update.segment] = None
        else:
            touched.update(dict.fromkeys(changed_in(update, name)))
    return touched


def _entry(name: str, entry: Any) -> bytes:
    return written({name: entry})[1:-1]


def _width(text: bytes) -> int:
    """Give the width of the place that an entry's text needs, with its comma."""
    return -(-(len(text) + 1) // STEP) * STEP


def _joined(ranges: list[Range]) -> list[Range]:
    """Sort them, and join what has less than a page between: no page is written for that which is not anyway."""
    ranges.sort()
    joined = [ranges[0]]
    for start, end in ranges:
        before, until = joined[-1]
        if start - until < PAGE:
            joined[-1] = before, max(until, end)
        else:
            joined.append((start, end))
    return joined
