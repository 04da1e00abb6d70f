"""Reading a provider's JSON: what every wire format demands of it, and where a credential goes.

Whatever is not as it must be raises ValueError: one kind of error for all that is not the wire format.
Knows no provider's field names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from buspass.config.settings import Provider
from buspass.jsontext import read, written

MOST: Final = 2**40
"""Above every count there is, and small enough for an account."""


def loads(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Half surrogate pairs (a cut emoji) become U+FFFD: nothing behind us could write them as UTF-8."""
    try:
        document = read(text)
    except ValueError:  # a cut emoji among others
        text = text if isinstance(text, str) else text.decode()
        document = json.loads(text, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:
            document = _mended(document)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 - see the module
    return document


def items(holder: Mapping[str, Any], name: str, *, least: int = 0) -> Sequence[Any]:
    """A list member; none counts as empty."""
    found = holder.get(name)
    found = [] if found is None else found
    if not isinstance(found, list) or len(found) < least:
        raise ValueError(f"{name} is not a list of at least {least}")
    return found


def member(holder: Any, name: str) -> dict[str, Any]:
    """A member that must be an object."""
    found = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")  # noqa: TRY004 - see the module
    return found


def optional_member(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A member that must be an object; null and absent count as empty."""
    return {} if holder.get(name) is None else member(holder, name)


def string(holder: Mapping[str, Any], name: str, *, least: int = 0) -> str:
    """A member that must be a string of at least `least` characters."""
    found = holder.get(name)
    if not isinstance(found, str) or len(found) < least:
        raise ValueError(f"{name} is not a string")
    return found


def optional(holder: Mapping[str, Any], name: str) -> str:
    """A string member; null and absent count as empty."""
    return "" if holder.get(name) is None else string(holder, name)


def count(holder: Any, name: str) -> int | None:
    """A count, or None where there is none that an account could hold."""
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if type(found) is int and 0 <= found < MOST else None


def dumps(body: Mapping[str, Any]) -> bytes:
    """A request's body."""
    return written(body)


def credential_headers(provider: Provider, credential: str | None) -> dict[str, str]:
    """The one header that holds the credential, as the provider wants it."""
    match provider.auth.kind:
        case "bearer":
            return {"authorization": f"Bearer {credential}"}
        case "header":
            return {provider.auth.header.lower(): credential or ""}
        case _:
            return {}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(each) for name, each in value.items()}
    return value
