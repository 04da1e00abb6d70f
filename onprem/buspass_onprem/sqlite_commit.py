"""Group commit: all applies that wait become one transaction, judged one after the other, written once.

Owns the one connection that writes. Refuses to know event loops: it gets a list of applies and answers each.

An item that many applies of a batch change is read once and written once: conditions and changes are judged
on the item in hand, in the order in which the applies came. Each apply is judged whole before any of it
counts, so a refusal leaves nothing behind and needs no savepoint.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from buspass.jsontext import read, written
from buspass.ports.state import (
    Applied,
    Delete,
    Item,
    Misfit,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    Unavailable,
    Update,
    accepts,
    changed,
)
from buspass_onprem.sqlite_file import File

type Apply = tuple[str, Sequence[Operation]]
type Answer = Applied | Refused | Misfit
type Place = tuple[str, str]
type Statement = tuple[str, tuple[str, ...]]

WAIT: Final = 5.0
"""Seconds until a transaction that other processes keep from beginning is given up."""

_READ: Final = "SELECT value FROM item WHERE part = ? AND key = ?"
_INSERT: Final = "INSERT INTO item (value, part, key) VALUES (?, ?, ?)"
_UPDATE: Final = "UPDATE item SET value = ? WHERE part = ? AND key = ?"
_DELETE: Final = "DELETE FROM item WHERE part = ? AND key = ?"
_ENTER: Final = "REPLACE INTO entry (part, key, name, shard, sort) VALUES (?, ?, ?, ?, ?)"
_WITHDRAW: Final = "DELETE FROM entry WHERE part = ? AND key = ? AND name = ?"
_WITHDRAW_ALL: Final = "DELETE FROM entry WHERE part = ? AND key = ?"


def decode(text: str) -> dict[str, Any]:
    item: dict[str, Any] = read(text)
    return item


@dataclass(slots=True)
class Batch:
    """The items of one transaction: as the file has them, and as the applies so far make them."""

    connection: sqlite3.Connection
    was: dict[Place, bool] = field(default_factory=dict)
    now: dict[Place, Item | None] = field(default_factory=dict)
    touched: dict[Place, None] = field(default_factory=dict)
    entries: list[Statement] = field(default_factory=list)

    def item(self, place: Place) -> Item | None:
        if place not in self.now:
            row = self.connection.execute(_READ, place).fetchone()
            self.was[place] = row is not None
            self.now[place] = decode(row[0]) if row else None
        return self.now[place]

    def judge(self, partition: str, operations: Sequence[Operation]) -> Answer:
        """Take the whole apply in, or nothing of it."""
        outcomes: list[Item | None] = []
        for index, operation in enumerate(operations):
            item = self.item((partition, operation.key))
            if not accepts(operation, item):
                return Refused(index, item)
            if isinstance(operation, Update):
                try:
                    outcomes.append(changed(operation, item or {}, index))
                except Misfit as misfit:
                    return misfit
            else:
                outcomes.append(operation.value if isinstance(operation, Put) else None)
        for operation, outcome in zip(operations, outcomes, strict=True):
            place = (partition, operation.key)
            if not isinstance(operation, Update) and self.now[place] is not None:
                self.entries.append((_WITHDRAW_ALL, place))
            self.now[place] = outcome
            self.touched[place] = None
            if not isinstance(operation, Delete) and operation.index:
                self._enter(place, operation)
        return Applied(outcomes[-1])

    def _enter(self, place: Place, operation: Put | Update) -> None:
        for name, entry in operation.index.items():
            if entry is not None:
                self.entries.append((_ENTER, (*place, name, *entry)))
            else:
                self.entries.append((_WITHDRAW, (*place, name)))

    def write(self) -> None:
        execute = self.connection.execute
        for place in self.touched:
            item, was = self.now[place], self.was[place]
            if item is not None:
                execute(_UPDATE if was else _INSERT, (written(item).decode(), *place))
            elif was:
                execute(_DELETE, place)
        for statement, values in self.entries:
            execute(statement, values)


class Committer:
    """Answers batches of applies; to be used by one thread at a time."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._connection = file.connect(wait=0)

    def commit(self, applies: list[Apply]) -> Sequence[Applied | Refused | Exception]:
        """Answer each apply. Nothing is answered with Applied or Refused before its transaction is committed."""
        why = self._file.lost() or self._begin()
        if why:
            return [Unavailable(0, why) for _ in applies]
        try:
            batch = Batch(self._connection)
            answers = [batch.judge(partition, operations) for partition, operations in applies]
            batch.write()
        except sqlite3.Error as error:
            self._undo()
            return [Unavailable(0, f"{self._file.path}: {error}") for _ in applies]
        except BaseException:  # a mistake of ours must not leave the file locked for everybody
            self._undo()
            raise
        return self._end(answers)

    def close(self) -> None:
        self._connection.close()

    def _begin(self) -> str | None:
        """Begin, or say why not. SQLite's own waiting grows to 100 ms a step: far longer than a commit takes."""
        until, pause = time.monotonic() + WAIT, 0.0001
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    return f"{self._file.path}: {error}"
            else:
                return None
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (spreads processes, guards nothing)
            pause = min(pause * 2, 0.002)

    def _end(self, answers: Sequence[Answer]) -> Sequence[Applied | Refused | Exception]:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            why = f"{self._file.path}: {error}"
            # What was refused on the ground of a commit that failed was not applied, but why it was is unknown.
            return [
                OutcomeUnknown(0, why) if isinstance(answer, Applied) else Unavailable(0, why) for answer in answers
            ]
        return answers

    def _undo(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite undoes by itself what was not committed
                self._connection.execute("ROLLBACK")
