"""The proof that a journal is whole: `GET /v1/tasks/{id}/trace/verify`.

Owns what "whole" means: every record genuine, none missing, none under a seal altered, every seal signed and following
the one before, and the head's accounts equal to the sum of the records. Refuses to read a store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from buspass.journal.merkle import root
from buspass.journal.records import Journal
from buspass.journal.seals import Read, keys_of, statement, whole
from buspass.jsontext import canonical
from buspass.model import ACCOUNTS, Amounts
from buspass.ports.state import Item, Value

type CheckSignature = Callable[[str, bytes, str], Awaitable[bool]]
"""(kid, data, base64url signature) → genuine? Told by identity, which knows the domain's keys."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What an audit found. `sealed` counts records under a seal; `problems` is empty when the journal is whole."""

    records: int
    sealed: int
    seals: int
    problems: tuple[str, ...]


async def verify(journal: Journal, task: str, head: Item, spent: Amounts, read: Read, check: CheckSignature) -> Verdict:
    """Check everything that can be checked without payloads. `spent` is the ledger's reading of the head."""
    problems = [
        f"{key}: its MAC is wrong; it was altered or not written by a host of this domain"
        for key, record in sorted(read.records.items())
        if not journal.genuine(task, key, record)
    ]
    problems += await _seals(task, read, check)
    problems += _counts(head, read)
    problems += _accounts(head, spent, read.records)
    problems += _limits(head, read.records)
    return Verdict(
        records=len(read.records),
        sealed=len(read.covered),
        seals=len(read.seals),
        problems=tuple(problems),
    )


async def _seals(task: str, read: Read, check: CheckSignature) -> list[str]:
    problems = []
    before = ""
    for number, seal in enumerate(read.seals):
        name = f"seal {number}"
        if seal.get("task") != task or seal.get("number") != number or seal.get("before") != before:
            problems.append(f"{name}: it does not follow the one before it")
        missing = [key for key in keys_of(seal) if key not in read.records]
        problems += [f"{key}: {name} covers it and it is gone" for key in missing]
        if not missing and root([canonical([key, read.records[key]]) for key in keys_of(seal)]) != seal.get("root"):
            problems.append(f"{name}: a record under it was altered")
        if not await check(str(seal.get("kid")), statement(seal), str(seal.get("signature"))):
            problems.append(f"{name}: its signature is wrong")
        before = root([statement(seal)])
    return problems


def _counts(head: Item, read: Read) -> list[str]:
    """A record is written before it is counted, so more than counted is a crash in between, less is a loss."""
    entries = int(str(head["entries"]))
    if len(read.records) < entries:
        return [f"{entries - len(read.records)} records are missing: the head counted {entries}"]
    if int(str(head["seals"])) > len(read.seals):
        return [f"seals are missing: the head counted {head['seals']}"]
    return []


def _accounts(head: Item, spent: Amounts, records: Mapping[str, Item]) -> list[str]:
    unclosed = _unclosed(head)
    summed = dict.fromkeys(ACCOUNTS, 0)
    for key, record in records.items():
        if (key.removeprefix("rec:"), record.get("attempt")) in unclosed:
            continue  # written, not yet closed: it counts as open
        use = record.get("use")
        for name, amount in use.items() if isinstance(use, Mapping) else ():
            summed[name] = summed.get(name, 0) + whole(amount)  # an altered record may hold anything
    return [
        f"{name}: the head says {spent[name]} is spent, the records say {summed[name]}"
        for name in ACCOUNTS
        if spent[name] != summed[name]
    ]


def _unclosed(head: Item) -> set[tuple[str, Value]]:
    """Give calls in flight and children with money, each with its attempt."""
    calls, children = head["open"], head["children"]
    found = list(calls.items()) if isinstance(calls, Mapping) else []
    inner = list(children.values()) if isinstance(children, Mapping) else []
    found += [(str(entry["task"]), entry) for entry in inner if isinstance(entry, Mapping)]
    return {(name, entry["attempt"]) for name, entry in found if isinstance(entry, Mapping)}


def _limits(head: Item, records: Mapping[str, Item]) -> list[str]:
    """Who could write the head could raise a limit and what is available alike: the first record knows better."""
    opening = records.get("rec:e0")
    if opening is None or opening.get("limits") == head["limits"]:
        return []
    return ["limits: the head's are not those that the task began with"]
