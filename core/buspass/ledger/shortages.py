"""An account that is too small for a claim: which, by how much, and what that is called.

Owns the answer of a hold that the money refused, or would have refused had it not been only observed. Refuses to know
who waits.
"""

from __future__ import annotations

from typing import final

from msgspec import Struct

from buspass.errors import Problem
from buspass.ledger.accounts import amounts, coming, table, whole
from buspass.ledger.holds import Claim, Held
from buspass.model import MICRO
from buspass.ports.state import Item


@final
class Shortage(Struct, frozen=True):
    """An account that is too small for a claim. `held`: calls in flight could cover it when they end.

    `lacks`: every account that is.
    """

    account: str
    needed: int
    available: int
    held: bool
    lacks: frozenset[str]


def shortage(head: Item, claim: Claim) -> Shortage | None:
    """Say which account refuses the claim, if one does. Without it the refusal has another reason."""
    available, in_flight = amounts(head, "available"), coming(head)
    lacks = frozenset(name for name, amount in claim.amounts.items() if amount > available[name])
    if whole(head["slots"]) < 1:
        return Shortage("slots", 1, 0, held=True, lacks=lacks | {"slots"})
    short: Shortage | None = None
    for name, amount in claim.amounts.items():
        if name in lacks:
            covered = amount <= available[name] + in_flight[name]
            if not covered:
                return Shortage(name, amount, available[name], held=False, lacks=lacks)
            short = short or Shortage(name, amount, available[name], held=True, lacks=lacks)
    return short


class Overdraft(Struct, frozen=True):
    """What an observed hold would have met, by how much it went below zero, and the task's limit of that account."""

    problem: Problem
    below: int
    limit: int | None


def overdrafts(found: Held) -> list[Overdraft]:
    """Give what would have refused this hold, had it not been observed: read off the head that it made."""
    head, claim = found.head, found.claim
    available, in_flight = amounts(head, "available"), coming(head)
    rows = []
    for name, amount in claim.amounts.items():
        if amount and available[name] < 0:
            before, others = available[name] + amount, in_flight[name] - amount
            short = Shortage(name, amount, before, held=amount <= before + others, lacks=frozenset({name}))
            problem = _would_wait(short) if short.held else exhausted(short)
            rows.append(Overdraft(problem, -available[name], amounts(head, "limits").get(name)))
    if whole(head["slots"]) < 0:
        rows.append(
            Overdraft(still_held(Shortage("slots", 1, 0, held=True, lacks=frozenset()), 0), -whole(head["slots"]), None)
        )
    left = whole(table(head, "left").get(claim.name, 0))
    if claim.capped and left < 0:
        problem = Problem("call_limit", f"{claim.name} has been called as often as this task may")
        rows.append(Overdraft(problem, -left, None))
    return rows


def _would_wait(short: Shortage) -> Problem:
    need = (
        f"{_shown(short.account, short.needed)} is needed and {_shown(short.account, max(short.available, 0))} is left"
    )
    return Problem("budget_held", f"{need}; calls in flight hold the rest", limit=short.account)


def exhausted(short: Shortage) -> Problem:
    """Say which account is too small for a call, whatever the calls in flight give back."""
    return Problem(
        "budget_exhausted",
        f"this call may need {_shown(short.account, short.needed)} and the task has "
        f"{_shown(short.account, max(short.available, 0))} left; ask for less or end the task",
        limit=short.account,
        needed=_plain(short.account, short.needed),
        left=_plain(short.account, short.available),
    )


def still_held(short: Shortage | None, wait: float) -> Problem:
    """Say what calls in flight held for longer than a call waits."""
    if short is not None and short.account == "slots":
        return Problem("too_many_in_flight", "64 calls of this task are in flight; retry when one ends", retry_after=1)
    what = f"{_shown(short.account, short.needed)} is needed; " if short else ""
    return Problem(
        "budget_held",
        f"{what}what is left is held by calls in flight or children and did not come free within {wait:g} s; retry",
        retry_after=1,
    )


def _plain(account: str, amount: int) -> int | float:
    return amount / MICRO if account == "cost" else amount


def _shown(account: str, amount: int) -> str:
    return f"${amount / MICRO:.6f}" if account == "cost" else f"{amount} {account}"
