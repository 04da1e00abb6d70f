"""Server-sent events, as they come: bytes in, events out. Knows no provider.

Source: html.spec.whatwg.org, "Server-sent events": lines end with LF, CR or CRLF; a blank line ends an event; lines
that begin with a colon are comments; one byte order mark may open the stream; an unfinished event is dropped.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

LIMIT: Final = 4_000_000
"""Bytes of one event: a whole tool call may come in one piece."""
LINE_END: Final = re.compile(rb"\r\n|\r|\n")
BOM: Final = b"\xef\xbb\xbf"


class Event(Struct, frozen=True, kw_only=True):
    """One event: its name ("" where it has none) and its data."""

    name: str
    data: str


class Parser:
    """Keeps what has not become an event yet, at most `limit` bytes of it."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._line: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes. Raises ValueError where one is too long or no UTF-8."""
        if not piece:
            return []
        if not self._size and not self._name and not self._after_cr and (events := self._whole(piece)) is not None:
            return events
        start = 1 if self._after_cr and piece[:1] == b"\n" else 0
        self._after_cr = piece[-1:] == b"\r"
        *ended, rest = LINE_END.split(piece[start:])
        events = []
        for line in ended:
            self._keep(line)
            whole, self._line = b"".join(self._line), []
            event = self._take(whole)
            if event is not None:
                events.append(event)
        self._keep(rest)
        return events

    def _whole(self, piece: bytes) -> list[Event] | None:
        """The events of a piece that is nothing but whole ones, each of one name at most and data; None for others.

        That is how providers write, and nearly how all of it comes.
        """
        if len(piece) > self._limit or piece[-2:] != b"\n\n" or b"\r" in piece:
            return None
        events = []
        for block in piece[:-2].decode().split("\n\n"):
            name = ""
            if block[:7] == "event: ":
                name, _, block = block[7:].partition("\n")  # noqa: PLW2901 - the rest of it
            if block[:6] != "data: " or "\n" in block:
                return None
            events.append(Event(name=name, data=block[6:]))
        self._first = False
        return events

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise ValueError(f"an event of more than {self._limit} bytes")
        if piece:
            self._line.append(piece)

    def _take(self, line: bytes) -> Event | None:
        if self._first:
            self._first, line = False, line.removeprefix(BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.decode().partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        if not self._data:  # comments and names take no room: a stream of pings may last for hours
            self._size = 0
        return None

    def _dispatch(self) -> Event | None:
        event = Event(name=self._name, data="\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event
