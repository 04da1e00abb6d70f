"""Seals: a signed Merkle root over the records since the last one.

Owns which records a seal covers, its totals and its signature. Refuses to know why it is time for one: whoever ends or
suspends a task, or counts 256 records, asks. No anchor outside the store in this release, so who holds the domain key,
the signing key and the database could rewrite a journal whole.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from buspass.errors import Problem
from buspass.journal.merkle import root, root_over
from buspass.journal.written import Leaf, Open, Written, leaf_of
from buspass.jsontext import canonical
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer, SignerUnavailable
from buspass.ports.state import (
    Applied,
    Equals,
    Item,
    OutcomeUnknown,
    Present,
    Put,
    State,
    Unavailable,
    Update,
    Value,
)

SEAL_EVERY: Final = 256
SEALED: Final = 1000
"""Records that one seal covers at most: its list of keys must fit an item of every store."""
KEEP_LATE: Final = 600_000
"""Milliseconds that a late settle's marker outlives its credit record."""
OPENING: Final = "rec:e0"
"""A task's first record, which its start writes."""
PREFIXES: Final = ("rec:", "credit:")
TRIES: Final = 4
STEADY_TRIES: Final = 16
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.:-]")


class Read(Struct, frozen=True, kw_only=True):
    """A task's journal as it lies in the store, everything by key."""

    records: Mapping[str, Item]
    seals: Sequence[Item]

    @property
    def covered(self) -> frozenset[str]:
        """Keys of the records under a seal."""
        return frozenset(key for seal in self.seals for key in keys_of(seal))


async def read_all(state: State, task: str) -> Read:
    """Read the whole journal, page by page. Raises the state port's errors."""
    records: dict[str, Item] = {}
    for prefix in PREFIXES:
        records.update(await _pages(state, task, prefix))
    seals = await _pages(state, task, "seal:")
    return Read(records=records, seals=[item for _, item in seals])


async def read_steady(state: State, task: str) -> tuple[Item, Read] | None:
    """Read head and journal as of one moment: nothing changed the head while the records were read.

    None where there is none, or the task changed every time: no page of a store is a snapshot. Raises the state
    port's errors.
    """
    head = await state.read(task, "head")
    for _ in range(STEADY_TRIES):
        journal = await read_all(state, task)
        before, head = head, await state.read(task, "head")
        if head is not None and head == before and not unposted(journal, head):
            return head, journal
    return None


async def _pages(state: State, task: str, prefix: str) -> list[tuple[str, Item]]:
    found: list[tuple[str, Item]] = []
    after = ""
    while page := await state.list(task, prefix, after, 200):
        found.extend(page)
        after = page[-1][0]
    return found


def keys_of(seal: Item) -> list[str]:
    """Give the keys that a seal covers, in the order of its tree."""
    keys = seal.get("keys")
    return [str(key) for key in keys] if isinstance(keys, list) else []


def statement(seal: Mapping[str, Value]) -> bytes:
    """Give the bytes that a seal's signature covers: all of it but the signature."""
    return canonical({name: value for name, value in seal.items() if name not in {"signature", "mac", "v"}})


type Fold = Callable[[str, Item, Read], Awaitable[None]]
"""(task, head, journal with its seals) → what was sealed is folded into the reports."""


class Sealer:
    """Seals journals with this host's signing key.

    `fold` is the reports', called where the whole journal is in hand: at a task's end at the latest. What it misses
    then, whoever makes a report does.
    """

    def __init__(self, state: State, signer: Signer, clock: Clock, fold: Fold | None = None) -> None:
        self._state = state
        self._signer = signer
        self._clock = clock
        self._fold = fold
        self._written = Written()

    def wrote(self, task: str, put: Put, head: Item) -> None:
        """Be told of a record that stands; `head` as it was before. The next `seal_due` covers it unread."""
        self._written.add(task, put, whole(head["seals"]))

    async def seal_due(self, task: str, head: Item) -> None:
        """Seal in the middle of a task's life, without reading its journal where most that waits is this host's.

        What others wrote they seal, or the end of the task does. Raises Problem state_unavailable.
        """
        own = self._written.of(task)
        waiting = whole(head["entries"]) - whole(head["sealed"])
        if own is None or len(own.leaves) * 4 < waiting:
            if waiting >= 2 * SEAL_EVERY or own is None:
                await self.seal(task)
        elif not own.busy:  # of the calls that find it due one seals
            own.busy = True
            try:
                await self._reporting(self._seal_own(task, head, own))
            finally:
                own.busy = False

    async def seal(self, task: str) -> Item | None:
        """Seal what is not sealed yet, SEALED records at a time, and give the last seal; None where nothing was.

        Safe beside other sealers: one of them wins. Raises Problem state_unavailable.
        """
        return await self._reporting(self._seal(task))

    async def _reporting[T](self, work: Awaitable[T]) -> T:
        try:
            return await work
        except (Unavailable, OutcomeUnknown) as error:
            raise Problem("state_unavailable", "the journal could not be sealed now", retry_after=1) from error
        except SignerUnavailable as error:
            raise Problem("state_unavailable", "the signing key could not be used", retry_after=1) from error

    async def _seal_own(self, task: str, head: Item, own: Open) -> None:
        number = whole(head["seals"])
        if not await self._caught_up(task, own, number):
            await self._seal(task)
            return
        opening = await self._state.read(task, OPENING) if number == 0 else None
        first = {OPENING: leaf_of(OPENING, opening)} if opening is not None else {}
        leaves = dict(sorted([*first.items(), *own.leaves.items()])[:SEALED])
        made = await self._signed(task, number, leaves, own.before or "")
        if await self._put(task, number, made):
            self._written.sealed(task, [*leaves])
            own.since, own.before = number + 1, root([statement(made)])
        else:  # another was first, or a seal stands that no head counts
            await self._seal(task)

    async def _caught_up(self, task: str, own: Open, number: int) -> bool:
        """Read the seals that others made since, and forget what they cover. False: there is nothing to go on from."""
        if own.before is None and own.since == number and number:
            own.since -= 1
        for made in range(own.since, number):
            seal = await self._state.read(task, f"seal:{made:08d}")
            if seal is None:
                return False
            self._written.sealed(task, keys_of(seal))
            own.since, own.before = made + 1, root([statement(seal)])
        return bool(own.leaves) and own.since == number

    async def _put(self, task: str, number: int, made: Item) -> bool:
        count = Update("head", (Equals(("seals",), number),), {("seals",): 1, ("sealed",): len(keys_of(made))})
        return isinstance(await self._state.apply(task, [Put(f"seal:{number:08d}", made), count]), Applied)

    async def _seal(self, task: str) -> Item | None:
        self._written.forget(task)
        tries, seal = TRIES, None
        while tries:
            journal = await read_all(self._state, task)
            head = await self._state.read(task, "head")
            if head is None:
                return seal
            number = len(journal.seals)
            if whole(head["seals"]) < number:  # a crash between seal and head: the head is brought up first
                await self._count(task, number - 1, journal.seals[-1])
            if not (fresh := unsealed(journal, head)):
                return seal
            part = fresh[:SEALED]
            leaves = {key: leaf_of(key, journal.records[key]) for key in part}
            before = root([statement(journal.seals[-1])]) if journal.seals else ""
            made = await self._signed(task, number, leaves, before)
            if not await self._put(task, number, made):
                tries -= 1
                continue
            seal = made
            if self._fold is not None:
                with suppress(Unavailable, OutcomeUnknown):  # the seal stands; a report folds what is not folded yet
                    await self._fold(task, head, Read(records=journal.records, seals=[*journal.seals, made]))
            if len(part) == len(fresh):
                await self._drop_markers(task, head, journal)
                return seal
        return seal  # others seal without a pause: one of them has it

    async def _count(self, task: str, before: int, seal: Item) -> None:
        amount = len(keys_of(seal))
        await self._state.apply(
            task, [Update("head", (Equals(("seals",), before),), {("seals",): 1, ("sealed",): amount})]
        )

    async def _signed(self, task: str, number: int, leaves: Mapping[str, Leaf], before: str) -> Item:
        seal: dict[str, Value] = {
            "task": task,
            "number": number,
            "at": self._clock.now(),
            "before": before,
            "root": root_over([each.hash for each in leaves.values()]),
            "keys": [*leaves],
            "totals": summed(leaves.values()),
            "kid": self._signer.jwk["kid"],
        }
        signature = await self._signer.sign(statement(seal))
        return {**seal, "signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}

    async def _drop_markers(self, task: str, head: Item, journal: Read) -> None:
        """Forget markers of credits that an older seal covers, ten minutes after they were posted."""
        for call, posted in late(head).items():
            if f"credit:{call}" in journal.covered and self._clock.now() - whole(posted) > KEEP_LATE:
                path = ("late", call)
                await self._state.apply(task, [Update("head", (Present(path),), remove=(path,))])


def unsealed(journal: Read, head: Item) -> list[str]:
    """Give the keys that the next seal covers. `head` was read after the records.

    A credit is sealed once it is posted, not before: what is under a seal without a marker was posted long ago.
    """
    posted = {f"credit:{call}" for call in late(head)}
    fresh = journal.records.keys() - journal.covered
    return sorted(key for key in fresh if key in posted or not key.startswith("credit:"))


def unposted(journal: Read, head: Item) -> bool:
    """Say whether a credit stands in the journal that the head has not got yet."""
    posted = {f"credit:{call}" for call in late(head)} | journal.covered
    return any(key.startswith("credit:") and key not in posted for key in journal.records)


def late(head: Item) -> Mapping[str, Value]:
    """Give the markers of posted credits: call → when, in ms."""
    found = head["late"]
    return found if isinstance(found, Mapping) else {}


def whole(value: Value) -> int:
    """Give the integer that stands there; nothing else counts."""
    return value if type(value) is int else 0


def totals(records: Sequence[Item]) -> dict[str, Value]:
    """Sum use by reporting dimension: `KIND:NAME:HOST` → account → amount, and the number of records."""
    return summed(leaf_of("", record) for record in records)


def summed(leaves: Iterable[Leaf]) -> dict[str, Value]:
    """Do the same for what is kept of records. Those alike are summed together: a seal has some 256."""
    alike: dict[tuple[str, tuple[str, ...]], list[Iterable[Value]]] = {}
    for each in leaves:
        alike.setdefault((each.dimension, (*each.use,)), []).append(each.use.values())
    sums: dict[str, dict[str, Value]] = {}
    for (dimension, accounts), rows in alike.items():
        sums_of = sums.setdefault(_UNSAFE.sub("_", dimension)[:128], {"records": 0})
        columns = [len(rows), *(sum(map(whole, column)) for column in zip(*rows, strict=True))]
        for account, amount in zip(("records", *accounts), columns, strict=True):
            sums_of[account] = whole(sums_of.get(account, 0)) + amount
    return {**sums}
