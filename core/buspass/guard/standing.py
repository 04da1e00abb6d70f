"""Whether a task stands open for this caller: status, time and fence."""

from __future__ import annotations

from typing import Final

from buspass.errors import Problem
from buspass.ports.state import Item

_CLOSED: Final = {
    "killed": ("task_killed", "the task was killed; start a new one if you still may"),
    "expired": ("task_expired", "the task's time is over; start a new one"),
    "suspended": ("task_not_open", "the task is suspended; a worker that may must resume it"),
    "completed": ("task_not_open", "the task is completed; start a new one"),
}


def check_standing(head: Item, fence: int, now: int) -> None:
    """Raise the Problem that keeps this caller out, if one does: `now` in ms, `fence` from its token."""
    ends = head["expires_at"]
    if head["status"] == "open" and head["fence"] == fence and type(ends) is int and ends > now:
        return  # nearly always
    status = str(head["status"])
    if status in _CLOSED and status != "open":
        code, detail = _CLOSED[status]
        raise Problem(code, detail)
    if int(str(ends)) <= now:
        if "lease" in head:
            detail = "the host of this task's parent has not renewed its lease; retry when it can be reached again"
            raise Problem("lease_expired", detail, retry_after=30)
        raise Problem(*_CLOSED["expired"])
    if head["fence"] != fence:
        raise Problem("fenced", "another worker has resumed this task; this token's calls are over")
