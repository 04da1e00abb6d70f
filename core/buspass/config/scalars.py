"""The small languages of buspass.yaml's values: durations, percents, rates, money, names, URLs, JSON pointers.

Each reader takes what YAML gave and returns the meaning or raises ValueError saying what is allowed. No floats touch
money. Refuses to know where a value stands.
"""

from __future__ import annotations

import ipaddress
import os
import re
from decimal import Decimal
from typing import Any, Final, Literal, cast
from urllib.parse import SplitResult, urlsplit

from buspass.model import MICRO, UNLIMITED

UNITS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
LOCAL: Final = frozenset({"localhost"})
SECRETS: Final = ("sk-", "AKIA", "eyJ", "-----BEGIN", "bp_", "ghp_", "AIza")
"""How values begin that are secrets themselves, not names of one."""

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_PERCENT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|m|h|d)")
_PERIODIC: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(hour|day|week|month)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FUNCTION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./+=@-]{0,255}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_POINTER: Final = re.compile(r"(/([^~/]|~[01])*)*")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_SQLITE_QUERIES: Final = frozenset({"", "durability=power", "durability=process"})
_QUERY_ALLOWED: Final = {"sqlite": "durability=power, durability=process", "file": "none"}
_RESERVED: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "txn-token", "traceparent", "idempotency-key"}
)


def duration(value: Any) -> float:
    """Seconds, from `300ms 30s 10m 2h 1d`."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_said(value)} is not a duration; allowed: a number with ms, s, m, h or d, such as 30s")
    seconds = Decimal(found[1]) * UNITS[found[2]]
    if seconds > 3660 * 86400:
        raise ValueError(f"{_said(value)} is longer than ten years")
    return float(seconds)


def positive_duration(value: Any) -> float:
    """Seconds above 0."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError(f"{_said(value)} is no time at all; allowed: more than 0")
    return seconds


def short_duration(value: Any) -> float:
    """Seconds up to a minute, 0 included."""
    seconds = duration(value)
    if seconds > 60:
        raise ValueError(f"{_said(value)} is too long; allowed: 0s to 60s")
    return seconds


def percent(value: Any) -> float:
    """A fraction of 1, from `2%`."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None or Decimal(found[1]) > 100:
        raise ValueError(f"{_said(value)} is not a percentage; allowed: 0% to 100%, such as 80%")
    return float(Decimal(found[1]) / 100)


def rate(value: Any) -> float:
    """Events a second, from `10/s 600/m`."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or Decimal(found[1]) <= 0:
        raise ValueError(f"{_said(value)} is not a rate; allowed: a number with /s, /m, /h or /d, such as 10/s")
    return float(Decimal(found[1]) / UNITS[found[2]])


type Period = Literal["", "hour", "day", "week", "month"]


def periodic(value: Any) -> tuple[int, Period]:
    """Micro-dollars and the period they are for, from `200/day 5000/month`; a bare amount is for ever: period ""."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return money(value), ""
    found = _PERIODIC.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_said(value)} is not money; allowed: USD, alone or with /hour, /day, /week or /month")
    return money(Decimal(found[1])), cast("Period", found[2])


def money(value: Any) -> int:
    """Micro-dollars, from USD with at most six decimals."""
    return _exact(value, "an amount in USD")


def price(value: Any) -> int:
    """Pico-dollars a token, from USD per million tokens with at most six decimals."""
    return _exact(value, "a price in USD per million tokens")


def _exact(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        what = f"{_said(value)} is not {what}; allowed: a number of 0 or more, such as 0.50"
        raise ValueError(what)  # noqa: TRY004 - pydantic takes no TypeError
    scaled = Decimal(value) * MICRO
    if scaled < 0 or scaled >= UNLIMITED:
        raise ValueError(f"{_said(value)} is not {what}; allowed: 0 to {(UNLIMITED - 1) // MICRO}")
    if scaled != int(scaled):
        raise ValueError(f"{_said(value)} has more than six decimals")
    return int(scaled)


def name(value: str) -> str:
    """A name of ours."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; allowed: letters, digits, '.', '_', '-', at most 64")
    return value


def function_name(value: str) -> str:
    """A tool's name: what every model provider accepts as a function's."""
    if not _FUNCTION.fullmatch(value):
        raise ValueError(f"{value!r} is not a tool's name; allowed: letters, digits, '_', '-', at most 64")
    return value


def secret_name(value: str) -> str:
    """The name of a secret in the host's own store; a secret itself is told from it and never repeated."""
    if value.startswith(SECRETS):
        raise ValueError("this looks like the secret itself; name where it lies, such as {secret: OPENAI_API_KEY}")
    if not _SECRET.fullmatch(value):
        raise ValueError("not a secret's name; allowed: letters, digits and _ / . + = @ -, at most 256")
    return value


def header_name(value: str) -> str:
    """An HTTP field name (RFC 9110, 5.1) that the gateway does not set itself."""
    if not _HEADER.fullmatch(value):
        raise ValueError(f"{value!r} is not a header's name")
    if value.lower() in _RESERVED:
        raise ValueError(f"{value!r} is set by the gateway itself")
    return value


def pointer(value: str) -> str:
    """A JSON pointer (RFC 6901)."""
    if not _POINTER.fullmatch(value):
        raise ValueError(f"{value!r} is not a JSON pointer; allowed: such as /order/id, with ~0 for ~ and ~1 for /")
    return value


def http_url(value: str) -> str:
    """An absolute http(s) URL without userinfo, query or fragment; a trailing slash is dropped."""
    return issuer_url(value).rstrip("/")


def issuer_url(value: str) -> str:
    """The same, kept to the letter: an issuer is compared with a token's `iss` as it stands."""
    split = _split(value)
    if split.username is not None or split.password is not None:
        raise ValueError("a URL never holds a user or password; use auth:")
    if split.scheme not in {"http", "https"} or not split.hostname:
        raise ValueError(f"{value!r} is not a URL; allowed: https://HOST/PATH, or http:// by name")
    if split.query or split.fragment or value.endswith(("?", "#")):
        raise ValueError(f"{value!r} has a query or fragment; allowed: scheme, host and path")
    if any(character.isspace() or ord(character) < 0x21 for character in value):
        raise ValueError(f"{value!r} holds a blank or control character")
    return value


def tool_url(value: str) -> str:
    """An http(s) URL whose path may hold `{argument}` as whole or part of a segment."""
    split = urlsplit(issuer_url(value))
    if "{" in split.netloc or "}" in split.netloc:
        raise ValueError(f"{value!r} has an argument in its host; allowed: in the path only")
    rest = _PLACEHOLDER.sub("", split.path)
    if "{" in rest or "}" in rest or "" in arguments_in(value):
        raise ValueError(f"{value!r} has an unfinished {{argument}}")
    return value


def arguments_in(url: str) -> list[str]:
    """The names of a tool URL's `{argument}`s, in order."""
    return _PLACEHOLDER.findall(urlsplit(url).path)


def store_url(value: str, schemes: tuple[str, ...]) -> str:
    """A store's URL with one of `schemes`; of those on a disk also its path and query."""
    scheme, found, rest = value.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("a URL never holds a user or password")
    if not found or scheme not in schemes:
        said = f"{scheme}://" if found else value
        raise ValueError(f"{said!r} is not known; allowed: {', '.join(f'{each}://' for each in schemes)}")
    if scheme in {"file", "sqlite"}:
        path, _, query = rest.partition("?")
        if not path.startswith("/") or not path.strip("/"):
            raise ValueError(f"{value!r} has no path; allowed: {scheme}:///RELATIVE, {scheme}:////ABSOLUTE")
        if query not in (_SQLITE_QUERIES if scheme == "sqlite" else {""}):
            raise ValueError(f"{value!r} has an unknown query; allowed: {_QUERY_ALLOWED[scheme]}")
    return value


def absolute(url: str, folder: str) -> str:
    """A `file:///` or `sqlite:///` URL with a relative path made absolute (four slashes); others as they are."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"file", "sqlite"}:
        return url
    path, mark, query = rest.removeprefix("/").partition("?")
    return f"{scheme}:///{os.path.normpath(os.path.join(folder, path))}{mark}{query}"  # noqa: PTH118 - a URL's path


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host.lower() in LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def authority(url: str) -> tuple[str, str]:
    """A URL's host, and `host:port` with its scheme's port filled in and an IPv6 address in brackets."""
    split = _split(url)
    host = split.hostname or ""
    port = split.port or (443 if split.scheme == "https" else 80)
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(value: str) -> SplitResult:
    try:
        split = urlsplit(value)
        _ = split.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    return split


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return repr(value) if isinstance(value, str) else format(value, "f" if isinstance(value, Decimal) else "")
