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
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from buspass.jsontext import read, written
from buspass.ports.state import (
    Applied,
    Item,
    Misfit,
    Operation,
    OutcomeUnknown,
    Prepared,
    Put,
    Refused,
    Unavailable,
    Update,
    accepts,
    judged,
)
from buspass_onprem.sqlite_file import File
from buspass_onprem.sqlite_text import Place, Texts, Updates

type Apply = tuple[str, Sequence[Operation]]
type Answer = Applied | Refused | Misfit
type Known = dict[Place, Item]
type Statement = tuple[str, tuple[str, ...]]

WAIT: Final = 5.0
"""Seconds until a transaction that other processes keep from beginning is given up."""

KEPT: Final = 256
"""Items that are remembered, those updated last: the heads of tasks that live."""

_VERSION: Final = "PRAGMA data_version"
_READ: Final = "SELECT value FROM item WHERE part = ? AND key = ?"
_ROWS: Final = 32
"""Items that one statement inserts: each statement gives the interpreter away several times, and has to get it back."""
_INSERT: Final = tuple(
    ["INSERT INTO item (value, part, key) VALUES " + ", ".join(["(?, ?, ?)"] * rows) for rows in range(_ROWS + 1)]  # noqa: S608
)
_WIDTH: Final = 3 * _ROWS
_ROW: Final = "SELECT rowid FROM item WHERE part = ? AND key = ?"
_UPDATE: Final = "UPDATE item SET value = ? WHERE part = ? AND key = ?"
_DELETE: Final = "DELETE FROM item WHERE part = ? AND key = ?"
_ENTER: Final = "REPLACE INTO entry (part, key, name, shard, sort) VALUES (?, ?, ?, ?, ?)"
_WITHDRAW: Final = "DELETE FROM entry WHERE part = ? AND key = ? AND name = ?"
_WITHDRAW_ALL: Final = "DELETE FROM entry WHERE part = ? AND key = ?"


def decode(text: str) -> dict[str, Any]:
    item: dict[str, Any] = read(text)
    return item


class Seen(Struct):
    """An item of one transaction: as the file has it, and as the applies so far make it.

    `assumed`: nobody looked whether there is one, as it is put for the first time. `updates`: what changed it, None
    where it was put or deleted. `text`: of what was put, where that is known.
    """

    place: Place
    was: Item | None
    now: Item | None
    assumed: bool
    touched: bool = False
    updates: list[Update | Prepared] | None = field(default_factory=list)
    text: bytes = b""


class Batch(Struct):
    """The items of one transaction. `known`: those that the file surely has so. `looks`: a first put looks, too."""

    execute: Callable[..., sqlite3.Cursor]
    opened: Callable[..., sqlite3.Blob]
    known: Known
    texts: Texts
    looks: bool
    seen: dict[Place, Seen] = field(default_factory=dict)
    touched: list[Seen] = field(default_factory=list)
    entries: list[Statement] = field(default_factory=list)

    def judge(self, partition: str, operations: Sequence[Operation]) -> Answer:
        """Take the whole apply in, or nothing of it."""
        steps: list[tuple[Seen, Operation, Item | None]] = []
        outcome: Item | None = None
        for operation in operations:
            place = (partition, operation.key)
            seen = self.seen.get(place) or self._see(place, operation)
            item = seen.now
            if type(operation) is Prepared or type(operation) is Update:  # where it is neither, isinstance is slow
                try:
                    outcome = judged(operation, item, len(steps))
                except Misfit as misfit:
                    return self._met(partition, operations, misfit)
                accepted = outcome is not None
            elif type(operation) is Put:
                outcome = operation.value
                accepted = accepts(operation, item) if operation.require else item is None
            else:
                outcome, accepted = None, accepts(operation, item)
            if not accepted:
                return self._met(partition, operations, Refused(len(steps), item))
            steps.append((seen, operation, outcome))
        for seen, operation, each in steps:
            if not seen.touched:
                seen.touched = True
                self.touched.append(seen)
            if type(operation) is not Prepared:
                self._note(seen, operation)
            elif seen.updates is not None:
                seen.updates.append(operation)
            else:
                seen.text = b""
            seen.now = each
        return Applied(outcome)

    def _see(self, place: Place, operation: Operation) -> Seen:
        found, assumed = self.known.get(place), False
        if found is None:
            assumed = not self.looks and type(operation) is Put and not operation.require
            found = None if assumed else self._there(place)
        seen = self.seen[place] = Seen(place, found, found, assumed)
        return seen

    def _there(self, place: Place) -> Item | None:
        row = self.execute(_READ, place).fetchone()
        return decode(row[0]) if row else None

    def _met(self, partition: str, operations: Sequence[Operation], answer: Refused | Misfit) -> Refused | Misfit:
        """Give the answer, or that an earlier put met what is there: now nothing will be written that finds it."""
        for index, operation in enumerate(operations[: answer.index]):
            seen = self.seen[partition, operation.key]
            if seen.assumed and not seen.touched and (there := self._there(seen.place)) is not None:
                seen.was = seen.now = there
                seen.assumed = False
                return Refused(index, there)
        return answer

    def _note(self, seen: Seen, operation: Operation) -> None:
        """Note what may change entries, before the item is as it makes it."""
        if type(operation) is Update:
            index = operation.index
            seen.text = b""
            if seen.updates is not None:
                seen.updates.append(operation)
        else:
            index, seen.text = (operation.index, operation.text) if type(operation) is Put else ({}, b"")
            if seen.now is not None:
                self.entries.append((_WITHDRAW_ALL, seen.place))
            seen.updates = None
        for name, entry in index.items() if index else ():
            if entry is not None:
                self.entries.append((_ENTER, (*seen.place, name, *entry)))
            else:
                self.entries.append((_WITHDRAW, (*seen.place, name)))

    def write(self) -> None:
        """Write what changed. Raises sqlite3.IntegrityError where something is there that was not looked for."""
        execute = self.execute
        fresh: list[str] = []
        for seen in self.touched:
            if seen.now is None:
                if seen.was is not None:
                    execute(_DELETE, seen.place)
                elif seen.assumed and self._there(seen.place) is not None:
                    raise sqlite3.IntegrityError  # put and deleted in one batch: the put was refused in truth
                continue
            if seen.was is None:
                fresh += ((seen.text or written(seen.now)).decode(), *seen.place)
            elif not self._changed(seen.place, seen.now, seen.was, seen.updates):
                execute(_UPDATE, (self.texts.whole(seen.place, seen.now, seen.was, seen.updates), *seen.place))
        while fresh:
            rows, fresh = fresh[:_WIDTH], fresh[_WIDTH:]
            execute(_INSERT[len(rows) // 3], rows)
        for statement, values in self.entries:
            execute(statement, values)

    def _changed(self, place: Place, now: Item, was: Item, updates: Updates) -> bool:
        """Write what changed in a large item's text, in its place; say whether that could be done."""
        found = self.texts.changed(place, now, was, updates)
        if found is None:
            return False
        sheet, ranges = found
        text = memoryview(sheet.text)
        if not sheet.row:
            sheet.row = self.execute(_ROW, place).fetchone()[0]
        with self.opened("item", "value", sheet.row) as there:
            if len(there) != len(text):  # nobody writes otherwise, but this has to be sure
                self.texts.forget(place)
                return False
            for start, end in ranges:
                there.seek(start)
                there.write(text[start:end])
        return True

    def remember(self) -> None:
        """Know what was committed: items that are updated will be so again."""
        known = self.known
        for seen in self.touched:
            if seen.was is None:  # nor is it known, and as it was put it is remembered no sooner than it is updated
                continue
            before = known.pop(seen.place, None)
            if seen.now is not None and (seen.updates or before is not None):
                known[seen.place] = seen.now
        while len(known) > KEPT:
            del known[next(iter(known))]


class Committer:
    """Answers batches of applies; to be used by one thread at a time."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._connection = file.connect(wait=0)
        self._cursor = self._connection.cursor()  # one for all: each statement's rows are read at once
        self._known: Known = {}
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
            batch = Batch(self._cursor.execute, self._connection.blobopen, self._known, self._texts, looks)
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
