"""One tool call, judged before anything is sent: its body, the arguments bound to a subject, its fingerprint.

Pure. Refuses to know how a tool is reached, what a task has done before, and which policy applies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from buspass.config.settings import Tool
from buspass.errors import Problem
from buspass.model import Subject
from buspass.tools.schema import compiled

FIELDS: Final = ("arguments", "tool_call_id")
CALL_ID_LENGTH: Final = 256
_UNLIKE: Final = re.compile(rb"[0-9][.eE]|null")
"""What orjson may write in another way than RFC 8785 has it: a fraction, and what is no number. Names beyond ASCII may
be sorted otherwise, too.
"""


def arguments_of(body: Any) -> tuple[dict[str, Any], str | None]:
    """The arguments and the model's tool call id from a parsed body of `POST /v1/tools/{name}`.

    Raises `Problem`: `invalid_request` (no object, no `arguments`, a bad id), `unsupported` (names the field),
    `invalid_arguments` (no object; JSON in a string, as models emit it; a number that other systems would round).
    """
    if not isinstance(body, dict):
        raise Problem("invalid_request", "the body must be a JSON object {arguments, tool_call_id?}")
    unknown = sorted(set(body) - set(FIELDS))
    if unknown:
        rows = [{"path": f"/{name}", "message": "is not a field", "allowed": FIELDS} for name in unknown]
        raise Problem("unsupported", f"field {unknown[0]!r} is not supported", errors=rows)
    if "arguments" not in body:
        raise Problem("invalid_request", "arguments is missing; a tool without parameters takes {}")
    return _arguments(body["arguments"]), _call_id(body.get("tool_call_id"))


def _arguments(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        raise Problem(
            "invalid_arguments",
            "arguments must be a JSON object, not a string: parse what the model wrote and send the object",
            errors=[{"path": "/arguments", "message": "is a string", "allowed": ["object"]}],
        )
    if not isinstance(arguments, dict):
        row = {"path": "/arguments", "message": "is not an object", "allowed": ["object"]}
        raise Problem("invalid_arguments", "arguments must be a JSON object", errors=[row])
    canonical(arguments)
    return arguments


def _call_id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and 0 < len(value) <= CALL_ID_LENGTH and value.isprintable():
        return value
    raise Problem("invalid_request", f"tool_call_id must be a string of 1 to {CALL_ID_LENGTH} characters")


def fitting(tool: Tool, arguments: Mapping[str, Any]) -> Problem | None:
    """`invalid_arguments` with a row for each misfit, or None if they fit the tool's input schema."""
    rows = compiled(tool.input, declared_only=True).check(arguments)
    if not rows:
        return None
    detail = f"the arguments do not fit tool {tool.name!r}: {rows[0]['path'] or '/'} {rows[0]['message']}"
    return Problem("invalid_arguments", detail, errors=rows)


def bound(where: Mapping[str, Any], arguments: Mapping[str, Any], subject: Subject | None) -> Iterator[Problem]:
    """`denied` for each argument that differs from what the step binds it to; compared, never filled in.

    `$subject.id` is the proven subject's id; anything else is a literal. An argument left out differs. Whatever else
    begins with `$` has no meaning here and is never met.
    """
    for name, wanted in where.items():
        if wanted == "$subject.id":
            met = subject is not None and _same(arguments.get(name), subject.id)
            rule = "the id of the subject that this task acts for"
        else:
            unknown = isinstance(wanted, str) and wanted.startswith("$")
            met = not unknown and name in arguments and _same(arguments[name], wanted)
            rule = "the value that the workflow fixes"
        if not met:
            row = {"path": f"/{name}", "message": f"must equal {rule}"}
            detail = f"argument {name!r} must equal {rule}"
            yield Problem("denied", detail, errors=[row], reasons=[f"argument_bound: {name}"])


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values: `1` is `1.0`, but neither `true` nor `"1"`."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def canonical(value: Any) -> bytes:
    """RFC 8785, of what was JSON. Raises `invalid_arguments` for integers beyond ±(2⁵³-1), half surrogate pairs."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)
        if text.isascii() and not _UNLIKE.search(text):
            return text
    except TypeError:  # the slow way says why
        pass
    import rfc8785  # noqa: PLC0415 - hardly any arguments need it

    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        row = {"path": "/arguments", "message": str(error)}
        raise Problem("invalid_arguments", f"the arguments are not portable: {error}", errors=[row]) from None


def fingerprint(tool: str, arguments: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical form of tool and arguments: the same action has the same fingerprint."""
    return hashlib.sha256(canonical([tool, dict(arguments)])).hexdigest()
