"""Inspection of one text that comes in pieces, or whole: both are read alike, so both give the same parts.

Owns the window and what is held back: at most WINDOW characters of text that might still become a match. A value is
found if it is no longer than half a window. Knows no plan: it says what each part of the text is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from typing import Final

from msgspec import Struct

from buspass.mediation.classes import CLASSES, known
from buspass.mediation.patterns import Span, blanked, compiled, encodable, looking, readable, seen
from buspass.mediation.segments import end_of, start_of

WINDOW: Final = 512
HORIZON: Final = WINDOW // 2
CONTEXT: Final = 8
"""Characters before a window that tell whether a match at its start stands alone."""

MENTION: Final = "(?:" + "|".join(name.upper() for name in CLASSES) + ")_[0-9]{8}"
PLACEHOLDER: Final = f"<{MENTION}>"
TAIL: Final = r"[A-Za-z0-9+/=_.~%-]+"
PEM_END: Final = r"-----END [A-Z ]{1,40}-----"
PEM_KEPT: Final = 64


class Part(Struct, frozen=True, kw_only=True):
    """A piece of the text. `class_` is None for plain text, "placeholder" for what looks like one of ours.

    `more` marks the continuation of a secret longer than a window (a private key's body): no finding of its own.
    """

    text: str
    class_: str | None = None
    more: bool = False


@cache
def _trigger(classes: tuple[str, ...]) -> str:
    return "|".join(dict.fromkeys([*(CLASSES[name].trigger for name in classes), "<[A-Z]"]))


@cache
def _look(classes: tuple[str, ...]) -> Callable[[bytes], bool]:
    return looking(_trigger(classes))


def find(text: str, classes: tuple[str, ...], regions: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """Start, end and class of what stands in a segment, in the order of the text; none overlaps another."""
    text = readable(text)
    found = [(*match.span(), "placeholder") for match in compiled(PLACEHOLDER).finditer(text)]
    for name in classes:
        text = blanked(text, sorted((start, end) for start, end, _ in found)) if found else text
        found += [(start, end, name) for start, end in _disjoint(CLASSES[name].find(text, regions))]
        found.sort()
    return found


def _disjoint(spans: list[Span]) -> Iterator[Span]:
    """Overlapping matches of one class are one."""
    last: Span | None = None
    for start, end in sorted(spans):
        if last and start < last[1]:
            last = (last[0], max(last[1], end))
            continue
        if last:
            yield last
        last = (start, end)
    if last:
        yield last


class Scanner:
    """One text, fed in pieces of any size. The parts' texts, joined, are the text."""

    def __init__(self, classes: Iterable[str], regions: tuple[str, ...] = ()) -> None:
        self._classes = known(tuple(classes))
        self._regions = regions
        self._look = _look(self._classes)
        self._text = ""
        self._at = 0  # what stands before is given out
        self._inside = False  # `_at` lies within a segment, not before one
        self._begun = False  # `_at` is known to be where a segment begins
        self._tail: str | None = None  # the pattern that ends a secret under way

    def feed(self, text: str) -> list[Part]:
        """The parts that nothing to come can change."""
        text = self._text + text
        return self._taken(text, silent=not self._seen(text))

    def feed_silent(self, text: str) -> list[Part] | None:
        """The same where nothing begins in what is held and in this; else None, and nothing is taken."""
        text = self._text + text
        return None if self._seen(text) else self._taken(text, silent=True)

    def _seen(self, text: str) -> bool:
        """Say whether something begins in it: `seen`, for a look at each of many pieces."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            data = encodable(text).encode()
        return self._look(data)

    def _taken(self, text: str, *, silent: bool) -> list[Part]:
        self._text = text
        if silent and not self._inside:
            begin = start_of(text, len(text), self._at)
            if len(text) - begin <= WINDOW:
                return self._up_to(begin)
        return self._advance(ended=False)

    def _up_to(self, begin: int) -> list[Part]:
        """What comes before the last segment, where nothing begins in all of the text: what `_advance` would give."""
        given = self._text[self._at : begin]
        self._begun = begin < len(self._text)
        keep = max(0, begin - CONTEXT)
        self._text, self._at = self._text[keep:], begin - keep
        return [Part(text=given)] if given else []

    def flush(self) -> list[Part]:
        """The rest: the text ends here."""
        return self._advance(ended=True)

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return len(self._text) - self._at

    def _advance(self, *, ended: bool) -> list[Part]:
        parts = list(self._parts(ended=ended))
        keep = max(0, self._at - CONTEXT)
        self._text, self._at = self._text[keep:], self._at - keep
        return parts

    def _parts(self, *, ended: bool) -> Iterator[Part]:
        text = self._text
        hits = self._hits(text)
        hit = next(hits, None)
        while self._at < len(text):
            if self._tail:
                yield from self._swallow(ended=ended)
                if self._tail:
                    return
                continue
            if not self._inside and not self._begun:
                while hit is not None and hit < self._at:
                    hit = next(hits, None)
                if hit is None and ended:
                    yield self._give(len(text))
                    return
                begin = start_of(text, len(text) if hit is None else hit, self._at)
                if begin > self._at:
                    yield self._give(begin)
                self._begun = begin < len(text)
            end = end_of(text, self._at, self._at + WINDOW + 1)
            if end is None and len(text) - self._at <= WINDOW:
                if not ended:
                    return
                end = len(text)
            yield from self._window(end)

    def _hits(self, text: str) -> Iterator[int]:
        """Where something may begin: nearly always nowhere, which one look says."""
        trigger = _trigger(self._classes)
        if seen(trigger, text):
            yield from (hit.span()[0] for hit in compiled(trigger).finditer(encodable(text)))

    def _window(self, end: int | None) -> Iterator[Part]:
        """The segment up to `end`, or the first half of a window of a segment that is longer."""
        horizon = self._at + HORIZON if end is None else end
        offset = max(0, self._at - CONTEXT) if self._inside else self._at
        window = encodable(self._text[offset : self._at + WINDOW if end is None else end])
        self._inside, self._begun = end is None, False
        for start, stop, class_ in self._found(window):
            if not self._at <= start + offset < horizon:
                continue
            if start + offset > self._at:
                yield self._give(start + offset)
            yield self._give(stop + offset, class_)
            if class_ == "secret":  # it may go on beyond the window; what follows it is read anew
                self._tail, self._inside = PEM_END if "-----BEGIN" in window[start:stop] else TAIL, True
                return
        if self._at < horizon:
            yield self._give(horizon)

    def _found(self, window: str) -> list[tuple[int, int, str]]:
        if not seen(_trigger(self._classes), window):
            return []
        return find(window, self._classes, self._regions)

    def _swallow(self, *, ended: bool) -> Iterator[Part]:
        """What still belongs to the secret before: the rest of its word, or of the private key."""
        rest = encodable(self._text[self._at :])
        match = compiled(self._tail or TAIL).search(rest) if self._tail == PEM_END else compiled(TAIL).match(rest)
        size = match.span()[1] if match else 0
        if self._tail == PEM_END and match is None:
            size = len(rest) if ended else max(0, len(rest) - PEM_KEPT)
            done = ended
        else:
            done = ended or size < len(rest) or self._tail == PEM_END
        if size:
            yield self._give(self._at + size, "secret", more=True)
        if done:
            self._tail = None

    def _give(self, end: int, class_: str | None = None, *, more: bool = False) -> Part:
        part = Part(text=self._text[self._at : end], class_=class_, more=more)
        self._at = end
        return part


def silent(texts: Iterable[str], classes: tuple[str, ...]) -> bool:
    """Whether none of the texts can hold anything of these classes, nor a placeholder: one look at all of them."""
    return not seen(_trigger(classes), "\n".join(texts))


def silent_name(name: str, classes: tuple[str, ...]) -> bool:
    """The same of one name of a member, remembered: there are not many, and most stand in every request."""
    if (name, classes) in _SILENT:
        return True
    if seen(_trigger(classes), name):
        return False
    if len(_SILENT) >= NAMES:
        _SILENT.clear()
    if len(name) <= LONGEST_NAME:
        _SILENT.add((name, classes))
    return True


NAMES: Final = 2048
LONGEST_NAME: Final = 64
_SILENT: Final[set[tuple[str, tuple[str, ...]]]] = set()


def silent_json(text: bytes, classes: tuple[str, ...]) -> bool:
    """The same of a JSON text. False says nothing: a number in it, or an escape, may look like the beginning of one.

    No trigger holds a sign that JSON escapes, so what stands in a string stands in the text as well.
    """
    return not _look(classes)(text)


@lru_cache(maxsize=256)
def _looked_for(classes: tuple[str, ...], regions: tuple[str, ...]) -> hashlib.blake2b:
    return hashlib.blake2b(",".join((*classes, "", *regions)).encode(), digest_size=32)


class Clean:
    """Texts in which nothing was found, by their digests: an agent sends the same conversation again with every call.

    What is found depends on text, classes and regions alone. Of a text in which something stands nothing is kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def digest(self, text: str | bytes, classes: tuple[str, ...], regions: tuple[str, ...]) -> bytes:
        """Give what a text is known by, or a JSON text (bytes), which stands for all the texts in it."""
        looked = _looked_for(classes, regions).copy()
        if isinstance(text, bytes):
            looked.update(b"\1")
            looked.update(text)
        else:
            looked.update(b"\0")
            looked.update(text.encode("utf-8", "surrogatepass"))
        return looked.digest()

    def __contains__(self, digest: bytes) -> bool:
        try:
            self._digests.move_to_end(digest)
        except KeyError:
            return False
        return True

    def add(self, digest: bytes) -> None:
        self._digests[digest] = None
        if len(self._digests) > self._most:
            self._digests.popitem(last=False)


KNOWN: Final = 8192
"""Texts, of some hundred bytes each."""
CLEAN: Final = Clean(KNOWN)
_ORDERED: Final = lru_cache(maxsize=256)(known)


def parts(text: str, classes: Iterable[str], regions: tuple[str, ...] = ()) -> list[Part]:
    """A whole text in parts."""
    looked_for = _ORDERED(tuple(classes))
    if not seen(_trigger(looked_for), text):
        return [Part(text=text)] if text else []
    digest = CLEAN.digest(text, looked_for, regions)
    if digest in CLEAN:
        return [Part(text=text)]
    scanner = Scanner(looked_for, regions)
    found = [*scanner.feed(text), *scanner.flush()]
    if all(part.class_ is None for part in found):
        CLEAN.add(digest)
    return found
