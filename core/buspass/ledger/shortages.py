"""How a shortage is told to the client: the account, what is needed and what is left, in the units of a budget.

Refuses to know when there is one.
"""

from __future__ import annotations

from buspass.errors import Problem
from buspass.ledger.holds import Shortage
from buspass.model import MICRO


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
        f"{what}what is left is held by calls in flight and did not come free within {wait:g} s; retry",
        retry_after=1,
    )


def _plain(account: str, amount: int) -> int | float:
    return amount / MICRO if account == "cost" else amount


def _shown(account: str, amount: int) -> str:
    return f"${amount / MICRO:.6f}" if account == "cost" else f"{amount} {account}"
