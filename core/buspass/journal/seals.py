"""Seals: a signed Merkle root over the records since the last one.

Owns which records a seal covers, its totals and its signature. Refuses to know why it is time for one: whoever ends or
suspends a task, or counts 256 records, asks. No anchor outside the store in this release, so who holds the domain key,
the signing key and the database could rewrite a journal whole.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from buspass.errors import Problem
from buspass.journal.merkle import root
from buspass.journal.records import canonical
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
PREFIXES: Final = ("rec:", "credit:")
TRIES: Final = 4
STEADY_TRIES: Final = 16
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.:-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
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


class Sealer:
    """Seals journals with this host's signing key."""

    def __init__(self, state: State, signer: Signer, clock: Clock) -> None:
        self._state = state
        self._signer = signer
        self._clock = clock

    async def seal(self, task: str) -> Item | None:
        """Seal what is not sealed yet, SEALED records at a time, and give the last seal; None where nothing was.

        Safe beside other sealers: one of them wins. Raises Problem state_unavailable.
        """
        try:
            return await self._seal(task)
        except (Unavailable, OutcomeUnknown) as error:
            raise Problem("state_unavailable", "the journal could not be sealed now", retry_after=1) from error
        except SignerUnavailable as error:
            raise Problem("state_unavailable", "the signing key could not be used", retry_after=1) from error

    async def _seal(self, task: str) -> Item | None:
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
            made = await self._signed(task, number, part, journal)
            count = Update("head", (Equals(("seals",), number),), {("seals",): 1, ("sealed",): len(part)})
            if not isinstance(await self._state.apply(task, [Put(f"seal:{number:08d}", made), count]), Applied):
                tries -= 1
                continue
            seal = made
            if len(part) == len(fresh):
                await self._drop_markers(task, head, journal)
                return seal
        return seal  # others seal without a pause: one of them has it

    async def _count(self, task: str, before: int, seal: Item) -> None:
        amount = len(keys_of(seal))
        await self._state.apply(
            task, [Update("head", (Equals(("seals",), before),), {("seals",): 1, ("sealed",): amount})]
        )

    async def _signed(self, task: str, number: int, fresh: list[str], journal: Read) -> Item:
        before = root([statement(journal.seals[-1])]) if journal.seals else ""
        seal: dict[str, Value] = {
            "task": task,
            "number": number,
            "at": self._clock.now(),
            "before": before,
            "root": root([canonical([key, journal.records[key]]) for key in fresh]),
            "keys": [*fresh],
            "totals": totals([journal.records[key] for key in fresh]),
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
    sums: dict[str, Counter[str]] = {}
    for record in records:
        name = f"{record.get('kind')}:{record.get('name') or record.get('code') or '-'}:{record.get('host')}"
        counter = sums.setdefault(_UNSAFE.sub("_", name)[:128], Counter())
        counter["records"] += 1
        use = record.get("use")
        for account, amount in use.items() if isinstance(use, Mapping) else ():
            counter[account] += whole(amount)
    return {name: dict(counter) for name, counter in sums.items()}
