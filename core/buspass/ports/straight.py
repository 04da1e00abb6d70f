"""What a form asks and does, and what the members of a map must be, written out once as straight-line Python.

Owns the text of these functions. Refuses to have the last word: of whatever is not just so they say that they are not
sure (False, CLOSER), and the form and the rules themselves then answer (`forms`, `sound`).

No name and no value stands in such a text. It is made of the templates below and of numbers that are counted here;
what it speaks of is handed to it as arguments (`Text.constant`). So nothing that anybody names or sends can be run, and
what differs in names alone shares its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from buspass.ports.forms import CLOSER, VARIES, Form, Given, Judge, Sound
from buspass.ports.operations import WHOLE, Path, Remembered, is_segment

BITS: Final = WHOLE.bit_length()
"""An integer is within ±(2⁵³-1) just when it has no more of them: one look in place of two comparisons."""

type Look = Callable[[Mapping[str, Any]], bool]


def _maker(text: str) -> Callable[..., Any]:
    there: dict[str, Any] = {}
    exec(text, there)  # noqa: S102  (templates and numbers alone, see above)
    make: Callable[..., Any] = there["make"]
    return make


_MAKERS: Final = Remembered(_maker, 512)


class Text:
    """A function of these arguments under way: its lines, and what is handed to it."""

    def __init__(self, arguments: str, **known: object) -> None:
        self._lines = [f"  def made({arguments}):"]
        self._known = known
        self._constants: list[Any] = []
        self._names = 0

    def line(self, text: str, deep: int = 2) -> None:
        self._lines.append("  " * deep + text)

    def unpack(self, letter: str, size: int, source: str) -> None:
        if size:
            self.line(f"({', '.join(f'{letter}{at}' for at in range(size))},) = {source}")

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def constant(self, value: Any) -> str:
        """Name an argument that stands for this very value: neither True nor "1" is 1."""
        for at, each in enumerate(self._constants):
            if type(each) is type(value) and each == value:
                return f"c{at}"
        self._constants.append(value)
        return f"c{len(self._constants) - 1}"

    def all_of(self, conditions: list[str]) -> None:
        self.line(f"if {' and '.join(conditions) or True}:")
        self.line("return True", 3)
        self.line("return False")

    def function(self) -> Any:
        names = [*self._known, *(f"c{at}" for at in range(len(self._constants)))]
        text = "\n".join([f"def make({', '.join(names)}):", *self._lines, "  return made"])
        return _MAKERS[text](*self._known.values(), *self._constants)


def _whole(name: str) -> str:
    return f"type({name}) is int and {name}.bit_length() <= {BITS}"


# ── what is given, and what lies in a map ───────────────────────────────────────────────────────────────────────────


def sound(form: Form, may_be_compared: Callable[[Any], bool], *may_be_set: Callable[[Any], bool]) -> Sound:
    """Write out `Form.surely`. `may_be_set`: as a whole, and as a leaf of a map that is. May raise TypeError."""
    part, leaf = may_be_set
    text = Text("segment, given", is_segment=is_segment, compared=may_be_compared, part=part, leaf=leaf)
    text.line(f"if type(given) is not tuple or len(given) != {form.size} or not is_segment(segment):")
    text.line("return False", 3)
    text.unpack("g", form.size, "given")
    asked = [
        *(f"({_whole(f'g{at}')})" for at in form.numbers),
        *(f"({_whole(f'g{at}')} or compared(g{at}))" for at in form.equal if at not in form.numbers),
        *(f"(type(g{at}) is str and g{at}.isascii() or part(g{at}))" for at in form.parts),
        *(f"(type(g{at}) is str and g{at}.isascii() or {_whole(f'g{at}')} or leaf(g{at}))" for at in form.leaves),
    ]
    text.all_of(asked)
    made: Sound = text.function()
    return made


def look(members: Mapping[str, Any], may_be: Callable[[Any, int], bool], depth: int) -> Look:
    """Write out that a map of as many members as this one, so deep, has just its names and kinds, and may be written.

    So it is for maps of which one passed every rule. A list that is not empty, and what else is not plain, `may_be`
    judges. Text is asked about as a whole, kinds of text included (a subclass may stand there by the rules, too).
    """
    text = Text("members", join="".join, written=_written, may_be=may_be)
    read: list[str] = ["try:"]
    asked: list[str] = []
    texts: list[str] = []

    def take(members: Mapping[str, Any], holder: str, depth: int) -> None:
        for name, value in members.items():
            kind, found = type(value), text.name()
            read.append(f"  {found} = {holder}[{text.constant(name)}]")
            if kind is dict:
                read.append(f"  if type({found}) is not dict or len({found}) != {len(value)}: return False")
                take(value, found, depth + 1)
            elif kind is str:
                texts.append(found)
            elif kind is int:
                asked.append(_whole(found))
            elif kind is bool:
                asked.append(f"type({found}) is bool")
            elif value == []:
                asked.append(f"(type({found}) is list and not {found} or may_be({found}, {depth}))")
            else:
                asked.append(f"may_be({found}, {depth})")

    take(members, "members", depth)
    for each in read:
        text.line(each)
    text.line(f"  text = join(({''.join(f'{each},' for each in texts)}))")
    text.line("except (KeyError, TypeError):")
    text.line("return False", 3)
    text.all_of([*asked, "(text.isascii() or written(text))"])
    made: Look = text.function()
    return made


def _written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


# ── what is asked of an item, and what becomes of it ────────────────────────────────────────────────────────────────


def judge(form: Form) -> Judge:
    """Write out `accepts` and `changed` in one: the new item, None where the item is refused, or CLOSER."""
    made: Judge = _Judge(form).text.function()
    return made


class _Judge:
    """The text of a judge. Where something is missing the subscript says so, once for all."""

    def __init__(self, form: Form) -> None:
        self.text = Text("item, segment, given", CLOSER=CLOSER)
        self._form = form
        self._maps: dict[Path, str] = {(): "item"}
        self._values: dict[Path, str] = {}
        self._integers: set[str] = set()
        self.text.line("if type(item) is not dict:")
        self.text.line("return CLOSER", 3)
        self.text.unpack("g", form.size, "given")
        self.text.line("try:")
        self._conditions()
        self._changes()
        self.text.line("except KeyError:")
        self.text.line("return CLOSER", 3)

    def _line(self, text: str) -> None:
        self.text.line(text, 3)

    def _where(self, condition: str, answer: str) -> None:
        self._line(f"if {condition}:")
        self.text.line(f"return {answer}", 4)

    def _key(self, name: str) -> str:
        return "segment" if name == VARIES else self.text.constant(name)

    def _given(self, place: int) -> str:
        size = self._form.size
        return f"g{place}" if place < size else self.text.constant(self._form.constants[place - size])

    def _map(self, path: Path) -> str:
        if path not in self._maps:
            above, name = self._map(path[:-1]), self.text.name()
            self._line(f"{name} = {above}[{self._key(path[-1])}]")
            self._where(f"type({name}) is not dict", "CLOSER")
            self._maps[path] = name
        return self._maps[path]

    def _value(self, path: Path) -> str:
        if path not in self._values:
            above, name = self._map(path[:-1]), self.text.name()
            self._line(f"{name} = {above}[{self._key(path[-1])}]")
            self._values[path] = name
        return self._values[path]

    def _conditions(self) -> None:
        for path, least, same in self._form.compared:
            for name, place in least:
                found = self._value((*path, name))
                self._where(f"type({found}) is not int or {found} < {self._given(place)}", "None")
                self._integers.add(found)
            for name, place in same:
                found, value = self._value((*path, name)), self._given(place)
                kind = (
                    f"type({value})" if place < self._form.size else type(self._form.constants[place - self._form.size])
                )
                kind = kind if isinstance(kind, str) else self.text.constant(kind)
                self._where(f"type({found}) is not {kind} or {found} != {value}", "None")
        for first, name in self._form.absent:
            self._where(f"{self._key(name)} in {self._map((first,))}", "None")

    def _changes(self) -> None:
        """Add everything up first: an item is copied only once it is sure to be changed."""
        totals = {
            (first, name): self._total((name,) if first is None else (first, name), place, "-" if less else "+")
            for first, _, adds, _ in self._form.changes
            for name, place, less in adds
        }
        maps = {first: self._map((first,)) for first, *_ in self._form.changes if first is not None}
        self._line("new = item.copy()")
        for first, sets, adds, gone in self._form.changes:
            holder = "new"
            if first is not None:
                holder = self.text.name()
                self._line(f"{holder} = new[{self._key(first)}] = {maps[first]}.copy()")
            for name, part in sets:
                self._line(f"{holder}[{self._key(name)}] = {self._part(part)}")
            for name, _, _ in adds:
                self._line(f"{holder}[{self._key(name)}] = {totals[first, name]}")
            for name in gone:
                self._line(f"del {holder}[{self._key(name)}]")
        self._line("return new")

    def _total(self, path: Path, place: int, sign: str) -> str:
        found, total = self._value(path), self.text.name()
        if found not in self._integers:
            self._where(f"type({found}) is not int", "CLOSER")
        self._line(f"{total} = {found} {sign} {self._given(place)}")
        self._where(f"{total}.bit_length() > {BITS}", "CLOSER")
        return total

    def _part(self, part: Any) -> str:
        if type(part) is Given:
            return f"g{int(part)}"
        if type(part) is dict:
            return "{" + ", ".join([f"{self._key(name)}: {self._part(each)}" for name, each in part.items()]) + "}"
        return self.text.constant(part)
