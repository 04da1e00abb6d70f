"""The vocabulary of an allow-list: checks that copy what they permit and name what they refuse, each with its path.

A check takes (value, path, report) and returns the value to pass on. It never raises: all rows of a request are
gathered, so that an agent mends its call at once. Knows JSON values only, no surface and no provider.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from buspass.errors import Problem

ROWS: Final = 20
"""Rows a problem shows at most."""
DEPTH: Final = 64
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Report(Struct):
    """What was found: `unsupported` (we do not offer it) and `invalid` (nobody does)."""

    unsupported: list[dict[str, Any]] = field(default_factory=list)
    invalid: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, path: str, message: str, allowed: Collection[Any] | None = None) -> None:
        self.unsupported.append(row(path, message, allowed))

    def mend(self, path: str, message: str, allowed: Collection[Any] | None = None) -> None:
        self.invalid.append(row(path, message, allowed))

    def close(self) -> None:
        """Raises `unsupported` before `invalid_request`: what can't be had needs no mending."""
        for code, rows in (("unsupported", self.unsupported), ("invalid_request", self.invalid)):
            if rows:
                first = rows[0]
                more = f" (and {len(rows) - 1} more, see errors)" if len(rows) > 1 else ""
                where = f"'{first['path']}' " if first["path"] else "the body "
                raise Problem(code, f"{where}{first['message']}{more}", errors=rows[:ROWS])


type Check = Callable[[Any, str, Report], Any]


def row(path: str, message: str, allowed: Collection[Any] | None) -> dict[str, Any]:
    """One line of a problem's `errors`."""
    found: dict[str, Any] = {"path": path, "message": message}
    return found if allowed is None else found | {"allowed": list(allowed)}


def under(path: str, name: object) -> str:
    """The path of a member; a name that a client made up is cut, so that it can't flood an answer or a log."""
    shown = re.sub(r"[^\x21-\x7e]", "?", str(name)[:64])
    return f"{path}.{shown}" if path else shown


def text(*, least: int = 0, most: int | None = None, pattern: str | None = None) -> Check:
    """A string of `least` to `most` characters that matches the whole `pattern`."""

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, str):
            report.mend(path, "must be a string")
        elif len(value) < least:
            report.mend(path, "must not be empty")
        elif most is not None and len(value) > most:
            report.mend(path, f"must have at most {most} characters")
        elif pattern is not None and not re.fullmatch(pattern, value):
            report.mend(path, f"must match {pattern}")
        return value

    return check


def integer(least: int, most: int) -> Check:
    def check(value: Any, path: str, report: Report) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            report.mend(path, f"must be an integer from {least} to {most}")
        return value

    return check


def number(least: float, most: float) -> Check:
    def check(value: Any, path: str, report: Report) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            report.mend(path, f"must be a number from {least} to {most}")
        return value

    return check


def boolean(value: Any, path: str, report: Report) -> Any:
    if not isinstance(value, bool):
        report.mend(path, "must be true or false")
    return value


def choice(*allowed: str) -> Check:
    """One of some words. Another word is something that we do not offer, anything else is malformed."""

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, str):
            report.mend(path, "must be a string", allowed)
        elif value not in allowed:
            report.refuse(path, "has a value that is not available", allowed)
        return value

    return check


def never(why: str) -> Check:
    """A switch that must stay off."""

    def check(value: Any, path: str, report: Report) -> Any:
        if value is True:
            report.refuse(path, why, [False])
        return boolean(value, path, report)

    return check


def array(item: Check, *, least: int = 0, most: int | None = None) -> Check:
    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, list):
            report.mend(path, "must be an array")
            return value
        if len(value) < least or (most is not None and len(value) > most):
            report.mend(path, f"must have {least} to {most} items" if most else f"must have at least {least} items")
            return value
        return [item(each, f"{path}[{index}]", report) for index, each in enumerate(value)]

    return check


def mapping(item: Check, *, most: int, name: int) -> Check:
    """An object with free member names of at most `name` characters, and at most `most` of them."""

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, dict):
            report.mend(path, "must be an object")
            return value
        if len(value) > most or any(len(key) > name for key in value):
            report.mend(path, f"must have at most {most} members with names of at most {name} characters")
            return value
        return {key: item(each, under(path, key), report) for key, each in value.items()}

    return check


def anything(value: Any, path: str, report: Report) -> Any:
    """Any JSON object: a schema, which is data to the model and judged by the provider."""
    if not isinstance(value, dict):
        report.mend(path, "must be an object")
    return value


def record(
    fields: Mapping[str, Check],
    *,
    required: Sequence[str] = (),
    refused: Mapping[str, str] = NOTHING,
    dropped: Collection[str] = (),
) -> Check:
    """An object with these members and no others; `refused` says why we lack one that clients know.

    `dropped` are left out unread: what an SDK adds to an answer for its own use, and sends back with it.
    `null` means "not given", which is how SDKs write it: such a member is left out, known or refused.
    """

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, dict):
            report.mend(path, "must be an object")
            return value
        clean: dict[str, Any] = {}
        for name, given in value.items():
            if name in fields:
                if given is not None:
                    clean[name] = fields[name](given, f"{path}.{name}" if path else name, report)
            elif name not in dropped and (given is not None or name not in refused):
                report.refuse(under(path, name), refused.get(name, "is not a field that is known here"), sorted(fields))
        for name in required:
            if value.get(name) is None:
                report.mend(under(path, name), "is required")
        return clean

    return check


def tagged(tag: str, kinds: Mapping[str, Check], what: str) -> Check:
    """An object whose member `tag` says which record it is."""

    def check(value: Any, path: str, report: Report) -> Any:
        kind = value.get(tag) if isinstance(value, dict) else None
        if not isinstance(kind, str):
            report.mend(path, f"must be an object with '{tag}'", kinds)
            return value
        if kind not in kinds:
            report.refuse(under(path, tag), f"names a {what} that is not available", kinds)
            return value
        return kinds[kind](value, path, report)

    return check


def either(plain: Check, composed: Check) -> Check:
    """A string judged by `plain`, or else what `composed` permits."""

    def check(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, (str, list, dict)):
            report.mend(path, "must be a string, or the structured form of it")
            return value
        return (plain if isinstance(value, str) else composed)(value, path, report)

    return check


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any, int]]:
    """Every scalar and member name below a value with its path and depth; without recursion, as deep as it may be."""
    pending = [(path, value, 0)]
    while pending:
        at, current, depth = pending.pop()
        if depth > DEPTH or not isinstance(current, (dict, list)):
            yield at, current, depth
        elif isinstance(current, list):
            pending.extend((f"{at}[{i}]", current[i], depth + 1) for i in reversed(range(len(current))))
        else:
            for name in reversed(current):
                pending.append((under(at, name), current[name], depth + 1))
                pending.append((under(at, name), name, depth + 1))


def sound(value: Any, report: Report) -> None:
    """What every body must be before anything else looks at it: not too deep, and writable as UTF-8 JSON."""
    if _surely_sound(value):
        return
    for path, leaf, depth in leaves(value):
        if depth > DEPTH:
            report.mend(path[:200], f"is nested more than {DEPTH} deep")
        elif isinstance(leaf, str) and not _writable(leaf):
            report.mend(path, "holds half of a surrogate pair, which is not text")
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            report.mend(path, "is not a finite number")


def _surely_sound(value: Any) -> bool:
    """The same without saying where: what nearly every body is."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, str):
                if not each.isascii() and not _writable(each):
                    return False
            elif isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, float) and not math.isfinite(each):
                return False
        if not below:
            return True
        level = below
    return False


def _writable(string: str) -> bool:
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True
