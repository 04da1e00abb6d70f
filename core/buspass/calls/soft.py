"""The soft limit: most of an account is spent. Told in a header and once in the journal; refuses nothing.

Owns when an account is past it. Refuses to know who reads it: alerts follow the journal's entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.ledger.accounts import coming, table, whole
from buspass.ports.state import Item, Value
from buspass.tasks import Task


def past(head: Item, soft: float) -> dict[str, int]:
    """Give the limited accounts of which at least the share `soft` is spent, with how much, in percent."""
    available: Mapping[str, Any] = table(head, "available")
    limits: Mapping[str, Any] = table(head, "limits")
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


def header(house: House, task: Task, head: Item) -> dict[str, str]:
    """Give `Buspass-Budget-Soft`, where an account is past the soft limit."""
    if not (shares := past(head, _soft(house, task))):
        return {}
    return {"Buspass-Budget-Soft": ", ".join(f"{name}={share}%" for name, share in shares.items())}


async def warn(house: House, task: Task, head: Item) -> None:
    """Write the journal's entry for each account that is past its soft limit and has none yet."""
    soft = _soft(house, task)
    if not (shares := past(head, soft)):
        return
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


def _soft(house: House, task: Task) -> float:
    """A workflow that is no longer configured has no soft limit below its limit."""
    workflow = house.settings.workflows.get(task.workflow)
    return workflow.soft if workflow else 1.0
