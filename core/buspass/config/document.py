"""YAML 1.2's core schema with positions: bytes in, plain data and the line and column of every value and key out.

Reads events, not composed nodes, because the C composer recurses without a bound and dies on deep nesting. Numbers with
a point stay exact (`Decimal`), since some of them are money. Refuses to know what any key means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

import yaml
from msgspec import Struct, field

from buspass.errors import ConfigError

type Path = tuple[str | int, ...]
type Position = tuple[int, int]
"""Line and column, both from 1."""

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 50_000
"""After aliases are expanded: what stops a few nested anchors from becoming a billion values."""
MAX_DIGITS: Final = 64

_CORE: Final = "tag:yaml.org,2002:"
_BARE: Final = re.compile(r"[A-Za-z0-9_$<][A-Za-z0-9_<>-]*")


class Document(Struct, frozen=True, kw_only=True):
    """What a file says. `values` and `keys` hold the position of each value, and of the key that names it."""

    name: str
    data: Any
    values: dict[Path, Position]
    keys: dict[Path, Position]

    def position(self, path: Path, *, key: bool = False) -> Position:
        """Where `path` stands; for something that is not there, its nearest parent."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


class Problems:
    """Collects what is wrong with a document, so that all of it is told at once, in the file's order."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._rows: set[tuple[Position, str, str]] = set()

    def add(self, path: Path, what: str, *, key: bool = False) -> None:
        """Note that the value at `path` (with `key`, the key itself) is wrong: `what; what is allowed`."""
        self._rows.add((self._document.position(path, key=key), dotted(path), what))

    def stands(self, path: Path) -> bool:
        """Whether the document itself has something at `path`."""
        return path in self._document.values

    def __bool__(self) -> bool:
        return bool(self._rows)

    def lines(self) -> list[str]:
        """`FILE:LINE:COLUMN PATH: what`, sorted by place."""
        name = self._document.name
        return [f"{name}:{at[0]}:{at[1]} {path}: {what}" for at, path, what in sorted(self._rows)]

    def raise_any(self) -> None:
        """Raise ConfigError with every line, if there is one."""
        if self._rows:
            raise ConfigError(self.lines())


def dotted(path: Path) -> str:
    """`workflows.my-agent.models[0]`, on one line; a key that isn't a plain word is quoted, the root `(document)`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _BARE.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text or "(document)"


def parse(source: bytes, name: str) -> Document:
    """Read one YAML (or JSON) document. Raises ConfigError; every duplicate key is told, other faults end it."""
    text = _decode(source, name)
    nodes = _Nodes(name)
    try:
        root = nodes.read(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        line = "".join(text.split("\n")[at[0] - 1 : at[0]])
        hint = "; indent with spaces, YAML takes no tabs" if line[at[1] - 1 : at[1]] == "\t" else ""
        raise _fault(name, at, f"not YAML: {error.problem or error}{hint}") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or str(error).splitlines()[0]
        raise _fault(name, (1, 1), f"not YAML: {reason}") from None
    return _Builder(name).document(root)


_LOADER: Final[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def _fault(name: str, at: Position, what: str, path: Path = ()) -> ConfigError:
    return ConfigError([f"{name}:{at[0]}:{at[1]} {dotted(path)}: {what}"])


def _decode(source: bytes, name: str) -> str:
    if len(source) > MAX_BYTES:
        raise _fault(name, (1, 1), f"{len(source)} bytes; at most {MAX_BYTES}")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise _fault(name, (line, column), f"byte 0x{source[error.start]:02x} is not UTF-8") from None


class _Node(Struct):
    at: Position
    tag: str | None = None
    scalar: str | None = None
    plain: bool = False
    items: list[_Node] = field(default_factory=list)
    """Of a mapping: key, value, key, value …"""
    mapping: bool = False


class _Nodes:
    """Turns parser events into nodes, with the depth bounded and anchors resolved."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._anchors: dict[str, _Node] = {}
        self._open: list[tuple[_Node, str | None]] = []

    def read(self, events: Iterable[Any]) -> _Node:
        root: _Node | None = None
        for event in events:
            node = self._node(event)
            if node is None:
                continue
            if self._open:
                self._open[-1][0].items.append(node)
            elif root is None:
                root = node
            else:
                raise _fault(self._name, node.at, "a second document begins here; one file is one configuration")
            if isinstance(event, yaml.CollectionStartEvent):
                self._enter(node, event.anchor)
        if root is None:
            raise _fault(self._name, (1, 1), "the file is empty; the smallest useful one has version: and workflows:")
        return root

    def _node(self, event: Any) -> _Node | None:
        at = (event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), at)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.tag is None and event.style in {None, ""}
            node = _Node(at, event.tag, scalar=event.value, plain=plain)
            if event.anchor:
                self._anchors[event.anchor] = node
            return node
        if isinstance(event, yaml.CollectionStartEvent):
            return _Node(at, event.tag, mapping=isinstance(event, yaml.MappingStartEvent))
        if isinstance(event, yaml.CollectionEndEvent):
            node, anchor = self._open.pop()
            if anchor:
                self._anchors[anchor] = node
        return None

    def _enter(self, node: _Node, anchor: str | None) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise _fault(self._name, node.at, f"nested deeper than {MAX_DEPTH}")
        if anchor:
            self._anchors.pop(anchor, None)
        self._open.append((node, anchor))

    def _alias(self, anchor: str, at: Position) -> _Node:
        if anchor in self._anchors:
            return self._anchors[anchor]
        inside = any(anchor == name for _, name in self._open)
        what = "stands inside its own anchor" if inside else "has no anchor before it"
        raise _fault(self._name, at, f"alias *{anchor} {what}")


class _Builder:
    """Turns nodes into data and positions."""

    def __init__(self, name: str) -> None:
        self._document = Document(name=name, data=None, values={}, keys={})
        self._problems = Problems(self._document)
        self._count = 0

    def document(self, root: _Node) -> Document:
        data = self._build(root, ())
        self._problems.raise_any()
        found = self._document
        return Document(name=found.name, data=data, values=found.values, keys=found.keys)

    def _build(self, node: _Node, path: Path) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _fault(self._document.name, node.at, f"more than {MAX_VALUES} values once aliases are expanded")
        if len(path) > MAX_DEPTH:
            raise _fault(self._document.name, node.at, f"nested deeper than {MAX_DEPTH}")
        self._document.values[path] = node.at
        if node.scalar is not None:
            return self._scalar(node, path)
        if node.tag not in {None, "!", _CORE + ("map" if node.mapping else "seq")}:
            self._problems.add(path, f"tag {node.tag} is not used here")
        if node.mapping:
            return dict(self._pairs(node, path))
        return [self._build(item, (*path, index)) for index, item in enumerate(node.items)]

    def _pairs(self, node: _Node, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Position] = {}
        for name, value in zip(node.items[::2], node.items[1::2], strict=True):
            key = self._key(name, path)
            if key is None:
                continue
            place = (*path, key)
            self._document.keys[place] = name.at
            if key in seen:
                self._problems.add(place, f"duplicate key; it stands in line {seen[key][0]} already", key=True)
                continue
            seen[key] = name.at
            yield key, self._build(value, place)

    def _key(self, node: _Node, path: Path) -> str | None:
        if node.scalar is not None:
            if node.tag in {None, "!", _CORE + "str"} and (not node.plain or _is_text(node.scalar)):
                return node.scalar
            what = f"key {node.scalar!r} is not text; quote it"
        else:
            what = "a key is text, not a list or mapping"
        place = (*path, node.scalar or "?")
        self._document.values.setdefault(place, node.at)
        self._problems.add(place, what)
        return None

    def _scalar(self, node: _Node, path: Path) -> Any:
        text = node.scalar or ""
        untagged = node.tag in {None, "!"}
        read = (_core if node.plain else str) if untagged else _EXPLICIT.get(node.tag or "")
        if read is None:
            self._problems.add(path, f"tag {node.tag} is not used here")
            return text
        try:
            return read(text)
        except ValueError as error:
            self._problems.add(path, str(error))
            return text


_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_RADIX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _core(text: str) -> Any:
    """Resolve a plain scalar as YAML 1.2.2, 10.3.2 says. Raises ValueError for numbers that nothing here can use."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "0123456789+-.":
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    number = _INT.fullmatch(text) or _RADIX.fullmatch(text) or _FLOAT.fullmatch(text)
    if number is None:
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits; at most {MAX_DIGITS}")
    if number.re is _FLOAT:
        if math.isinf(float(text)):
            raise ValueError(f"{text} is larger than JSON's numbers can be")
        return Decimal(text)
    return int(text, 0) if number.re is _RADIX else int(text)


def _is_text(plain: str) -> bool:
    try:
        return isinstance(_core(plain), str)
    except ValueError:
        return False


def _explicit(kind: type | None) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = _core(text)
        if (value is None) if kind is None else type(value) is kind:
            return value
        raise ValueError(f"{text!r} is not what its tag says")

    return read


_EXPLICIT: Final[dict[str, Callable[[str], Any]]] = {
    _CORE + "str": str,
    _CORE + "null": _explicit(None),
    _CORE + "bool": _explicit(bool),
    _CORE + "int": _explicit(int),
    _CORE + "float": _explicit(Decimal),
}
