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

OWN: Final = ((b"cache-control", b"no-store"),)
"""What no answer may lack: nothing of it may be kept on the way."""
BYTES: Final = methodcaller("encode", "latin-1")
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


class Response:
    """A whole answer. Its own headers stand before `more`, by name."""

    __slots__ = ("body", "head", "status")

    def __init__(self, body: bytes, status: int, kind: bytes, more: Mapping[str, str]) -> None:
        self.body, self.status = body, status
        self.head = [(b"content-length", b"%d" % len(body)), (b"content-type", kind), *OWN, *encoded(more)]

    async def __call__(self, _receive: Receive, send: Send, /) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.head})
        await send({"type": "http.response.body", "body": self.body})


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
