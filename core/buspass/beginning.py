"""How a task begins, whoever asks for it: with a workload's own proof (`lifecycle`), or out of a parent (`delegation`).

Owns who may start a workflow, what labels it may carry, and the order in which a task is put: money first, its head
last. Refuses to know where the money comes from.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from buspass.calls.call import policy_task
from buspass.calls.enforcement import Enforcing
from buspass.calls.house import House
from buspass.closing import lifecycle_record
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.identity.local import NAME as LOCAL
from buspass.ledger import new_head
from buspass.model import Principal
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.state import Value
from buspass.stopping import kill, names
from buspass.tasks import Task, View, segment
from buspass.tasks.lifecycle import LIVING
from buspass.terms import Terms, mapping

METADATA_BYTES: Final = 4096
FIRST_FENCE: Final = 1


class Started(Struct, frozen=True, kw_only=True):
    """A task with a token for its agent; `expires_in` in seconds, `base_url` where it calls."""

    view: View
    token: str
    expires_in: int
    base_url: str


def new_id(house: House, owner: str, key: str | None) -> str:
    """Give a task's id: by chance, or for an Idempotency-Key always the same."""
    data = house.clock.random(15)
    if key is not None:
        data = hashlib.sha256(f"{owner}\x00{key}".encode()).digest()[:15]
    return "t_" + base64.b32encode(data).decode().lower()


def workflow_named(house: House, name: Any) -> Workflow:
    """Give the workflow of that name. Raises Problem invalid_request, not_found."""
    known = house.settings.workflows
    if not isinstance(name, str):
        raise Problem(
            "invalid_request",
            "workflow is missing: name the kind of task to start",
            errors=[{"path": "workflow", "message": "a string is needed", "allowed": sorted(known)}],
        )
    if name not in known:
        raise Problem(
            "not_found",
            f"there is no workflow {name[:100]!r} here",
            errors=[{"path": "workflow", "message": "unknown", "allowed": sorted(known)}],
        )
    return known[name]


def check_agent(house: House, workflow: Workflow, principal: Principal) -> None:
    """Refuse who may not start this workflow. Raises Problem denied.

    A glob means identities that prove workloads here; a peer is admitted where its name stands to the letter.
    """
    ours = principal.identity == LOCAL or principal.identity in house.settings.identity
    for rule in workflow.agents:
        named = fnmatchcase(principal.identity, rule.identity) if ours else principal.identity == rule.identity
        if named and fnmatchcase(principal.agent, rule.agent):
            return
    raise Problem("denied", f"{principal.name} may not start {workflow.name!r}", reasons=["agent"])


def labels(value: Any) -> Mapping[str, Any]:
    """Give a task's metadata. Raises Problem invalid_request."""
    metadata = mapping(value, "metadata")
    for name, part in metadata.items():
        if not isinstance(part, str | int | float | bool):
            raise Problem(
                "invalid_request",
                f"metadata.{name[:100]} must be a string, a number or a boolean",
                errors=[{"path": f"metadata.{name[:100]}", "message": "is no scalar"}],
            )
    if len(json.dumps(metadata).encode()) > METADATA_BYTES:
        raise Problem("invalid_request", f"metadata is larger than {METADATA_BYTES} bytes")
    return metadata


async def ask(
    house: House, question: Literal["start", "resume"], task: Task, status: str, enforced: Enforcing
) -> Decision:
    """Ask policy, where a module answers this question; a denial is raised, or noted."""
    shown = document.start_input(now=house.clock.now(), host=house.host, task=policy_task(task, status))
    decision = await house.policy.ask(question, shown)
    if decision.deny:
        reasons = list(decision.deny)
        enforced.refuse(Problem("denied", f"policy forbids this: {', '.join(reasons)}", reasons=reasons))
    return decision


def finished(house: House, draft: Task, terms: Terms, asked: Mapping[str, Any]) -> Task:
    """Give the draft under its final terms, with a key of its own and the fingerprint of what was asked for."""
    return replace(
        draft,
        grant=terms.grant,
        wall=terms.wall,
        deadline=draft.created_at + round(terms.wall * 1000),
        wrapped_key=house.vault.new_key(draft.id)[1],
        fingerprint=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
    )


async def put(
    house: House,
    workflow: Workflow,
    task: Task,
    limits: Mapping[str, int],
    born: Mapping[str, Value],
    opening: Mapping[str, Value],
) -> View:
    """Put a task whose money is drawn, and give the one that stands.

    `born`: what its head says beside the usual, `opening`: its first record (`reason` among it).
    """
    route = {name: step for name, step in workflow.route.items() if name in task.grant.named}
    capped = {segment(name): step.max_calls for name, step in route.items() if step.max_calls is not None}
    head = {**new_head(limits=limits, expires_at=task.deadline, max_calls=capped), **born}
    record = lifecycle_record(house, "start", status="open", reason=str(opening["reason"])) | {**opening}
    return await house.tasks.look((await house.tasks.begin(task, head, record)).id)


def check_first(view: View) -> None:
    """Refuse a repeated key what a resume took away, and a task that was buried before it was born.

    Raises Problem fenced, task_expired.
    """
    if view.head.get("tombstone"):
        raise Problem("task_expired", "this task took too long to begin, so it was given up; start a new one")
    if view.head["fence"] != FIRST_FENCE:
        raise Problem("fenced", "another worker has resumed the task that this Idempotency-Key started")


async def tokened(house: House, view: View, principal: Principal, host: str = "") -> Started:
    """Mint a token for the workload that acts from now on: after a resume not the one that started the task.

    Raises Problem stopped. It is asked here, after the task was put: so what began while a stop came finds it.
    """
    task = view.task
    await _unstopped(house, view, principal)
    minted = await house.tokens.mint(
        task=task.id,
        workflow=task.workflow,
        revision=task.revision,
        fence=int(str(view.head["fence"])),
        principal=principal,
        subject=task.subject,
        expires_at_ms=task.deadline,
        ttl_s=house.workflow(task.workflow).token_ttl,
    )
    url = (house.settings.hosts[host] if host else house.host).url
    base = url.rstrip("/") + "/v1"
    return Started(view=view, token=minted.token, expires_in=minted.expires_in, base_url=base)


async def _unstopped(house: House, view: View, principal: Principal) -> None:
    task, mine = view.task, names(view.task)
    try:
        await house.stops.ask(task.workflow, (principal.name, *mine))
    except Problem:
        if (found := house.stops.against(task.workflow, mine)) is not None and view.head["status"] in LIVING:
            await kill(house, view, found)
        raise
