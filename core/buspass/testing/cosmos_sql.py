"""The part of Cosmos DB's query language that the simulated service understands, with its three-valued logic.

Owns parsing and meaning of queries and of the filter predicates of patches. Refuses to know where documents lie.

What is not there has no value ("undefined"): it equals nothing, a comparison of two types has no value either, and
only what is true selects. Source: learn.microsoft.com/azure/cosmos-db/nosql/query/ (constants, equality-comparison-
operators, logical-operators, is-defined, is-object, is-number, order-by).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

UNDEFINED: Final = object()
"""No value: unlike null, which is one."""

type Parameters = Mapping[str, Any]
type Expression = Callable[[Any, Parameters], Any]

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>@?[A-Za-z_][A-Za-z0-9_]*)|(?P<sign><=|>=|!=|<>|[=<>(),.*:{}\[\]]))""",
    re.VERBOSE,
)
_CONSTANTS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}


class SyntaxFault(ValueError):  # noqa: N818  (it is an answer)
    """The text is no query that this service understands: 400."""


class Query(Struct, frozen=True, kw_only=True):
    """A parsed query. `select` makes the answer of a document; `order` holds (expression, descending)."""

    select: Expression
    where: Expression | None
    order: Sequence[tuple[Expression, bool]]
    top: Expression | None
    rewritten: str
    """What the SDK sends to each physical partition when it merges the parts of an ordered query itself."""


def selects(where: Expression | None, document: Any, parameters: Parameters) -> bool:
    """Say whether the condition is true, and not just not false."""
    return where is None or where(document, parameters) is True


def condition(text: str) -> Expression:
    """Parse a patch's filter predicate: `FROM alias WHERE …`. It takes no parameters. Raises SyntaxFault."""
    parser = _Parser(text)
    parser.source()
    parser.word("where")
    found = parser.expression()
    parser.end()
    return found


def query(text: str) -> Query:
    """Parse a query. Raises SyntaxFault."""
    return _Parser(text).query()


def order_key(value: Any) -> tuple[int, Any]:
    """Place a value in the order across types: undefined, null, booleans, numbers, strings by code points."""
    if value is UNDEFINED:
        return (0, 0)
    if value is None:
        return (1, 0)
    if isinstance(value, bool):
        return (2, value)
    return (5, value) if isinstance(value, str) else (4, value)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.alias = ""
        self.at = 0
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise SyntaxFault(f"syntax error at {text[place : place + 20]!r}")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match.group(kind), match.start(kind)))
            place = match.end()

    # ── tokens ──

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at][:2] if self.at < len(self.tokens) else ("end", "")

    def take(self, value: str) -> bool:
        kind, found = self.peek()
        if kind in ("sign", "name") and found.lower() == value:
            self.at += 1
            return True
        return False

    def word(self, value: str) -> None:
        if not self.take(value):
            raise SyntaxFault(f"{value!r} expected, found {self.peek()[1]!r}")

    def name(self) -> str:
        kind, found = self.peek()
        if kind != "name":
            raise SyntaxFault(f"a name expected, found {found!r}")
        self.at += 1
        return found

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise SyntaxFault(f"{self.peek()[1]!r} is too much")

    def since(self, start: int) -> str:
        """Give the text from token `start` up to here."""
        stop = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        return self.text[self.tokens[start][2] : stop].strip()

    # ── clauses ──

    def query(self) -> Query:
        self.word("select")
        top = self.primary() if self.take("top") else None
        start = self.at
        self._skip_to_from()
        behind = self.at
        self.source()
        after_source, self.at = self.at, start
        select, payload = self._selection()
        if self.at != behind:
            raise SyntaxFault("FROM expected")
        self.at = after_source
        where, where_text = None, "true"
        if self.take("where"):
            begin = self.at
            where = self.expression()
            where_text = self.since(begin)
        order, order_texts = self._order()
        self.end()
        items = ", ".join(f'{{"item": {text}}}' for text in order_texts)
        rewritten = (  # the text was parsed: it says what it said before
            f"SELECT {self.alias}._rid, [{items}] AS orderByItems, {payload} AS payload FROM {self.alias} "  # noqa: S608
            f"WHERE ({where_text}) AND ({{documentdb-formattableorderbyquery-filter}}) "
            f"ORDER BY {', '.join(order_texts)}"
        )
        return Query(select=select, where=where, order=order, top=top, rewritten=rewritten)

    def source(self) -> None:
        self.word("from")
        self.alias = self.name()
        self.take("as")
        kind, found = self.peek()
        if kind == "name" and found.lower() not in ("where", "order"):
            self.alias = self.name()

    def _skip_to_from(self) -> None:
        while self.peek() != ("end", "") and self.peek()[1].lower() != "from":
            self.at += 1

    def _selection(self) -> tuple[Expression, str]:
        if self.take("*"):
            return (lambda document, _: document), self.alias
        if self.take("value"):
            start = self.at
            return self.expression(), self.since(start)
        parts: list[tuple[str, Expression, str]] = []
        while True:
            start = self.at
            made = self.expression()
            text = self.since(start)
            alias = self.name() if self.take("as") else re.split(r"[.\[\]\"']+", text.rstrip("]\"'"))[-1]
            parts.append((alias, made, text))
            if not self.take(","):
                break
        payload = "{" + ", ".join(f"{json.dumps(alias)}: {text}" for alias, _, text in parts) + "}"
        return _object([(alias, made) for alias, made, _ in parts]), payload

    def _order(self) -> tuple[list[tuple[Expression, bool]], list[str]]:
        order: list[tuple[Expression, bool]] = []
        texts: list[str] = []
        if self.take("order"):
            self.word("by")
            while True:
                start = self.at
                made = self.primary()
                texts.append(self.since(start))
                descending = self.take("desc")
                self.take("asc")
                order.append((made, descending))
                if not self.take(","):
                    break
        return order, texts

    # ── expressions ──

    def expression(self) -> Expression:
        left = self._conjunction()
        while self.take("or"):
            left = _either(left, self._conjunction(), True)
        return left

    def _conjunction(self) -> Expression:
        left = self._negation()
        while self.take("and"):
            left = _either(left, self._negation(), False)
        return left

    def _negation(self) -> Expression:
        if self.take("not"):
            inner = self._negation()

            def negated(document: Any, parameters: Parameters) -> Any:
                value = inner(document, parameters)
                return not value if isinstance(value, bool) else UNDEFINED

            return negated
        return self._comparison()

    def _comparison(self) -> Expression:
        left = self.primary()
        for sign in ("=", "!=", "<>", "<=", ">=", "<", ">"):
            if self.take(sign):
                return _compared(sign, left, self.primary())
        return left

    def primary(self) -> Expression:
        kind, found = self.peek()
        self.at += 1
        match kind, found:
            case "text", _:
                return _constant(_string(found))
            case "number", _:
                return _constant(json.loads(found))
            case "sign", "(":
                inner = self.expression()
                self.word(")")
                return inner
            case "sign", "{":
                return self._object_literal()
            case "sign", "[":
                parts = self._arguments("]")
                return lambda document, parameters: [part(document, parameters) for part in parts]
            case "name", _:
                return self._named(found)
        raise SyntaxFault(f"syntax error at {found!r}")

    def _named(self, found: str) -> Expression:
        if found.startswith("@"):
            return _parameter(found)
        if found.lower() in _CONSTANTS and found != self.alias:
            return _constant(_CONSTANTS[found.lower()])
        if self.take("("):
            return _function(found.lower(), self._arguments(")"))
        if found != self.alias:
            raise SyntaxFault(f"identifier {found!r} could not be resolved")
        return self._path()

    def _path(self) -> Expression:
        path: list[str | int] = []
        while True:
            if self.take("."):
                path.append(self.name())
            elif self.take("["):
                kind, found = self.peek()
                self.at += 1
                path.append(_string(found) if kind == "text" else int(found))
                self.word("]")
            else:
                return _walked(tuple(path))

    def _object_literal(self) -> Expression:
        parts: list[tuple[str, Expression]] = []
        while not self.take("}"):
            kind, found = self.peek()
            self.at += 1
            self.word(":")
            parts.append((_string(found) if kind == "text" else found, self.expression()))
            self.take(",")
        return _object(parts)

    def _arguments(self, closing: str) -> list[Expression]:
        parts: list[Expression] = []
        while not self.take(closing):
            parts.append(self.expression())
            if not self.take(",") and self.peek()[1] != closing:
                raise SyntaxFault(f"{closing!r} expected, found {self.peek()[1]!r}")
        return parts


def _string(token: str) -> str:
    body = token[1:-1]
    if token[0] == "'":
        body = body.replace("\\'", "'").replace('"', '\\"')
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError as error:
        raise SyntaxFault(f"invalid string {token}") from error


def _constant(value: Any) -> Expression:
    return lambda _document, _parameters: value


def _parameter(name: str) -> Expression:
    def found(_: Any, parameters: Parameters) -> Any:
        if name not in parameters:
            raise SyntaxFault(f"parameter {name} is missing")
        return parameters[name]

    return found


def _walked(path: tuple[str | int, ...]) -> Expression:
    def found(document: Any, _: Parameters) -> Any:
        for step in path:
            here = isinstance(step, str) and isinstance(document, dict) and step in document
            inside = isinstance(step, int) and isinstance(document, list) and step < len(document)
            if not here and not inside:
                return UNDEFINED
            document = document[step]
        return document

    return found


def _object(parts: Sequence[tuple[str, Expression]]) -> Expression:
    def made(document: Any, parameters: Parameters) -> Any:
        values = ((name, part(document, parameters)) for name, part in parts)
        return {name: value for name, value in values if value is not UNDEFINED}

    return made


def _either(left: Expression, right: Expression, decisive: bool) -> Expression:
    """OR is decided by a true side, AND by a false one; what is neither true nor false decides nothing."""

    def joined(document: Any, parameters: Parameters) -> Any:
        first = left(document, parameters)
        if first is decisive:
            return decisive
        second = right(document, parameters)
        if second is decisive:
            return decisive
        return not decisive if first is second is (not decisive) else UNDEFINED

    return joined


def _compared(sign: str, left: Expression, right: Expression) -> Expression:
    def answer(document: Any, parameters: Parameters) -> Any:
        one, other = left(document, parameters), right(document, parameters)
        if one is UNDEFINED or other is UNDEFINED or _type(one) != _type(other):
            return UNDEFINED
        if sign in ("=", "!=", "<>"):
            return (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)) is (sign == "=")
        if _type(one) in ("object", "array", "null"):
            return UNDEFINED
        below, above = one < other, one > other
        return {"<": below, ">": above, "<=": not above, ">=": not below}[sign]

    return answer


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _function(name: str, arguments: Sequence[Expression]) -> Expression:
    kind = {"is_object": "object", "is_number": "number", "is_string": "string", "is_bool": "boolean"}.get(name)
    if (name != "is_defined" and kind is None) or len(arguments) != 1:
        raise SyntaxFault(f"{name!r} is not a recognised function here")
    (argument,) = arguments

    def answer(document: Any, parameters: Parameters) -> Any:
        value = argument(document, parameters)
        return value is not UNDEFINED and (kind is None or _type(value) == kind)

    return answer
