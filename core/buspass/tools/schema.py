"""What JSON a tool may be given and may give back: a strict parser, and JSON Schema with errors an agent can act on.

Knows JSON Schema's draft 2020-12 and RFC 8259; refuses to know a tool, a route or a transport.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from buspass.errors import Problem
from buspass.jsontext import shortest

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, ValidationErrorKind

BYTES: Final = 1_000_000
DEPTH: Final = 64
ROWS: Final = 16
"""Errors told at once: enough to mend a call, too few to flood a model's context."""
SHORT: Final = 4096
"""Bytes up to which counting is the faster way."""
MASK: Final = "this value"
_HOLDERS: Final = frozenset({dict, list})
_COMPOSED: Final = frozenset({"allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if", "dependentSchemas"})
_PARAMETERS: Final = ("properties", "patternProperties")


def parse_json(body: bytes, *, limit: int = BYTES, depth: int = DEPTH) -> Any:
    """JSON as RFC 8259 and I-JSON (RFC 7493) want it: UTF-8, no duplicate member, finite numbers, no lone surrogate.

    `limit` in bytes, `depth` in nested arrays and objects. Raises `Problem` (`request_too_large`, else
    `invalid_request` that names the byte where it went wrong, as far as that is known).
    """
    if len(body) > limit:
        raise Problem("request_too_large", f"the JSON has {len(body)} bytes; at most {limit} are taken")
    shallow = _few(body, depth)  # it can't be nested deeper, then
    if (value := shortest(body)) is not None:
        if not shallow:
            _bound_depth(value, depth)
        return value
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem("invalid_request", f"the JSON is not valid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text) if text.startswith("\ufeff") else _reader().decode(text)  # the former says why
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode())
        raise Problem("invalid_request", f"the body is not JSON: {error.msg} at byte {at}") from None
    except RecursionError:
        raise _too_deep(depth) from None
    except ValueError as error:
        raise Problem("invalid_request", f"the JSON is refused: {error}") from None
    if not shallow or "\\u" in text:
        _bound(value, depth, surrogates="\\u" in text)
    return value


def _few(body: bytes, most: int) -> bool:
    """Whether no more than so many brackets open in it. Of a long text they are looked for, which is faster by far."""
    if len(body) <= SHORT:
        return body.count(b"[") + body.count(b"{") <= most
    for bracket in (b"[", b"{"):
        at = body.find(bracket)
        while at >= 0:
            most -= 1
            if most < 0:
                return False
            at = body.find(bracket, at + 1)
    return True


@cache
def _reader() -> json.JSONDecoder:
    """Make the parser once: `json.loads` would for each text, as it is not the usual one."""
    return json.JSONDecoder(object_pairs_hook=_members, parse_constant=_refuse_constant, parse_float=_finite)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"member {json.dumps(twice[:64])} stands twice in one object")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:32]} is too large")
    return number


def _too_deep(depth: int) -> Problem:
    return Problem("invalid_request", f"the JSON is nested deeper than {depth} levels")


def _bound(value: Any, depth: int, *, surrogates: bool) -> None:
    """Refuses what lies too deep; looks at strings only if an escape could have made a lone surrogate."""
    level = [value]
    for at in range(depth + 1):
        if surrogates:
            _refuse_surrogates(level)
        if at == depth and any(isinstance(item, dict | list) for item in level):
            raise _too_deep(depth)
        level = [part for item in level for part in _parts(item)]
        if not level:
            return


def _bound_depth(value: Any, depth: int) -> None:
    """The first half of that: no string is met on the way."""
    level = [value] if type(value) in _HOLDERS else []
    for _ in range(depth):
        level = [
            part
            for holder in level
            for part in (holder.values() if type(holder) is dict else holder)
            if type(part) in _HOLDERS
        ]
        if not level:
            return
    raise _too_deep(depth)


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _refuse_surrogates(level: Sequence[Any]) -> None:
    for item in level:
        for text in (item,) if isinstance(item, str) else item if isinstance(item, dict) else ():
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise Problem("invalid_request", "the JSON has half of a surrogate pair in a string")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, refusing unknown members at its top unless it speaks of them itself.

    Models invent parameters: what nobody described must not reach a service. A schema composed of others is closed
    with `unevaluatedProperties`, because `additionalProperties` would not see what its parts allow.
    """
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return dict(schema)
    return {**schema, "unevaluatedProperties" if _COMPOSED & set(schema) else "additionalProperties": False}


MOST: Final = 1024
"""Schemas whose validators are kept."""
_FOUND: Final[dict[tuple[int, bool], tuple[Mapping[str, Any], Validator]]] = {}


@lru_cache(maxsize=MOST)
def _compiled(text: str) -> Validator:
    return Validator(json.loads(text))


def compiled(schema: Mapping[str, Any], *, declared_only: bool = False) -> Validator:
    """The schema's validator, or that of its `closed` form, compiled once a process for each text of it.

    It is found again by the very object, which must not be changed: a configuration's never is, and to write it as text
    for each call takes long.
    """
    known = _FOUND.get((id(schema), declared_only))
    if known is None:  # what is kept holds its schema, so no other gets the same id
        if len(_FOUND) >= MOST:
            _FOUND.clear()
        shape = closed(schema) if declared_only else schema
        known = schema, _compiled(json.dumps(shape, sort_keys=True, default=_plain))
        _FOUND[id(schema), declared_only] = known
    return known[1]


def _plain(value: Any) -> Any:
    """Read-only mappings and sequences of the configuration, as json.dumps knows them."""
    return dict(value) if isinstance(value, Mapping) else list(value)


class Validator:
    """A JSON Schema, draft 2020-12, whatever its `$schema` says; formats are asserted, references never fetched.

    Raises `ValueError` where the schema itself is wrong. Values must come from `parse_json` (finite, no surrogates).
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema_rs import Draft202012Validator, ValidationError  # noqa: PLC0415 - many calls have no schema

        self._schema: dict[str, Any] = json.loads(json.dumps(schema, default=_plain))
        try:
            self._validator = Draft202012Validator(self._schema, validate_formats=True, mask=MASK, offline=True)
        except ValidationError as error:
            where = pointer(error.instance_path) or "/"
            raise ValueError(f"not a JSON Schema (2020-12) at {where}: {error.message}") from None
        self._declared = frozenset(_declared(self._schema))

    def check(self, value: Any) -> list[dict[str, Any]]:
        """Rows `{path, message, allowed?}`: a JSON pointer, a sentence, and what would do. Empty if the value fits."""
        if self._validator.is_valid(value):
            return []
        rows = (row for error in self._validator.iter_errors(value) for row in self._rows(error))
        return list(islice(rows, ROWS))

    def violations(self, value: Any) -> list[dict[str, Any]]:
        """Rows `{path, message}` without anything that the value says: `*` stands for a member nobody declared."""
        if self._validator.is_valid(value):
            return []
        rows = (
            {"path": pointer(self._masked(error.instance_path)), "message": f"violates {error.kind.name}"}
            for error in self._validator.iter_errors(value)
        )
        return list(islice(rows, ROWS))

    def _masked(self, path: Sequence[str | int]) -> list[str | int]:
        return [part if isinstance(part, int) or part in self._declared else "*" for part in path]

    def _rows(self, error: ValidationError) -> Iterator[dict[str, Any]]:
        from jsonschema_rs import ValidationErrorKind  # noqa: PLC0415 - loaded by now

        path, kind = error.instance_path, error.kind
        schema = _at(self._schema, error.schema_path[:-1])
        match kind:
            case (
                ValidationErrorKind.AdditionalProperties(unexpected=names)
                | ValidationErrorKind.UnevaluatedProperties(unexpected=names)
            ):
                known = sorted(_parameters(schema)) or sorted(self._declared)
                for name in names:
                    message = _unexpected(name, known)
                    yield {"path": pointer([*path, name]), "message": message, "allowed": known}
            case ValidationErrorKind.Required(property=name):
                required = schema.get("required", [name])
                yield {"path": pointer([*path, name]), "message": "is required", "allowed": required}
            case ValidationErrorKind.AnyOf(context=branches) | ValidationErrorKind.OneOfNotValid(context=branches):
                misfits = "; ".join(branch[0].message for branch in branches[:ROWS] if branch)
                yield {"path": pointer(path), "message": f"fits none of the alternatives: {misfits}"}
            case _:
                row = {"path": pointer(path), "message": error.message}
                allowed = _allowed(kind)
                yield row if allowed is None else {**row, "allowed": allowed}


def _unexpected(name: str, known: Sequence[str]) -> str:
    quoted = json.dumps(name[:64], ensure_ascii=False)
    if name in known:  # declared in a part of a composed schema that the rest of the value does not fit
        return f"parameter {quoted} does not go with the others"
    return f"there is no parameter {quoted}"


def _allowed(kind: ValidationErrorKind) -> list[Any] | None:
    from jsonschema_rs import ValidationErrorKind  # noqa: PLC0415 - loaded by now

    match kind:
        case ValidationErrorKind.Enum(options=options):
            return list(options)
        case ValidationErrorKind.Constant(expected_value=value):
            return [value]
        case ValidationErrorKind.Type(types=types):
            return list(types)
        case _:
            return None


def _at(schema: Any, path: Sequence[str | int]) -> Mapping[str, Any]:
    """The subschema at a path; empty where the path runs through a reference we can't follow by name."""
    for part in path:
        try:
            schema = schema[part]
        except (LookupError, TypeError):
            return {}
    return schema if isinstance(schema, dict) else {}


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    for keyword in _PARAMETERS:
        yield from schema.get(keyword, {})


def _declared(schema: Any) -> Iterator[str]:
    """Every member name that a schema declares anywhere."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, dict) else ()
    for part in _parts(schema):
        yield from _declared(part)


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) to a path; the empty string is the whole value."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
