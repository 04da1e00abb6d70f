"""Standing tasks: what the calls of a key run in, one for each session, begun at the first call, renewed when it ends.

Owns what a key's credential is worth at station 1. The id of a standing task follows from key, session and generation,
so two hosts that begin it at once begin the same one. Refuses to know who made the key (`keys`).

    open, suspended      the session's calls run in it (a suspended one refuses them)
    completed, expired   what is left goes back to the pool, the next generation begins
    killed               the key is stopped: `task_killed` for all its sessions, until an operator rotates it;
                         by a stop of an operator: the next generation begins when that is lifted
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from msgspec.structs import replace

from buspass.allocation import draw, unused
from buspass.calls.call import policy_task
from buspass.calls.enforcement import Enforcing, enforcement
from buspass.calls.house import House
from buspass.closing import lifecycle_record, settle_overdue
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.identity import keys
from buspass.identity.tokens import TaskClaims
from buspass.ledger import new_head
from buspass.model import Principal
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.tasks import Task, View, segment
from buspass.tasks.keys import IDENTITY, Key, Standing
from buspass.tasks.lifecycle import LIVING
from buspass.tasks.store import item_at
from buspass.terms import Terms, narrowed, terms_of

FENCE: Final = 1
"""Nobody resumes a standing task: its fence never moves."""
ROUNDS: Final = 8
"""Generations that one call may find ended."""


async def claims_by_key(house: House, text: str, session: str = "") -> TaskClaims:
    """Give the claims of the standing task of a key's session. Raises Problem."""
    key = await proven(house, text)
    standing = house.keys.standing(key.id, session)
    view = house.tasks.seen(standing.task) if standing else None
    if view is None or not _goes_on(house, view):
        async with house.keys.alone(f"{key.id} {session}"):
            view = await _current(house, key, session)
    return _claims(view.task)


async def proven(house: House, text: str) -> Key:
    """Give the key that this text proves, if it may be used. Raises Problem unauthenticated, task_killed."""
    shown = keys.read(text)
    key, now = await house.keys.find(shown.id), house.clock.now()
    if key is None or not _opens(shown.digest, key, now) or key.stopped:
        key = await house.keys.look(shown.id)  # nothing is refused on a copy: it may have been rotated since
    if key is None or not _opens(shown.digest, key, now):
        raise Problem("unauthenticated", "no such key, or it was rotated: ask an operator for the new one")
    if key.revoked_at:
        raise Problem("unauthenticated", f"key {key.name!r} was revoked; ask an operator for another")
    if key.expires_at and key.expires_at <= now:
        raise Problem("unauthenticated", f"key {key.name!r} has expired; ask an operator for another")
    if key.stopped:
        raise _killed(key, key.stopped)
    return key


def _opens(digest: str, key: Key, now: int) -> bool:
    if hmac.compare_digest(digest, key.digest):
        return True
    return now < key.previous_until and hmac.compare_digest(digest, key.previous)


def _goes_on(house: House, view: View) -> bool:
    return view.head["status"] == "open" and int(str(view.head["expires_at"])) > house.clock.now()


async def _current(house: House, key: Key, session: str) -> View:
    """Find the session's standing task, or begin it."""
    for _ in range(ROUNDS):
        generation = await house.keys.generation(key.id, session)
        task = _task_id(key, session, generation)
        try:
            view: View | None = await house.tasks.look(task)
        except Problem as problem:
            if problem.code != "not_found":
                raise
            view = await _begin(house, key, session, generation)
        if view is not None:
            view = await settle_overdue(house, view)
            if view.head["status"] in LIVING:
                house.keys.stands(key.id, session, Standing(task=task, generation=generation))
                return view
            killed = view.head["status"] == "killed" and view.task.created_at >= key.cleared
            if killed and not await _by_stop(house, view):
                await stop(house, key.id, task)
                raise _killed(key, task)
        await house.keys.advance(key.id, session, generation)
    raise Problem("conflict", "the key's standing task ends faster than a call can begin; retry", retry_after=1)


async def _by_stop(house: House, view: View) -> bool:
    """Say whether it was a stop that ended this task: that is lifted by itself, and says nothing against the key."""
    record = await item_at(house.state, view.task.id, str(view.head["written"]))
    return bool(record and record.get("stop"))


async def stop(house: House, key: str, task: str) -> None:
    """Refuse a key from now on: its standing task was killed. Lifted by a rotation. Raises Problem."""
    await house.keys.change(key, lambda found: found if found.stopped else replace(found, stopped=task))


async def _begin(house: House, key: Key, session: str, generation: int) -> View | None:
    """Begin this generation; None where it was begun, lost and given up."""
    workflow = house.workflow(key.workflow)
    if workflow.subject is not None:
        raise Problem("denied", f"workflow {workflow.name!r} acts for a subject; a key has none", reasons=["subject"])
    await house.stops.ask(workflow.name, (f"{IDENTITY}:{key.name}",))
    enforced = enforcement(workflow)
    task, terms = await _drafted(house, key, session, generation, enforced)
    if (cost := terms.limits.get("cost")) is None:
        raise Problem("denied", f"workflow {workflow.name!r} no longer limits cost, so a key's money has no bound")
    drawn = await draw(house, key.pool, task.id, cost, task.deadline)
    if drawn.over:
        return None
    head = {
        **new_head(
            limits={**terms.limits, "cost": drawn.amount},
            expires_at=task.deadline,
            max_calls=_max_calls(workflow, terms),
        ),
        "pool": drawn.account,
    }
    reason = f"key {key.name}, generation {generation}"
    opening = lifecycle_record(house, "start", status="open", reason=reason) | enforced.facts()
    try:
        view = await house.tasks.look((await house.tasks.begin(task, head, opening)).id)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        return None  # a tombstone stands there by now
    await unused(house, drawn, task.id, view.head)
    return view


async def _drafted(house: House, key: Key, session: str, generation: int, enforced: Enforcing) -> tuple[Task, Terms]:
    """Give the task under the key's and policy's terms: each only narrows."""
    workflow, now = house.workflow(key.workflow), house.clock.now()
    models = key.models or workflow.models
    asked = Decision(grant={"models": list(models), "budget": dict(key.budget)})
    terms = narrowed(terms_of(workflow, {}), asked)
    task = _task(house, key, session, generation, workflow, terms, now)
    if house.policy.asks("start"):
        shown = document.start_input(now=now, host=house.host, task=policy_task(task, "open"))
        decision = await house.policy.ask("start", shown)
        if decision.deny:
            reasons = list(decision.deny)
            enforced.refuse(Problem("denied", f"policy forbids this: {', '.join(reasons)}", reasons=reasons))
        terms = narrowed(terms, decision)
        task = _task(house, key, session, generation, workflow, terms, now)
    return task, terms


def _task(house: House, key: Key, session: str, generation: int, workflow: Workflow, terms: Terms, now: int) -> Task:
    name = _task_id(key, session, generation)
    deadline = now + round(terms.wall * 1000)
    return Task(
        id=name,
        workflow=workflow.name,
        revision=house.settings.revision,
        host=house.host.name,
        principal=Principal(identity=IDENTITY, issuer=house.settings.issuer, agent=key.name, claims={"key": key.id}),
        subject=None,
        metadata={"session": session} if session else {},
        grant=terms.grant,
        wall=terms.wall,
        depth=workflow.depth,
        created_at=now,
        deadline=min(deadline, key.expires_at) if key.expires_at else deadline,
        payloads=workflow.payloads,
        wrapped_key=house.vault.new_key(name)[1],
        fingerprint=hashlib.sha256(f"standing {name}".encode()).hexdigest(),
    )


def _max_calls(workflow: Workflow, terms: Terms) -> dict[str, int]:
    route = {name: step for name, step in workflow.route.items() if name in terms.grant.named}
    return {segment(name): step.max_calls for name, step in route.items() if step.max_calls is not None}


def _task_id(key: Key, session: str, generation: int) -> str:
    data = hashlib.sha256(f"{key.id}\x00{generation}\x00{session}".encode()).digest()[:15]
    return "t_" + base64.b32encode(data).decode().lower()


def _claims(task: Task) -> TaskClaims:
    name = task.principal.name
    return TaskClaims(
        task=task.id,
        workflow=task.workflow,
        revision=task.revision,
        fence=FENCE,
        sub=name,
        act=name,
        exp=task.deadline // 1000,
        jti="",
    )


def _killed(key: Key, task: str) -> Problem:
    problem = Problem(
        "task_killed", f"a standing task of key {key.name!r} was killed; an operator who rotates the key lifts it"
    )
    problem.task = task
    return problem
