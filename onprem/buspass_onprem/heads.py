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

from buspass.http.asgi import Headers

KNOWN: Final = 1024
"""Targets and names of headers that are remembered."""
LONG: Final = 256
"""Bytes of a target from which on it is not."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode() for code in range(100, 600)}
_FRAMES: Final = {b"\r\n%b: " % name: name for name in (b"content-length", b"transfer-encoding", b"connection")}
"""Headers that say where an answer ends, by what each begins with: they are looked at each time."""

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
    if len(url) < LONG:
        if len(_targets) >= KNOWN:
            _targets.clear()
        _targets[url] = found
    return found


def lines(headers: Headers) -> tuple[bytes, dict[bytes, bytes]]:
    """Write headers, each after a line's end, and give those that frame by name. Raises ValueError for what is none."""
    text: list[bytes] = []
    framing: dict[bytes, bytes] = {}
    for name, value in headers:
        if (begun := _names.get(name)) is None:
            begun = _learn(name)
            if begun in _FRAMES and framing.setdefault(_FRAMES[begun], value) is not value:
                raise ValueError(f"{name!r} stands there twice")
        text += (begun, value)
    written = b"".join(text)
    if written.count(b"\r") != len(headers) or written.count(b"\n") != len(headers) or b"\0" in written:
        raise ValueError("a header's value may not end its line")
    return written, framing


def _learn(name: bytes) -> bytes:
    """Give what a header begins with: its name in lower case. Remembers all but those that have to be looked at."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a header")
    begun = b"\r\n%b: " % name.lower()
    if begun not in _FRAMES:
        if len(_names) >= KNOWN:
            _names.clear()
        _names[name] = begun
    return begun


def joined(headers: Headers) -> Headers:
    """Give each header once, as Lambda and Functions do: repeated ones comma-joined (RFC 9110 §5.3).

    Otherwise two Authorization headers would mean the first here, and neither there.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        between = b"; " if name == b"cookie" else b","
        found[name] = found[name] + between + value if name in found else value
    return list(found.items())
