"""What never changes about a task, and how it lies in the store beside the head, which does.

Owns the item `task`. It is apart from the head because a store bills a head write by the whole head.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from msgspec import Struct
from msgspec.structs import force_setattr

from buspass.model import Principal, Subject
from buspass.ports.state import Item, Value

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


class Grant(Struct, frozen=True, kw_only=True):
    """What this one task got of its workflow: it can only narrow. `named`: its tools, to be looked up."""

    models: tuple[str, ...]
    tools: tuple[str, ...]
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        force_setattr(self, "named", frozenset(self.tools))


class Task(Struct, frozen=True, kw_only=True):
    """A task's facts. `created_at` and `deadline` in ms, `wall` in seconds.

    `depth`: how many levels of children it may have below it; `level`: how deep it lies itself, 0 without a parent.
    """

    id: str
    workflow: str
    revision: str
    host: str
    principal: Principal
    subject: Subject | None
    metadata: Mapping[str, Any]
    grant: Grant
    wall: float
    depth: int
    level: int = 0
    created_at: int
    deadline: int
    payloads: Literal["none", "metadata", "redacted", "full"]
    wrapped_key: str | None = None
    fingerprint: str = ""


def segment(name: str) -> str:
    """Give a name (alias, tool) as the state port's paths take it; other characters are kept apart by a digest."""
    if _SEGMENT.fullmatch(name):
        return name
    return re.sub(r"[^A-Za-z0-9_.:-]", ":", name)[:80] + "." + hashlib.sha256(name.encode()).hexdigest()[:12]


def to_item(task: Task) -> dict[str, Value]:
    """Give the item `task`. What may hold any JSON (claims, metadata) lies there as text: stores keep no floats."""
    item: dict[str, Value] = {
        "id": task.id,
        "workflow": task.workflow,
        "revision": task.revision,
        "host": task.host,
        "identity": task.principal.identity,
        "issuer": task.principal.issuer,
        "agent": task.principal.agent,
        "claims": json.dumps(dict(task.principal.claims)),
        "metadata": json.dumps(dict(task.metadata)),
        "models": list(task.grant.models),
        "tools": list(task.grant.tools),
        "wall_ms": round(task.wall * 1000),
        "depth": task.depth,
        "level": task.level,
        "created_at": task.created_at,
        "deadline": task.deadline,
        "payloads": task.payloads,
        "fingerprint": task.fingerprint,
    }
    if task.subject is not None:
        item["subject"] = {"type": task.subject.type, "id": task.subject.id, "proof": task.subject.proof}
    return item


def from_item(item: Item, key: Item | None) -> Task:
    """Read the item `task`, and the item `key`, which an erasure removes."""
    row = cast("Mapping[str, Any]", item)
    subject = row.get("subject")
    return Task(
        id=row["id"],
        workflow=row["workflow"],
        revision=row["revision"],
        host=row["host"],
        principal=Principal(
            identity=row["identity"], issuer=row["issuer"], agent=row["agent"], claims=json.loads(row["claims"])
        ),
        subject=Subject(**subject) if subject else None,
        metadata=json.loads(row["metadata"]),
        grant=Grant(models=tuple(row["models"]), tools=tuple(row["tools"])),
        wall=row["wall_ms"] / 1000,
        depth=row["depth"],
        level=row["level"],
        created_at=row["created_at"],
        deadline=row["deadline"],
        payloads=row["payloads"],
        wrapped_key=str(key["wrapped"]) if key else None,
        fingerprint=row["fingerprint"],
    )
