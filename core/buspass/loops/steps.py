"""One finished call as a task's head remembers it: a line of text, short because a store bills a head as a whole.

Owns the line's format. Digests are salted with the task's key, so they say nothing once it is erased. Refuses to know
what repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Final, Literal

from msgspec import Struct

from buspass.ports.state import Item

FLAGS: Final = {"large": "l", "change": "c", "opened": "o", "polled": "p", "lookup": "r"}
"""Flags of a step, each by a letter."""
ERROR: Final = "!"
"""Before an outcome that is no result."""
NUMBER: Final = attrgetter("number")
LONG: Final = "+"
"""Before the digest of tool results that are no mere receipt."""


class Step(Struct, frozen=True, kw_only=True):
    """A finished call. `number` counts the task's calls in the order of their holds.

    `asked`: digest of tool and arguments, or of the model request; `outcome`: digest of the result, or `!` and the
    error's signature; "" where nothing is known. `large`: the result is long enough to be no mere receipt. `opened`:
    its failure opened a breaker, which says when to come back. `polled`: of a `polling` tool, or a model asks for one.
    An action's: `change`: it was one that changes something; `lookup`: one that only reads; `at`: when it began (ms).
    An inference's: `cost` in micro-dollars; `heard`: digest of the tool results that it brought (`+` before that of
    long ones), "" without; `refusals`: of the task before it.
    """

    number: int
    kind: Literal["action", "inference"]
    name: str
    asked: str
    outcome: str
    large: bool = False
    change: bool = False
    opened: bool = False
    polled: bool = False
    lookup: bool = False
    cost: int = 0
    heard: str = ""
    refusals: int = 0
    at: int = 0

    @property
    def failed(self) -> bool:
        return self.outcome.startswith(ERROR)


def written(step: Step) -> str:
    """Give the line. It begins with the number."""
    flags = step.kind[0] + "".join(letter for flag, letter in FLAGS.items() if getattr(step, flag))
    words = [str(step.number), flags, step.name, step.asked or "-", step.outcome or "-"]
    if step.kind == "inference":
        words += [str(step.cost), step.heard or "-", str(step.refusals)]
    elif step.at:
        words.append(str(step.at))
    return " ".join(words)


@lru_cache(8192)
def _read(line: str) -> Step:
    number, flags, name, asked, outcome, *more = line.split(" ")
    marked = {flag: letter in flags[1:] for flag, letter in FLAGS.items()}
    step: Literal["action", "inference"] = "inference" if flags[0] == "i" else "action"
    known = {"number": int(number), "name": name, "asked": asked.strip("-"), "outcome": outcome.strip("-")}
    if step == "inference":
        cost, heard, refusals = more
        return Step(kind=step, **known, **marked, cost=int(cost), heard=heard.strip("-"), refusals=int(refusals))  # type: ignore[arg-type]  # as it was written
    return Step(kind=step, **known, **marked, at=int(more[0]) if more else 0)  # type: ignore[arg-type]  # as it was written


def read_steps(head: Item) -> list[Step]:
    """Give the calls that a task's head remembers, oldest first. A head from before this was remembered has none."""
    found = head.get("recent")
    lines = found.values() if isinstance(found, Mapping) else ()
    return sorted(map(_read, map(str, lines)), key=NUMBER)
