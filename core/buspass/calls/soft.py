"""The soft limit: most of an account is spent. Told in a header and once in the journal; refuses nothing.

Owns when an account is past it. Refuses to know who reads it: alerts follow the journal's entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.ledger.accounts import coming, whole
from buspass.ports.state import Item, Value
from buspass.tasks import Task


def past(head: Item, soft: float) -> dict[str, int]:
    """Give the limited accounts of which at least the share `soft` is spent, with how much, in percent."""
    row: Mapping[str, Any] = head
    available, limits = row["available"], row["limits"]
    for name, limit in limits.items():
        if limit - available[name] >= soft * limit:
            break
    else:
        return {}  # nearly always: what is in flight and what children have need not be summed up
    used = {name: whole(limit) - whole(available[name]) for name, limit in limits.items()}
    others = coming(head)
    spent = {name: amount - others[name] for name, amount in used.items()}
    return {
        name: amount * 100 // max(whole(limits[name]), 1)
        for name, amount in spent.items()
        if amount >= soft * whole(limits[name])
    }


def shown(shares: Mapping[str, int]) -> str:
    """Give `Buspass-Budget-Soft`."""
    return ", ".join(f"{name}={share}%" for name, share in shares.items())


async def warn(house: House, task: Task, soft: float, shares: Mapping[str, int], head: Item) -> None:
    """Write the journal's entry for each account that is `past` its soft limit and has none yet."""
    marked = head.get("soft")
    for name, share in shares.items():
        if not isinstance(marked, Mapping) or name in marked:
            continue
        record: dict[str, Value] = {
            "kind": "soft_limit",
            "state": "noted",
            "name": name,
            "host": house.host.name,
            "at": house.clock.now(),
            "detail": f"{share}% of the task's {name} is spent; the soft limit is {soft * 100:g}%",
            "attempt": "",
            "use": {},
        }
        with suppress(Problem):  # the next settled call finds it missing
            await house.ledger.mark(task.id, "soft", name, record)
            told = {"task": task.id, "workflow": task.workflow, "account": name, "spent_percent": share}
            await house.alerts.tell("soft_limit", f"{task.id} {name}", told)
