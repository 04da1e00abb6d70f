"""Group commit: all applies that wait become one transaction, judged one after the other, written once.

Owns the one connection that writes. Refuses to know event loops: it gets a list of applies and answers each.

An item that many applies of a batch change is read once and written once: conditions and changes are judged
on the item in hand, in the order in which the applies came. Each apply is judged whole before any of it
counts, so a refusal leaves nothing behind and needs no savepoint.

What was updated last is remembered, and read again only after another connection has written (`data_version`
says so, inside the transaction). What is put for the first time is not looked for: the table's own key finds one
that is there, and then the whole batch is judged once more, looking first.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from buspass.jsontext import read
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
from buspass_onprem.sqlite_text import Place, Texts

type Apply = tuple[str, Sequence[Operation]]
type Answer = Applied | Refused | Misfit
type Known = OrderedDict[Place, Item]
type Statement = tuple[str, tuple[str, ...]]

WAIT: Final = 5.0
"""Seconds until a transaction that other processes keep from beginning is given up."""

KEPT: Final = 256
"""Items that are remembered: the heads of tasks that live."""

_VERSION: Final = "PRAGMA data_version"
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


class Batch(Struct):
    """The items of one transaction: as the file has them, and as the applies so far make them.

    `known`: items that the file surely has so. `looks`: a first put looks whether there is one already. `touched`: what
    changed an item, None where it was put or deleted.
    """

    execute: Callable[..., sqlite3.Cursor]
    known: Known
    texts: Texts
    looks: bool
    was: dict[Place, bool] = field(default_factory=dict)
    now: dict[Place, Item | None] = field(default_factory=dict)
    touched: dict[Place, list[Update] | None] = field(default_factory=dict)
    assumed: set[Place] = field(default_factory=set)
    entries: list[Statement] = field(default_factory=list)

    def item(self, place: Place, operation: Operation) -> Item | None:
        if place in self.now:
            return self.now[place]
        found = self.known.get(place)
        if found is None and (self.looks or operation.require or not isinstance(operation, Put)):
            return self._look(place)
        if found is None:
            self.assumed.add(place)
        self.was[place] = found is not None
        self.now[place] = found
        return found

    def _look(self, place: Place) -> Item | None:
        row = self.execute(_READ, place).fetchone()
        found = self.now[place] = decode(row[0]) if row else None
        self.was[place] = row is not None
        return found

    def judge(self, partition: str, operations: Sequence[Operation]) -> Answer:
        """Take the whole apply in, or nothing of it."""
        answer = self._judge(partition, operations)
        if isinstance(answer, Applied) or self.looks:
            return answer
        for index, operation in enumerate(operations[: answer.index]):  # nothing will be written that finds them
            place = (partition, operation.key)
            if place in self.assumed and place not in self.touched and (there := self._look(place)) is not None:
                return Refused(index, there)
        return answer

    def _judge(self, partition: str, operations: Sequence[Operation]) -> Answer:
        outcomes: list[Item | None] = []
        for index, operation in enumerate(operations):
            item = self.item((partition, operation.key), operation)
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
            updates = self.touched.setdefault(place, [])
            if not isinstance(operation, Update):
                self.touched[place] = None
            elif updates is not None:
                updates.append(operation)
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
        """Write what changed. Raises sqlite3.IntegrityError where something is there that was not looked for."""
        execute = self.execute
        for place, updates in self.touched.items():
            item, was = self.now[place], self.was[place]
            if item is not None:
                text = self.texts.of(place, item, self.known.get(place), updates)
                execute(_UPDATE if was else _INSERT, (text, *place))
            elif was:
                execute(_DELETE, place)
            elif place in self.assumed and execute(_READ, place).fetchone() is not None:
                raise sqlite3.IntegrityError  # put and deleted in one batch: the put was refused in truth
        for statement, values in self.entries:
            execute(statement, values)

    def remember(self) -> None:
        """Know what was committed: items that are updated will be so again."""
        for place, updates in self.touched.items():
            item = self.now[place]
            if item is not None and (updates or place in self.known):
                self.known[place] = item
                self.known.move_to_end(place)
            else:
                self.known.pop(place, None)
        while len(self.known) > KEPT:
            self.known.popitem(last=False)


class Committer:
    """Answers batches of applies; to be used by one thread at a time."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._connection = file.connect(wait=0)
        self._cursor = self._connection.cursor()  # one for all: each statement's rows are read at once
        self._known: Known = OrderedDict()
        self._texts = Texts()
        self._version = 0

    def commit(self, applies: list[Apply]) -> Sequence[Applied | Refused | Exception]:
        """Answer each apply. Nothing is answered with Applied or Refused before its transaction is committed."""
        return self._commit(applies, looks=False) or self._commit(applies, looks=True) or []

    def _commit(self, applies: list[Apply], *, looks: bool) -> Sequence[Applied | Refused | Exception] | None:
        """Do it; None, and nothing was done, where a first put was not the first."""
        why = self._file.lost() or self._begin()
        if why:
            return [Unavailable(0, why) for _ in applies]
        try:
            self._forget_if_others_wrote()
            batch = Batch(self._cursor.execute, self._known, self._texts, looks)
            answers = [batch.judge(partition, operations) for partition, operations in applies]
            batch.write()
        except sqlite3.Error as error:
            self._undo()
            if not looks and isinstance(error, sqlite3.IntegrityError):
                return None
            return [Unavailable(0, f"{self._file.path}: {error}") for _ in applies]
        except BaseException:  # a mistake of ours must not leave the file locked for everybody
            self._undo()
            raise
        return self._end(answers, batch)

    def _forget_if_others_wrote(self) -> None:
        version = self._cursor.execute(_VERSION).fetchone()[0]
        if version != self._version:
            self._known.clear()
            self._version = version

    def close(self) -> None:
        self._connection.close()

    def _begin(self) -> str | None:
        """Begin, or say why not. SQLite's own waiting grows to 100 ms a step: far longer than a commit takes."""
        until, pause = time.monotonic() + WAIT, 0.0001
        while True:
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    return f"{self._file.path}: {error}"
            else:
                return None
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (spreads processes, guards nothing)
            pause = min(pause * 2, 0.002)

    def _end(self, answers: Sequence[Answer], batch: Batch) -> Sequence[Applied | Refused | Exception]:
        try:
            self._cursor.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            why = f"{self._file.path}: {error}"
            # What was refused on the ground of a commit that failed was not applied, but why it was is unknown.
            return [
                OutcomeUnknown(0, why) if isinstance(answer, Applied) else Unavailable(0, why) for answer in answers
            ]
        batch.remember()
        return answers

    def _undo(self) -> None:
        self._known.clear()
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite undoes by itself what was not committed
                self._cursor.execute("ROLLBACK")
