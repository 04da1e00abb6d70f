"""The SQLite file: its URL, its layout, its connections, and whether it is still the one that was opened.

Owns everything below a transaction. Refuses to know operations and callers.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakSet

from msgspec import Struct

from buspass.ports.state import Unavailable

type Durability = Literal["power", "process"]

_APPLICATION: Final = 0x42757350  # "BusP": a file of ours says so (PRAGMA application_id)
_LAYOUT: Final = 1
_SYNCHRONOUS: Final = {"power": "FULL", "process": "NORMAL"}
_TABLES: Final = (
    "CREATE TABLE item (part TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (part, key))",
    """CREATE TABLE entry (
        part TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, shard TEXT NOT NULL, sort TEXT NOT NULL,
        PRIMARY KEY (part, key, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX entry_sorted ON entry (name, shard, sort)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_LAYOUT}",
)


_OPENED: Final[WeakSet[File]] = WeakSet()


class Address(Struct, frozen=True, kw_only=True):
    """What a URL says: `durability` power survives the loss of power, process the loss of the process only."""

    path: Path
    durability: Durability


def parse(url: str) -> Address:
    """Read `sqlite:///RELATIVE` or `sqlite:////ABSOLUTE`, with `?durability=power|process`. Raises ValueError."""
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment or not path or path.endswith("/"):
        raise ValueError(f"state {url!r}: allowed is sqlite:///PATH (relative) or sqlite:////PATH (absolute)")
    options = parse_qsl(parts.query, keep_blank_values=True)
    durability: Durability = "power"
    for name, value in options:
        if name != "durability" or len(options) > 1:
            raise ValueError(f"state {url!r}: parameter {name!r}; allowed is durability, once")
        if value not in ("power", "process"):
            raise ValueError(f"state {url!r}: durability {value!r}; allowed are power and process")
        durability = "power" if value == "power" else "process"
    return Address(path=Path(path).absolute(), durability=durability)


class File:
    """The file as it was opened: this very inode, by this very process."""

    def __init__(self, address: Address) -> None:
        """Create what is missing. Raises ValueError for a file that isn't ours, Unavailable where it can't be had."""
        self.path, self._name = address.path, str(address.path)
        self._synchronous = _SYNCHRONOUS[address.durability]
        self._process = os.getpid()
        self.here = True
        """Whether this is the process that opened: False in a child by `fork`, whose threads are not there."""
        _OPENED.add(self)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._inode = self._seen()
        except OSError as error:
            raise Unavailable(0, f"{self.path} can't be opened: {error.strerror}") from error
        self._prepare()

    def connect(self, *, wait: float) -> sqlite3.Connection:
        """Open a connection; `wait` seconds for a lock. Transactions are begun and ended by hand."""
        connection = sqlite3.connect(self.path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            _patiently(connection, f"PRAGMA synchronous = {self._synchronous}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def forked(self) -> str | None:
        """Say that this is another process than the one that opened, or None. Asks again, as `here` does not."""
        if not self.here or os.getpid() != self._process:
            return f"{self.path} was opened before a fork: open it again in the new process"
        return None

    def lost(self) -> str | None:
        """Say why the file is not there any more, or None. SQLite itself goes on writing into a deleted file."""
        try:
            seen = self._seen()
        except OSError as error:
            return f"{self.path} is lost: {error.strerror}"
        return None if seen == self._inode else f"{self.path} was replaced by another file: open it again"

    def _seen(self) -> tuple[int, int]:
        status = os.stat(self._name)  # noqa: PTH116 - asked before each commit, and a Path takes twice as long
        return status.st_dev, status.st_ino

    def _prepare(self) -> None:
        try:
            connection = self.connect(wait=10)
            try:
                _patiently(connection, "PRAGMA journal_mode = WAL")
                _lay_out(connection, self.path)
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise Unavailable(0, f"{self.path} can't be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is no SQLite file: {error}") from error


def _in_child() -> None:
    for file in _OPENED:
        file.here = False


os.register_at_fork(after_in_child=_in_child)  # so that no apply has to ask for the process's number


def _patiently(connection: sqlite3.Connection, pragma: str) -> None:
    """Run a pragma that reads the file's header, and may meet a lock for which SQLite itself does not wait.

    So it is where another process switches the file to WAL, or closes the last connection and takes the WAL away.
    """
    for pause in (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, None):
        try:
            connection.execute(pragma).fetchone()
        except sqlite3.OperationalError as error:
            if pause is None or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(pause)
        else:
            return


def _lay_out(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and layout == 0 and tables == 0:
            for statement in _TABLES:
                connection.execute(statement)
        elif application != _APPLICATION:
            raise ValueError(f"{path} is a SQLite file, but not one of Buspass")
        elif layout != _LAYOUT:
            raise ValueError(f"{path} has layout {layout}; this version of Buspass reads layout {_LAYOUT}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
