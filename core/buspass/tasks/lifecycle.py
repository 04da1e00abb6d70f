"""The status of a task: one table that owns every transition.

open ⇄ suspended → completed / killed / expired
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

type Status = Literal["open", "suspended", "completed", "killed", "expired"]
type Verb = Literal["resume", "suspend", "complete", "kill", "expire"]

TRANSITIONS: Final[Mapping[tuple[Status, Verb], Status]] = {
    ("open", "suspend"): "suspended",
    ("open", "resume"): "open",  # another worker takes over after a crash: only the fence moves
    ("suspended", "resume"): "open",
    ("open", "complete"): "completed",
    ("suspended", "complete"): "completed",
    ("open", "kill"): "killed",
    ("suspended", "kill"): "killed",
    ("open", "expire"): "expired",
    ("suspended", "expire"): "expired",
}
"""(status, verb) → status. A pair that is not here is refused: `task_not_open`, or the end it already has."""

LIVING: Final = frozenset({"open", "suspended"})

SEALING: Final = frozenset({"suspend", "complete", "kill", "expire"})
"""Verbs after which the journal is sealed."""

DONE: Final[Mapping[Verb, Status]] = {
    "suspend": "suspended",
    "complete": "completed",
    "kill": "killed",
    "expire": "expired",
}
"""What a verb has already reached when it is repeated: a repetition answers as the first time."""
