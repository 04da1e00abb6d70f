"""A request and an answer of ASGI 3, as light as they can be, and paths with names in them.

Owns headers by name, the query, an answer's head, and which template a path fits. Refuses to know JSON, problems and
what any route does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from operator import methodcaller
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type Headers = Sequence[tuple[bytes, bytes]]
type Asgi = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

AT_HAND: Final = "buspass.exchange"
"""Where a scope has an AtHand."""
OWN: Final = ((b"cache-control", b"no-store"),)
"""What no answer may lack: nothing of it may be kept on the way."""
BYTES: Final = methodcaller("encode", "latin-1")
FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection"})
"""What says where an answer ends, and is not an answer's own to say."""
_OWN_LINES: Final = b"".join(b"\r\n%b: %b" % pair for pair in OWN)
_BEGUN: Final[dict[str, str]] = {}
"""What the lines of headers begin with, by their names, which stand in the code: so it does not grow for ever."""
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NAMED: Final = re.compile(r"\{([a-z]+)(:path)?\}")


class Request:
    """One request. `headers`: the first of each name, raw, names in lower case."""

    __slots__ = ("headers", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def header(self, name: bytes, default: str = "") -> str:
        """Give a header's first value."""
        found = self.headers.get(name)
        return default if found is None else found.decode("latin-1")

    def fields(self, name: bytes) -> list[str]:
        """Give all values of a header that may come more than once."""
        return [value.decode("latin-1") for each, value in self.scope["headers"] if each == name]

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def named(self) -> Mapping[str, str]:
        """What stands in the path at the names of its template."""
        found: Mapping[str, str] = self.scope.get("path_params", {})
        return found

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, made anew; of a name that comes twice the last."""
        return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))


class Told(Protocol):
    """What sends an answer."""

    async def __call__(self, receive: Receive, send: Send, /) -> None: ...


class AtHand(Protocol):
    """What a server of ours has beyond ASGI, for what is nearly always so: a request and an answer that are whole."""

    def fetch(self) -> bytes | None:
        """Give the body if it is whole and nobody had any of it; else None, and `receive` is to be asked."""

    def answer(self, status: int, lines: bytes, body: bytes, /) -> None:
        """Send a whole answer, as two messages would. `lines`: its headers, content-length too, each behind CR LF."""


class Response:
    """A whole answer. Its own headers stand before `more`, by name."""

    __slots__ = ("body", "kind", "more", "status")

    def __init__(self, body: bytes, status: int, kind: bytes, more: Mapping[str, str]) -> None:
        self.body, self.status, self.kind, self.more = body, status, kind, more

    def lines(self) -> bytes:
        """Give the head as an AtHand takes it. Raises ValueError for what no header may be."""
        more = self.more
        try:
            written = "".join([_BEGUN[name] + value for name, value in more.items()]).encode("latin-1")
        except KeyError:
            _BEGUN.update((name, _begun(name)) for name in more)
            return self.lines()
        text = b"\r\ncontent-length: %d\r\ncontent-type: %b%b%b" % (len(self.body), self.kind, _OWN_LINES, written)
        return unbroken(text, 2 + len(OWN) + len(more))

    async def __call__(self, _receive: Receive, send: Send, /) -> None:
        own = [(b"content-length", b"%d" % len(self.body)), (b"content-type", self.kind), *OWN]
        await send({"type": "http.response.start", "status": self.status, "headers": [*own, *encoded(self.more)]})
        await send({"type": "http.response.body", "body": self.body})


def unbroken(text: bytes, lines: int) -> bytes:
    """Give the text of so many headers, each behind CR LF. Raises ValueError where a value ends its own line."""
    if text.count(b"\r") != lines or text.count(b"\n") != lines or b"\0" in text:
        raise ValueError("a header's value may not end its line")
    return text


def _begun(name: str) -> str:
    """Give what a line with this header begins with. Raises ValueError for what is no name of one, or frames."""
    lower = name.lower()
    if _TOKEN.fullmatch(lower) is None or lower in FRAMING:
        raise ValueError(f"{name!r} is no header of an answer's own")
    return f"\r\n{lower}: "


def encoded(headers: Mapping[str, str]) -> Iterable[tuple[bytes, bytes]]:
    """Give headers as ASGI wants them: names in lower case, all of it bytes."""
    return zip(map(BYTES, map(str.lower, headers)), map(BYTES, headers.values()), strict=True)


def within(scope: Scope) -> str:
    """Give a path below where the application is mounted (`root_path`)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    below = path[len(root) :]
    return below if root and path.startswith(root) and below[:1] in {"", "/"} else path


class Paths[T]:
    """What is served at templates of paths, in their order. `{name}` is one segment, `{name:path}` any rest."""

    def __init__(self, served: Iterable[tuple[str, T]]) -> None:
        self._served = [(_pattern(template), what) for template, what in served]

    def find(self, path: str) -> tuple[T, dict[str, str]] | None:
        """Give what the first template that fits serves, and what stands at its names."""
        for pattern, what in self._served:
            if (found := pattern.fullmatch(path)) is not None:
                return what, found.groupdict()
        return None


def _pattern(template: str) -> re.Pattern[str]:
    plain, *rest = _NAMED.split(template)  # plain, name, ":path" or None, plain, …
    pieces = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    named = (f"(?P<{name}>{'.*' if rest else '[^/]+'}){re.escape(after)}" for name, rest, after in pieces)
    return re.compile(re.escape(plain) + "".join(named), re.DOTALL)
