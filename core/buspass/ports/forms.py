"""Operations of one form: an update whose shape is proven against the port's rules once, a call's only by its values.

Owns forms, the operations made of them, and what any operation means on an item in hand. Refuses to know what a form is
for. Each such operation stands for an ordinary update, which is what stores without forms take (`plain`), and what is
asked here too wherever the item is not just as a form expects it: who is refused, and why a change does not fit, has
one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, final

from msgspec import Struct

from buspass.ports import operations as ordinary
from buspass.ports.operations import (
    WHOLE,
    Absent,
    AtLeast,
    Equals,
    Item,
    Ordinary,
    Path,
    Update,
    Value,
    is_name,
    is_segment,
)
from buspass.ports.sound import SCALARS, surely, surely_set

type Sound = Callable[[str, tuple[Any, ...]], bool]
"""(segment, given): surely sound. Raises TypeError for what can't be written."""
type Judge = Callable[[Any, str, tuple[Any, ...]], Any]
"""(item, segment, given): the new item, None where it is refused, or CLOSER."""

CLOSER: Final = object()
"""What a judge gives of an item that is not just as the form expects it."""
WRITTEN: Final = 16
"""So many operations are made of a form before it is written out (`straight`): a cold start needs none of that."""
LEAST: Final = -WHOLE
VARIES: Final = "*"
"""In a form's paths, the one segment that each operation gives: no segment is it."""


class Given(int):
    """In a form, in place of a condition's value, an amount or what is set: the given one of that index, from 0.

    `-Given(n)` is an amount: the negative of that number.
    """

    __slots__ = ()

    def __neg__(self) -> Given:
        return Given(~int(self))


class Form:
    """The shape of an update, in flat tuples. `specimen` has VARIES and Given where operations differ.

    What is set may be a map of maps with Given in it: its names and whatever else lies there are of the form, and what
    is given there is no map and no list.

    Raises ValueError for what is not surely sound whatever is given. So it has to falsify itself by its paths alone: it
    removes what it requires, or makes what it requires to be absent. What is set, removed or required to be absent lies
    at depth two. VARIES is the second segment of a path, of none that is added to or compared, and nothing else is
    changed in the map where it is.
    """

    def __init__(self, specimen: Update) -> None:
        self.key = specimen.key
        compared = _compared(specimen)
        self.numbers = _given([each.value for each in compared if isinstance(each, AtLeast)] + [*specimen.add.values()])
        self.equal = _given([each.value for each in compared if isinstance(each, Equals)])
        self.parts = _given(specimen.set.values())
        self.leaves = [place for place in _given(_leaves(specimen)) if place not in self.numbers]
        self.size = 1 + max([*self.numbers, *self.equal, *self.parts, *self.leaves], default=-1)
        constants: list[Any] = []

        def place(value: Any) -> int:
            if type(value) is Given:
                return _index(value)
            constants.append(value)
            return self.size + len(constants) - 1

        require: list[tuple[Any, Any, Path, Any]] = [
            (each, type(each), each.path, place(each.value) if isinstance(each, AtLeast | Equals) else None)
            for each in specimen.require
        ]
        self._require = tuple(
            [
                (each if VARIES not in path and (at is None or at >= self.size) else None, kind, path, at)
                for each, kind, path, at in require
            ]
        )
        self._add = tuple(
            [(path, place(amount), type(amount) is Given and amount < 0) for path, amount in specimen.add.items()]
        )
        self._set = tuple(specimen.set.items())
        self._remove = specimen.remove
        self.constants = tuple(constants)
        self.absent = tuple([_names(path) for _, kind, path, _ in require if kind is Absent])
        self.compared = _by_map(require)
        self.changes = self._by_holder(specimen)
        self.within = {
            first: (*(name for name, _ in sets), *(name for name, _, _ in adds), *gone)
            for first, sets, adds, gone in self.changes
        }
        self.sound: Sound = self._counted
        self.judge: Judge = _closer
        self._left = WRITTEN
        if not _by_its_paths(specimen) or not surely(self.update("a", tuple(range(1, self.size + 1)))):
            raise ValueError(f"no form: {specimen!r} is not sound whatever is given")

    def _by_holder(self, specimen: Update) -> tuple[Any, ...]:
        """Give by map what is set, added to and removed in it; None is the item itself."""
        return tuple(
            [
                (
                    holder[0] if holder else None,
                    tuple([(_names(path)[-1], part) for path, part in self._set if path[:-1] == holder]),
                    tuple([(path[-1], at, less) for path, at, less in self._add if path[:-1] == holder]),
                    tuple([_names(path)[-1] for path in specimen.remove if path[:-1] == holder]),
                )
                for holder in dict.fromkeys([path[:-1] for path in _changed(specimen)])
            ]
        )

    def of(self, segment: str, given: tuple[Any, ...]) -> Prepared | Update:
        """Make an operation; an ordinary update where what is given is not surely sound, for `check` to look closer.

        Raises ValueError where an amount is no number.
        """
        try:
            return Prepared(self.key, self, segment, given)
        except (ValueError, TypeError):
            return self.update(segment, given)

    def surely(self, segment: Any, given: Any) -> bool:
        """Say whether segment and values are surely sound. Raises TypeError for what can't be written."""
        good = type(given) is tuple and len(given) == self.size and is_segment(segment)
        for place in self.numbers if good else ():
            number = given[place]
            good = good and type(number) is int and LEAST <= number <= WHOLE
        for place in self.equal if good else ():
            good = good and _comparable(given[place])
        for place in self.parts if good else ():
            good = good and surely_set(given[place])
        for place in self.leaves if good else ():
            good = good and _leaf(given[place])
        return good

    def _counted(self, segment: str, given: tuple[Any, ...]) -> bool:
        self._left -= 1
        if not self._left:
            self.write()
        return self.surely(segment, given)

    def write(self) -> None:
        """Have what is asked at each call, and what is done, as straight-line Python from here on."""
        from buspass.ports import straight  # noqa: PLC0415 - no cold start waits for it

        self.sound = straight.sound(self, _comparable, surely_set, _leaf)
        self.judge = straight.judge(self)

    def update(self, segment: str, given: tuple[Any, ...]) -> Update:
        """Give the ordinary update of the same meaning. Raises ValueError where an amount is no number."""
        values: Any = given + self.constants

        def path(of: Path) -> Path:
            return tuple([segment if each == VARIES else each for each in of]) if VARIES in of else of

        require: list[Any] = [
            each or (kind(path(where)) if at is None else kind(path(where), values[at]))
            for each, kind, where, at in self._require
        ]
        try:
            add = {where: -values[at] if less else values[at] for where, at, less in self._add}
        except TypeError as error:
            raise ValueError(f"added to {self.key!r}: {error}; allowed are integers") from error
        put = {path(where): filled(part, given) for where, part in self._set}
        return Update(self.key, tuple(require), add, put, tuple([path(where) for where in self._remove]))


@final
class Prepared(Struct, frozen=True):
    """An update of this form: what was given is surely sound, or it can't be made (ValueError, TypeError)."""

    key: str
    form: Form
    segment: str
    given: tuple[Any, ...]

    def __post_init__(self) -> None:
        form = self.form
        if self.key != form.key or not form.sound(self.segment, self.given):
            raise ValueError(f"{self.key!r}, {self.segment!r}, {self.given!r}: not surely sound")

    @property
    def update(self) -> Update:
        """The ordinary update of the same meaning."""
        return self.form.update(self.segment, self.given)


type Operation = Ordinary | Prepared


def plain[O: Ordinary](operation: O | Prepared) -> O | Update:
    """Give the operation as one of the ordinary ones."""
    return operation.update if isinstance(operation, Prepared) else operation


def accepts(operation: Operation, item: Item | None) -> bool:
    """Say whether the operation may be applied to what is there: an item, or None."""
    if not isinstance(operation, Prepared) or item is None:
        return ordinary.accepts(plain(operation), item)
    form, segment = operation.form, operation.segment
    values = operation.given + form.constants
    for path, least, same in form.compared:
        holder = _map_at(item, path, segment) if path else item
        if type(holder) is not dict:
            return ordinary.accepts(operation.update, item)
        find = holder.get
        for name, place in least:
            found = find(name)
            if type(found) is not int or found < values[place]:
                return False
        for name, place in same:
            found, value = find(name), values[place]
            if type(found) is not type(value) or found != value:
                return False
    for first, name in form.absent:
        entries = item.get(first)
        if type(entries) is not dict or (segment if name is VARIES else name) in entries:
            return ordinary.accepts(operation.update, item)
    return True


def _map_at(item: Any, path: Path, segment: str) -> Any:
    for name in path:
        if type(item) is not dict:
            return None
        item = item.get(segment if name is VARIES else name)
    return item


def changed(update: Update | Prepared, item: Item, index: int = 0) -> dict[str, Value]:
    """Give the item as the update makes it; `item` stays as it was. Raises Misfit(index)."""
    if not isinstance(update, Prepared):
        return ordinary.changed(update, item, index)
    form, segment = update.form, update.segment
    values = update.given + form.constants
    new: dict[str, Any] = dict(item)
    for first, sets, adds, gone in form.changes:
        holder = new
        if first is not None:
            there = new.get(first)
            if type(there) is not dict:
                return ordinary.changed(update.update, item, index)
            holder = new[first] = dict(there)
        for name, part in sets:
            holder[segment if name is VARIES else name] = filled(part, update.given)
        for name, place, less in adds:
            total = holder.get(name, 0)
            if type(total) is not int:
                return ordinary.changed(update.update, item, index)
            total = total - values[place] if less else total + values[place]
            if total > WHOLE or total < LEAST:
                return ordinary.changed(update.update, item, index)
            holder[name] = total
        for name in gone:
            del holder[segment if name is VARIES else name]
    return new


def judged(update: Update | Prepared, item: Item | None, index: int = 0) -> dict[str, Value] | None:
    """Give the item as the update makes it, or None where it may not be applied to what is there. Raises Misfit(index).

    The same as `accepts` and then `changed`.
    """
    if isinstance(update, Prepared):
        new: dict[str, Value] | None = update.form.judge(item, update.segment, update.given)
        if new is not CLOSER:
            return new
    return changed(update, item, index) if item is not None and accepts(update, item) else None


def filled(part: Any, given: tuple[Any, ...]) -> Any:
    """Give what a form sets, with what is given in its place."""
    if type(part) is Given:
        return given[part]
    return {name: filled(each, given) for name, each in part.items()} if type(part) is dict else part


def changed_in(update: Update | Prepared, name: str) -> list[str]:
    """Name what the update sets, adds to or removes in the map of that name."""
    if not isinstance(update, Prepared):
        return [path[1] for path in _changed(update) if len(path) == 2 and path[0] == name]
    segment = update.segment
    return [segment if each is VARIES else each for each in update.form.within.get(name, ())]


# ── making a form ───────────────────────────────────────────────────────────────────────────────────────────────────


def _by_its_paths(specimen: Update) -> bool:
    """Say whether it falsifies itself whatever is given, and no given segment can make two of its changes meet."""
    changes = _changed(specimen)
    absent = [each.path for each in specimen.require if isinstance(each, Absent)]
    maps = [path[0] for path in changes]
    values = [*(each.value for each in _compared(specimen)), *specimen.set.values(), *_leaves(specimen)]
    paths = [*changes, *(each.path for each in specimen.require)]
    return (
        (bool(specimen.remove) or not {*absent}.isdisjoint([*specimen.set, *specimen.add]))
        and all(VARIES not in (*path[:1], *path[2:]) for path in paths)
        and all(maps.count(path[0]) == 1 for path in changes if VARIES in path)
        and not any(VARIES in path for path in specimen.add)
        and not any(each.path[-1] == VARIES for each in _compared(specimen))
        and all(len(path) == 2 for path in (*absent, *specimen.set, *specimen.remove))
        and all(isinstance(each, Absent | AtLeast | Equals) for each in specimen.require)
        and not any(type(value) is Given and value < 0 for value in values)
        and not specimen.index
        and is_name(specimen.key)
    )


def _compared(specimen: Update) -> list[AtLeast | Equals]:
    return [each for each in specimen.require if isinstance(each, AtLeast | Equals)]


def _by_map(require: list[tuple[Any, Any, Path, Any]]) -> tuple[tuple[Path, tuple[Any, ...], tuple[Any, ...]], ...]:
    """Give by map what is compared in it: names and places of values that are least, and of those that are equal."""

    def of(kind: Any, holder: Path) -> tuple[tuple[str, int], ...]:
        return tuple([(path[-1], at) for _, each, path, at in require if each is kind and path[:-1] == holder])

    holders = dict.fromkeys([path[:-1] for _, kind, path, _ in require if kind in (AtLeast, Equals)])
    return tuple([(_names(holder), of(AtLeast, holder), of(Equals, holder)) for holder in holders])


def _changed(specimen: Update) -> list[Path]:
    return [*specimen.set, *specimen.add, *specimen.remove]


def _leaves(specimen: Update) -> list[Any]:
    """Give what lies in the maps that are set, however deep."""
    found: list[Any] = []
    maps = [part for part in specimen.set.values() if type(part) is dict]
    for each in maps:  # which grow meanwhile
        maps += [part for part in each.values() if type(part) is dict]
        found += [part for part in each.values() if type(part) is not dict]
    return found


def _names(path: Path) -> Path:
    return tuple([VARIES if each == VARIES else each for each in path])  # this very object, found again by `is`


def _given(values: Iterable[Any]) -> list[int]:
    return sorted({_index(value) for value in values if type(value) is Given})


def _index(given: int) -> int:
    return int(given) if given >= 0 else ~int(given)


def _closer(_item: Any, _segment: str, _given: tuple[Any, ...]) -> Any:
    return CLOSER


def _leaf(value: Any) -> bool:
    return type(value) in SCALARS and surely_set(value)


def _comparable(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    return kind is bool or (kind is int and -WHOLE <= value <= WHOLE)
