"""Heads of HTTP/1.1: what a request's line names, and an answer's head as bytes.

Owns names, values and status lines. Refuses to know connections and bodies. What is asked for and said all the time is
known after the first time, so that it is looked up and not judged again; a value never is, and none may end its line.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from httptools import parse_url

from buspass.http.asgi import Headers, unbroken

KNOWN: Final = 1024
"""Targets and names of headers that are remembered."""
LONG: Final = 256
"""Bytes of a target from which on it is not."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST: Final = re.compile(rb"(\[[0-9A-Za-z.:_~-]+\]|[-._~!$&'()*+,;=%0-9A-Za-z]*)(:[0-9]*)?")
"""What RFC 3986 lets stand for a host and its port; an empty one is one, too."""
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode() for code in range(100, 600)}
FRAMING: Final = (b"content-length", b"transfer-encoding", b"connection")
"""Headers that say where an answer ends."""

_targets: dict[bytes, tuple[str, bytes, bytes]] = {}
_names: dict[bytes, bytes] = {}


def target(url: bytes) -> tuple[str, bytes, bytes]:
    """Give a request target's path, the same as it came, and the query. Raises ValueError, HttpParserInvalidURLError.

    A path is unquoted; what is no ASCII is refused, what is no UTF-8 once unquoted is replaced.
    """
    if (known := _targets.get(url)) is not None:
        return known
    parsed = parse_url(url)
    path = parsed.path.decode("ascii")
    found = (unquote(path) if "%" in path else path, parsed.path, parsed.query or b"")
    if len(url) < LONG and not parsed.query:  # what stands in a query is nobody's to keep
        if len(_targets) >= KNOWN:
            _targets.clear()
        _targets[url] = found
    return found


def host(headers: Headers, version: str) -> bytes | None:
    """Give the one Host of a request, which HTTP/1.0 may leave out. Raises ValueError (RFC 9112 §3.2)."""
    found = [value for name, value in headers if name == b"host"]
    if len(found) > 1 or not (found or version == "1.0"):
        raise ValueError("more than one Host" if found else "no Host")
    if found and _HOST.fullmatch(found[0]) is None:
        raise ValueError(f"{found[0]!r} is no Host")
    return found[0] if found else None


def lines(headers: Headers) -> tuple[bytes, dict[bytes, bytes]]:
    """Write headers, each after a line's end, and give them by name. Raises ValueError for what is none."""
    try:
        written = b"".join([_names[name] + value for name, value in headers])
    except KeyError:
        return lines([(_learn(name), value) for name, value in headers])
    named = dict(headers)
    if len(named) != len(headers):  # what frames the body must not be said twice
        for name in FRAMING:
            if sum(each == name for each, _ in headers) > 1:
                raise ValueError(f"{name!r} stands there twice")
    return unbroken(written, len(headers)), named


def _learn(name: bytes) -> bytes:
    """Give a header's name in lower case, which is known from now on."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a header")
    lower = name.lower()
    if lower not in _names:
        if len(_names) >= KNOWN:
            _names.clear()
        _names[lower] = b"\r\n%b: " % lower
    return lower


def joined(headers: Headers) -> Headers:
    """Give each header once, as Lambda and Functions do: repeated ones comma-joined (RFC 9110 §5.3).

    Otherwise two Authorization headers would mean the first here, and neither there.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        between = b"; " if name == b"cookie" else b","
        found[name] = found[name] + between + value if name in found else value
    return list(found.items())
