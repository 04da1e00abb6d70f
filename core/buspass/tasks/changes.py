"""How a task's head changes, as operations of the state port; pure.

Owns which condition guards which change of status, thoughts and beginning. Refuses to know money (`ledger.holds`) and
when they are sent (`store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from buspass.errors import Problem
from buspass.model import UNLIMITED
from buspass.ports.state import Absent, AtLeast, Equals, Item, Operation, Path, Put, Refused, Update, Value
from buspass.tasks.lifecycle import TRANSITIONS, Status, Verb

HEAD: Final = "head"
BORN: Final = frozenset({"limits", "pool", "parent"})
"""What of a head its first record keeps: whoever finishes a beginning that broke off begins with that."""


def transition(head: Item, verb: Verb, fence: int | None, key: str) -> Update:
    """Give the head's update for a verb, or raise the Problem that forbids it. `key`: its record's."""
    status = str(head["status"])
    after = TRANSITIONS.get((cast("Status", status), verb))
    if after is None:
        code = {"killed": "task_killed", "expired": "task_expired"}.get(status, "task_not_open")
        raise Problem(code, f"the task is {status}; it cannot {verb}")
    if fence is not None and head["fence"] != fence:
        raise Problem("fenced", "another worker has resumed this task")
    require = (Equals(("status",), status), Equals(("fence",), int(str(head["fence"]))))
    add: dict[Path, int] = {("entries",): 1, ("version",): 1}
    change: dict[Path, Value] = {("status",): after, ("written",): key}
    if verb == "resume":
        add[("fence",)] = 1
        change[("refusals", "run")] = 0  # the next worker is not suspended for what misled the last one
    return Update(HEAD, require, add, change)


def noting(head: Item, place: str, call: str, fence: int) -> Update:
    """Count a thought. What stands at its place is its condition, so that it is counted once."""
    notes = head["notes"]
    before = notes.get(place) if isinstance(notes, Mapping) else None
    path = ("notes", place)
    as_read = Absent(path) if before is None else Equals(path, str(before))
    require = (as_read, Equals(("fence",), fence), AtLeast(("thoughts",), 1))
    return Update(HEAD, require, {("entries",): 1, ("thoughts",): -1}, {path: call})


def remaining(operations: Sequence[Operation], met: Refused) -> list[Operation]:
    """Give what is left to put of a task whose beginning broke off before: what stands stays, the rest follows.

    A head that follows an older first record takes that one's limits, and its money.
    """
    stands, item = operations[met.index].key, met.item or {}
    rest = [operation for operation in operations if operation.key != stands]
    limits = item.get("limits")
    if stands == "rec:e0" and isinstance(limits, Mapping):
        born = {name: item[name] for name in BORN & {*item}}
        rest = [_born(operation, born, limits) if operation.key == HEAD else operation for operation in rest]
    return rest


def _born(head: Operation, born: Mapping[str, Value], limits: Mapping[str, Value]) -> Operation:
    available = head.value["available"] if isinstance(head, Put) else None
    if not isinstance(head, Put) or not isinstance(available, Mapping):
        raise TypeError("a head is put, with its accounts")
    unlimited = dict.fromkeys(available, UNLIMITED)
    return Put(HEAD, {**head.value, **born, "available": {**unlimited, **limits}}, index=head.index)
