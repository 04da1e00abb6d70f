"""Seals: a signed Merkle root over the records since the last one.

Owns which records a seal covers, its totals and its signature. Refuses to know why it is time for one: whoever ends or
suspends a task, or counts 256 records, asks. No anchor outside the store in this release, so who holds the domain key,
the signing key and the database could rewrite a journal whole.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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
    Refused,
    State,
    Unavailable,
    Update,
    Value,
)

SEAL_EVERY: Final = 256
KEEP_LATE: Final = 600_000
"""Milliseconds that a late settle's marker outlives its credit record."""
PREFIXES: Final = ("rec:", "credit:")


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


async def _pages(state: State, task: str, prefix: str) -> list[tuple[str, Item]]:
    found: list[tuple[str, Item]] = []
    after = ""
    while page := await state.list(task, prefix, after, 200):
        found.extend(page)
        after = page[-1][0]
    return found


def keys_of(seal: Item) -> list[str]:
    """Give the keys that a seal covers, in the order of its tree."""
    keys = seal["keys"]
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
        """Seal what is not sealed yet; None where nothing was. Safe beside other sealers: one of them wins.

        Raises Problem state_unavailable.
        """
        try:
            return await self._seal(task)
        except (Unavailable, OutcomeUnknown) as error:
            raise Problem("state_unavailable", "the journal could not be sealed now", retry_after=1) from error
        except SignerUnavailable as error:
            raise Problem("state_unavailable", "the signing key could not be used", retry_after=1) from error

    async def _seal(self, task: str) -> Item | None:
        journal = await read_all(self._state, task)
        head = await self._state.read(task, "head")
        if head is None:
            return None
        number = len(journal.seals)
        if head["seals"] != number:  # a crash between seal and head: the head is brought up first
            await self._count(task, number - 1, journal.seals[-1])
        fresh = sorted(journal.records.keys() - journal.covered)
        if not fresh:
            return None
        seal = await self._signed(task, number, fresh, journal)
        count = Update("head", (Equals(("seals",), number),), {("seals",): 1, ("sealed",): len(fresh)})
        result = await self._state.apply(task, [Put(f"seal:{number:08d}", seal), count])
        if isinstance(result, Refused):
            return None
        await self._drop_markers(task, head, journal)
        return seal

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
        """Forget markers of late settles whose credit an older seal covers, ten minutes after."""
        late: Any = head["late"]
        for call in late:
            key = f"credit:{call}"
            credit = journal.records.get(key)
            if credit is None or key not in journal.covered:
                continue
            if self._clock.now() - int(str(credit.get("ended") or 0)) > KEEP_LATE:
                path = ("late", call)
                result = await self._state.apply(task, [Update("head", (Present(path),), remove=(path,))])
                if not isinstance(result, Applied):
                    continue


def totals(records: Sequence[Item]) -> dict[str, Value]:
    """Sum use by reporting dimension: `KIND NAME HOST` → account → amount, and the number of records."""
    sums: dict[str, Counter[str]] = {}
    for record in records:
        name = f"{record.get('kind')} {record.get('name') or record.get('code') or '-'} {record.get('host')}"
        counter = sums.setdefault(name.replace("/", ":").replace(" ", ":")[:128], Counter())
        counter["records"] += 1
        use = record.get("use")
        for account, amount in use.items() if isinstance(use, Mapping) else ():
            counter[account] += int(str(amount))
    return {_segment(name): dict(counter) for name, counter in sums.items()}


def _segment(name: str) -> str:
    return "".join(
        character if (character.isalnum() and character.isascii()) or character in "_.:-" else "_" for character in name
    )
