"""Counting refusals: a record for the first twenty of a code, then one in a hundred, and the run that suspends.

Owns `refusals` in the head, `{CODE: n, run: n, mark: entries}`, and `warned`: the loops that the task was told of.
`run` counts refusals that a misled agent earns (403, 409, 422) since the last settled call: a settle moves the count of
calls settled away from `mark`, and so ends the run without a write of its own. Refuses to decide what happens at the
limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from buspass.ledger import holds
from buspass.ledger.accounts import table, whole
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Absent,
    Applied,
    Condition,
    Equals,
    Item,
    OutcomeUnknown,
    Path,
    Present,
    Put,
    State,
    Unavailable,
    Update,
    Value,
)

RECORDED: Final = 20
ONE_IN: Final = 100
RUN_LIMIT: Final = 50
RUN_STATUSES: Final = frozenset({403, 409, 422})
TRIES: Final = 4
WARNED: Final = 8
"""Loops of a task that are remembered; another one takes the oldest one's place."""

type Mark = tuple[str, str]
"""A loop's key, and the stage that the task has reached with it."""


async def refuse(
    state: State,
    stamp: Callable[[str, str, Mapping[str, Value]], Item],
    clock: Clock,
    task: str,
    code: str,
    status: int,
    record: Mapping[str, Value],
    mark: Mark | None = None,
) -> bool:
    """See `Ledger.refuse`. The count is `Equals(n)` + 1: a race lost too often loses a count, nothing else."""
    try:
        head = await state.read(task, "head")
        key, standing = f"rec:r{clock.random(12).hex()}", False
        for _ in range(TRIES):
            if head is None:
                return False
            update, recorded, run = counting(head, code, status, mark)
            operations: list[Put | Update] = [update]
            if recorded and not standing:
                whole_record = {
                    **record,
                    "kind": "refusal",
                    "state": "refused",
                    "code": code,
                    "attempt": "",
                    "use": {},
                }
                operations.insert(0, Put(key, stamp(task, key, whole_record)))
            result = await state.apply(task, operations)
            if isinstance(result, Applied):
                return run >= RUN_LIMIT
            if result.index == len(operations) - 1:
                head = result.item
                continue
            standing = True  # the record of the try before: such a store leaves it
            head = await state.read(task, "head")
    except (OutcomeUnknown, Unavailable):
        return False
    return False


def counting(head: Item, code: str, status: int, mark: Mark | None = None) -> tuple[Update, bool, int]:
    """Give the head's update, whether this refusal gets a record, and the length of the run with it."""
    counts = table(head, "refusals")
    before = counts.get(code)
    number = 1 if before is None else whole(before) + 1
    recorded = number <= RECORDED or number % ONE_IN == 0
    settled = _settled(head)
    run = whole(counts.get("run") or 0) if counts.get("mark") == settled else 0
    if status in RUN_STATUSES:
        run += 1
    condition = Absent(("refusals", code)) if before is None else Equals(("refusals", code), whole(before))
    add: dict[Path, int] = {("refusals", code): 1}
    if recorded:
        add[("entries",)] = 1
    change: dict[Path, Value] = {("refusals", "run"): run, ("refusals", "mark"): settled}
    require: list[Condition] = [condition]
    remove: tuple[Path, ...] = ()
    if mark is not None and isinstance(warned := head.get("warned"), Mapping):
        key, stage = mark
        change[("warned", key)] = {"stage": stage, "at": holds.number(head)}
        if key not in warned and len(warned) >= WARNED:
            remove = (("warned", min(warned, key=lambda name: whole(table(warned, name)["at"]))),)
            require.append(Present(remove[0]))
    return Update("head", tuple(require), add, change, remove), recorded, run


def _settled(head: Item) -> int:
    """Count the calls that ended: begun less in flight. Refusals and records of other kinds leave it alone."""
    return sum(whole(n) for n in table(head, "count").values()) - len(table(head, "open"))
