"""Maps of which the like is put often, as the records of calls are: proven and written as text by one look in C.

Owns the shapes that were met, and that a text is the one which `canonical` writes. Refuses to have the last word: of
what is not just so it gives no text, and the rules themselves then answer (`sound`, `state.check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, ValidationError, convert, defstruct
from msgspec.json import Encoder

from buspass.ports.operations import WHOLE, Put
from buspass.ports.sound import surely

OFTEN: Final = 16
"""So many maps of one place come before the like of the last gets a shape: a cold start needs none."""
KEPT: Final = 4
"""Shapes that maps of one place may have, those made last."""
PLACES: Final = 64
"""Places that are known at once."""
_KINDS: Final[Mapping[type, Any]] = {
    str: str,
    bool: bool,
    int: Annotated[int, Meta(ge=-WHOLE, le=WHOLE)],
    type(None): None,
}
_NOTHING: Final = Annotated[list[None], Meta(max_length=0)]
_WRITE: Final = Encoder().encode


class Shape(Struct, frozen=True):
    """What maps alike are: their names, in the order of their text, and what is at each. `lists`: names of lists."""

    kind: type[Struct]
    lists: tuple[str, ...]

    def text(self, value: Mapping[str, Any]) -> bytes | None:
        """Give the canonical text of a map that is just so; else None."""
        for name in self.lists:
            if type(value.get(name)) is not list:  # any sequence would pass for one
                return None
        try:
            return _WRITE(convert(value, self.kind))
        except (ValidationError, TypeError, UnicodeEncodeError):  # text of a kind of its own, half a surrogate pair
            return None


class Shapes:
    """The shapes that one host has met. An integer's subclass passes for its number, which is what is written."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[Any, int], list[Shape]] = {}
        self._met: dict[tuple[Any, int], int] = {}

    def text(self, value: dict[str, Any], like: Any) -> bytes | None:
        """Give the canonical text of a map that surely may be put; None where that is not sure.

        `like`: what maps of one shape have in common, so that few are tried.
        """
        place = (like, len(value))
        for shape in self._shapes.get(place, ()):
            if (text := shape.text(value)) is not None:
                return text
        self._meet(place, value)
        return None

    def _meet(self, place: tuple[Any, int], value: dict[str, Any]) -> None:
        met = self._met.pop(place, 0) + 1
        if met < OFTEN:
            if len(self._met) >= PLACES:
                self._met.clear()
            self._met[place] = met
        elif surely(Put("any", value)) and (made := shape_of(value)) is not None:
            if len(self._shapes) >= PLACES:
                self._shapes.clear()
            self._shapes[place] = [made, *self._shapes.get(place, ())][:KEPT]


def shape_of(value: Mapping[str, Any]) -> Shape | None:
    """Give the shape of a map which keeps every rule; None for one that can have none."""
    try:
        kind = _map(value)
    except ValueError:  # also of a name that has no plain text
        return None
    return Shape(kind, tuple([name for name, part in value.items() if type(part) is list]))


def _map(members: Mapping[str, Any], *, lists: bool = True) -> type[Struct]:
    """Give the type of a map. Raises ValueError where it has none. No name of a member is one of Python's."""
    names = sorted(members)
    fields = [(f"f{at}", _kind(members[name], lists=lists)) for at, name in enumerate(names)]
    called = {f"f{at}": name for at, name in enumerate(names)}
    return defstruct("Map", fields, rename=called, kw_only=True, forbid_unknown_fields=True, gc=False)


def _kind(value: Any, *, lists: bool) -> Any:
    if type(value) is dict:
        return _map(value, lists=False)
    if type(value) is list and lists:
        return list[_kind(value[0], lists=False)] if value else _NOTHING  # type: ignore[misc]
    if type(value) not in _KINDS:
        raise ValueError(f"{type(value)} is of no shape")
    return _KINDS[type(value)]
