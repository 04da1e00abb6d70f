"""SQLite as a state store: one file, any number of processes, group commit over concurrent callers.

Owns the two threads, one that writes and one that reads, and the way from the port's methods to them.
Refuses to know what an item means. An apply is one transaction, so after a refusal nothing of it stands.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from buspass.ports.operations import is_name
from buspass.ports.state import (
    Applied,
    Item,
    Operation,
    Refused,
    State,
    Unavailable,
    check,
    check_names,
    check_page,
)
from buspass_onprem.batches import Batches
from buspass_onprem.sqlite_commit import Apply, Committer, decode
from buspass_onprem.sqlite_file import File, parse

type Query = tuple[str, tuple[str | int, ...]]
type Rows = list[tuple[Any, ...]]
type Queries = list[Query]
type Answers = list[Rows | Exception]

_READ: Final = "SELECT value FROM item WHERE part = ? AND key = ?"
_LIST: Final = "SELECT key, value FROM item WHERE part = ? AND key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?"
_FIND: Final = "SELECT part, key FROM entry WHERE name = ? AND shard = ? AND sort <= ? ORDER BY sort, part, key LIMIT ?"
_AFTER_ALL: Final = "\x7f"  # keys are printable ASCII, so this comes after each of them


async def open(url: str) -> State:  # noqa: A001  (the name of every adapter's way in)
    """Open `sqlite:///PATH?durability=power|process`, creating what is missing of file and folder.

    Three slashes before a path relative to the working directory, four before an absolute one. `durability`:
    power (the default) survives the loss of power (synchronous FULL), process that of the process (NORMAL).
    Raises ValueError for a bad URL or a file that isn't ours, Unavailable where the file can't be had.
    """
    address = parse(url)
    return SQLiteState(await asyncio.to_thread(File, address))


class SQLiteState:
    """The port over an opened file. Waits five seconds for other processes, then it is Unavailable."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._closed = False
        self._committer = Committer(file)
        self._reader = file.connect(wait=5)
        self._writes = Batches[Apply, Applied | Refused]("sqlite-write", self._committer.commit)
        self._reads = Batches[Query, Rows]("sqlite-read", self._answer)

    async def read(self, partition: str, key: str) -> Item | None:
        check_names(partition, key)
        rows = await self._query(_READ, partition, key)
        return decode(rows[0][0]) if rows else None

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        check_names(partition)
        check_page(limit, prefix, after)
        rows = await self._query(_LIST, partition, prefix, after, prefix + _AFTER_ALL, limit)
        return [(key, decode(value)) for key, value in rows]

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        check_names(index, shard)
        check_page(limit, until)
        return [(partition, key) for partition, key in await self._query(_FIND, index, shard, until, limit)]

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        if not is_name(partition):
            check_names(partition)
        check(operations)
        if self._closed or not self._file.here:
            raise Unavailable(0, self._why())
        return await self._writes.ask((partition, operations))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._file.forked():  # the connections belong to the process before the fork
            return
        await self._reads.close()
        await self._writes.close()
        self._reader.close()
        self._committer.close()  # the last connection of all moves the log into the file

    async def _query(self, statement: str, *values: str | int) -> Rows:
        if self._closed or not self._file.here:
            raise Unavailable(0, self._why())
        return await self._reads.ask((statement, values))

    def _why(self) -> str:
        return self._file.forked() or "the store is closed"

    def _answer(self, queries: Queries) -> Sequence[Rows | Exception]:
        why = self._file.lost()
        if why:
            return [Unavailable(0, why) for _ in queries]
        answers: Answers = []
        for statement, values in queries:
            try:
                answers.append(self._reader.execute(statement, values).fetchall())
            except sqlite3.Error as error:
                answers.append(Unavailable(0, f"{self._file.path}: {error}"))
        return answers
