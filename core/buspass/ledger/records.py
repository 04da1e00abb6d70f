"""What a call's record says of its end, so that anybody can close the head as its writer would have.

Owns the facts that a sweep needs of a settled call's record, and the record of a call that nobody settled. Refuses to
know what else stands in a record, and when it is written (`ledger`).
"""

from __future__ import annotations

from typing import Any, Final

from buspass.ledger.accounts import amounts, text
from buspass.ledger.holds import Entry, Held, Outcome, ends, taken
from buspass.model import Amounts
from buspass.ports.operations import Remembered
from buspass.ports.state import Item, Value


def entry_held(held: Held) -> Entry:
    """Give the hold as its head shows it (`taking`)."""
    claim = held.claim
    return Entry(
        call=claim.call,
        attempt=held.attempt,
        amounts=taken(claim),
        kind=claim.kind,
        name=claim.name,
        cause=claim.cause,
        host=claim.host,
        at=held.at,
        deadline=ends(claim, held.at),
        state="dispatching",
        capped=claim.capped,
        observed=claim.observed,
    )


def used(held: Amounts, outcome: Outcome) -> dict[str, Value]:
    """Give what a call used of every account that it held or cost, in their order."""
    of = outcome.use.get
    return {name: of(name, 0) for name in _IN_ORDER[(*held, *outcome.use)]}


_IN_ORDER: Final = Remembered[tuple[str, ...], list[str]](lambda names: sorted({*names}), 512)


def closing_facts(held: Held, outcome: Outcome) -> dict[str, Value]:
    """Give what a sweep needs of a settled call's record."""
    facts: dict[str, Value] = {"state": "settled", "attempt": held.attempt, "turn": held.turn}
    if outcome.last:
        facts["last"] = outcome.last
    if outcome.kept:
        facts["kept"] = outcome.kept
    if not outcome.sent:
        facts["status"] = "void"
    return facts


def outcome_of(record: Item) -> Outcome:
    """Read off a record how its call ended."""
    last: Any = record.get("last") or ""
    return Outcome(
        use=amounts(record, "use"),
        sent=record.get("status") != "void",
        last=last,
        kept=text(record.get("kept") or ""),
    )


def turn_of(record: Item) -> int:
    """Read off a record which hold of its name it was; 0 for one that nobody settled."""
    turn = record.get("turn")
    return turn if isinstance(turn, int) else 0


def lost(entry: Entry, now: int, *, sent: bool) -> tuple[Outcome, dict[str, Value]]:
    """Give the end and the record of a call that nobody will settle: charged in full if it may have been `sent`."""
    outcome = Outcome(use=entry.amounts, last="unknown") if sent else Outcome(use={}, sent=False)
    record: dict[str, Value] = {
        "kind": entry.kind,
        "name": entry.name,
        "host": entry.host,
        "cause": entry.cause,
        "at": entry.at,
        "ended": now,
        "state": "expired",
        "attempt": entry.attempt,
        "use": used(entry.amounts, outcome),
        "status": "unknown" if sent else "void",
        "estimated": sent,
    }
    if entry.kind == "action":
        record["last"] = outcome.last
    if entry.observed:
        record["observed"] = []
    return outcome, record
