"""What this host wrote to journals since their last seals: with it a seal need not read a journal to add to it.

Owns the memory of leaves, bounded over all tasks. Refuses to know a store. Nothing depends on it: what is forgotten, or
was written by others, the next seal that reads the whole journal covers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from buspass.journal.merkle import leaf
from buspass.jsontext import canonical, written
from buspass.ports.state import Item, Put, Value

KEPT: Final = 16_384
"""Records that are remembered over all tasks."""


class Leaf(Struct, frozen=True, kw_only=True):
    """One record under no seal yet: its hash in the tree, and what its reporting dimension sums."""

    hash: bytes
    dimension: str
    use: Mapping[str, Value]


class Open(Struct):
    """One task's. No seal before number `since` covers any of `leaves`; `before` is the digest of seal `since - 1`."""

    since: int
    before: str | None = None
    leaves: dict[str, Leaf] = field(default_factory=dict)
    busy: bool = False


class Written:
    """By task, least recently written first out."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, Open] = OrderedDict()
        self._size = 0

    def add(self, task: str, put: Put, seals: int) -> None:
        """Remember a record; `seals`: how many there were before it was put."""
        if (found := self._tasks.get(task)) is None:
            found = self._tasks[task] = Open(seals)
        self._tasks.move_to_end(task)
        found.leaves[put.key] = leaf_of(put.key, put.value, put.text)
        self._size += 1
        while self._size > KEPT:
            self._size -= len(self._tasks.popitem(last=False)[1].leaves)

    def of(self, task: str) -> Open | None:
        """Give what is remembered of a task."""
        return self._tasks.get(task)

    def sealed(self, task: str, keys: list[str]) -> None:
        """Forget what stands under a seal by now."""
        if (found := self._tasks.get(task)) is not None:
            self._size -= sum(found.leaves.pop(key, None) is not None for key in keys)

    def forget(self, task: str) -> None:
        """Forget a task."""
        if (found := self._tasks.pop(task, None)) is not None:
            self._size -= len(found.leaves)


def leaf_of(key: str, record: Item, text: bytes = b"") -> Leaf:
    """Give a record's leaf. It has a MAC, or was read, and so holds no number that JSON can't. `text`: if known."""
    get = record.get
    use = get("use")
    dimension = f"{get('kind')}:{get('name') or get('code') or '-'}:{get('host')}"
    if type(use) is not dict and not isinstance(use, Mapping):  # the former is nearly always, and no look at an ABC
        use = {}
    data = b"%b,%b]" % (written([key])[:-1], text) if text else canonical([key, record], finite=True)
    return Leaf(hash=leaf(data), dimension=dimension, use=use)
