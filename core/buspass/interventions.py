"""What the gateway itself does to a task that goes wrong: suspend it, or end it with all its tokens and children.

Owns that a task which has ended meanwhile is let be. Refuses to know what went wrong.
"""

from __future__ import annotations

from buspass.calls.house import House
from buspass.closing import end, lifecycle_record, suppress_ended


async def suspend(house: House, task: str, reason: str) -> None:
    """Suspend a task that stands open. Raises Problem state_unavailable."""
    if (await house.tasks.look(task)).head["status"] != "open":
        return
    record = lifecycle_record(house, "suspend", status="suspended", reason=reason)
    with suppress_ended():  # ended meanwhile, which is more than suspended
        await house.tasks.change(task, "suspend", record)
        await house.sealer.seal(task)


async def kill(house: House, task: str, reason: str) -> None:
    """End a task and its children; none of its tokens opens anything from then on. Raises Problem.

    A killed standing task stops its key at the next call.
    """
    record = lifecycle_record(house, "kill", status="killed", reason=reason, by="the gateway")
    await end(house, task, "kill", record)
