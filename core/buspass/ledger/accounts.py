"""The accounts in a task's head, read and born; no store here.

Owns the arithmetic `spent = limit − available − Σ children − Σ open`. Refuses to know how the head changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from buspass.model import ACCOUNTS, SLOTS, THOUGHTS, UNLIMITED, Amounts
from buspass.ports.state import Item, Value


class Balance(Struct, frozen=True, kw_only=True):
    """A task's money at one look, by account; `limits` and `available` hold the limited accounts only."""

    limits: Amounts
    spent: Amounts
    held: Amounts
    allocated: Amounts
    available: Amounts


def new_head(
    *,
    limits: Amounts,
    expires_at: int,
    max_calls: Mapping[str, int],
    index: Iterable[str] = (),
) -> dict[str, Value]:
    """Give the head of a task that begins: open, fence 1, with every map that a change touches.

    `expires_at` is in milliseconds. `max_calls` by tool (as segments) becomes the account `left`.
    """
    return {
        "status": "open",
        "fence": 1,
        "version": 0,
        "expires_at": expires_at,
        "limits": dict(limits),
        "available": {name: limits.get(name, UNLIMITED) for name in ACCOUNTS},
        "children": {},
        "slots": SLOTS,
        "thoughts": THOUGHTS,
        "notes": {},
        "left": dict(max_calls),
        "open": {},
        "late": {},
        "count": dict.fromkeys(index, 0),
        "turns": {},
        "done": {},
        "running": {},
        "last": {},
        "kept": {},
        "written": "",
        "entries": 0,
        "sealed": 0,
        "seals": 0,
        "refusals": {},
        "recent": {},
        "warned": {},
        "soft": {},
    }


def held(head: Item) -> dict[str, int]:
    """Sum the holds of the calls in flight."""
    total = dict.fromkeys(ACCOUNTS, 0)
    for entry in table(head, "open").values():
        for name, amount in table(entry, "amounts").items():
            total[name] += whole(amount)
    return total


def below(head: Item) -> dict[str, int]:
    """Sum what children have got: the budget `allocated`."""
    total = dict.fromkeys(ACCOUNTS, 0)
    for entry in table(head, "children").values():
        for name, amount in table(entry, "amounts").items():
            total[name] += whole(amount)
    return total


def coming(head: Item) -> dict[str, int]:
    """Sum what may still come back: of calls in flight, and of children."""
    calls, children = held(head), below(head)
    return {name: calls[name] + children[name] for name in ACCOUNTS}


def balance(head: Item) -> Balance:
    """Read all five budgets off a head."""
    limits = amounts(head, "limits")
    available, allocated, in_flight = amounts(head, "available"), below(head), held(head)
    spent = {
        name: limits.get(name, UNLIMITED) - available[name] - allocated[name] - in_flight[name] for name in ACCOUNTS
    }
    return Balance(
        limits=limits,
        spent=spent,
        held=in_flight,
        allocated=allocated,
        available={name: available[name] for name in limits},
    )


def table(item: object, name: str) -> Mapping[str, Value]:
    """Give the map of that name; an item of ours always has it."""
    found = item[name] if type(item) is dict or isinstance(item, Mapping) else None
    if type(found) is not dict and not isinstance(found, Mapping):
        raise TypeError(f"{name} is no map in this item")
    return found


def amounts(item: Item, name: str) -> dict[str, int]:
    """Give a map of integers."""
    return {account: whole(value) for account, value in table(item, name).items()}


def whole(value: object) -> int:
    """Give the integer that stands there; an item of ours never has anything else."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def text(value: object) -> str:
    """Give the string that stands there."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value
