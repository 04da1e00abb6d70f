"""Tasks begin, change hands and end: what `POST /v1/tasks` and its verbs do.

Owns who may start what, on whose behalf, with which grant. Refuses to know HTTP and money's protocol.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from buspass.callers import Caller, OperatorCaller, TaskCaller, fence_of, visible
from buspass.calls.call import policy_task
from buspass.calls.house import House
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.ledger import new_head
from buspass.model import ACCOUNTS, MICRO, Principal, Subject
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.state import Item, Value
from buspass.tasks import Grant, Task, View, segment
from buspass.tasks.lifecycle import SEALING, Verb

METADATA_BYTES: Final = 4096
START_FIELDS: Final = ("workflow", "on_behalf_of", "metadata", "budget")
BUDGET_FIELDS: Final = (*ACCOUNTS, "wall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A task with a token for its agent; `expires_in` in seconds."""

    view: View
    token: str
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a task begins with: grant, limits by account, seconds of life."""

    grant: Grant
    limits: Mapping[str, int]
    wall: float


class Lifecycle:
    """One host's part in the life of tasks."""

    def __init__(self, house: House) -> None:
        self._house = house

    # ── begin ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, token: str, body: Mapping[str, Any], key: str | None) -> Started:
        """Start a task for the workload that this OIDC token proves. Raises Problem."""
        house = self._house
        principal = await house.oidc.workload(token)
        _only(body, START_FIELDS)
        workflow = self._workflow(body.get("workflow"))
        _may(workflow, principal)
        subject = await self._subject(workflow, body.get("on_behalf_of"))
        metadata = _metadata(body.get("metadata"))
        terms = _terms(workflow, _mapping(body.get("budget"), "budget"))
        now = house.clock.now()
        draft = Task(
            id=self._id(principal, key),
            workflow=workflow.name,
            revision=house.settings.revision,
            host=house.host.name,
            principal=principal,
            subject=subject,
            metadata=metadata,
            grant=terms.grant,
            wall=terms.wall,
            depth=workflow.depth,
            created_at=now,
            deadline=now + round(terms.wall * 1000),
            payloads=workflow.payloads,
        )
        terms = _narrowed(terms, await self._ask("start", draft, "open"))
        return await self._begin(workflow, draft, terms, body)

    async def _begin(self, workflow: Workflow, draft: Task, terms: Terms, body: Mapping[str, Any]) -> Started:
        house = self._house
        _, wrapped = house.vault.new_key(draft.id)
        asked = {**body, "on_behalf_of": draft.subject.name if draft.subject else None}
        task = replace(
            draft,
            grant=terms.grant,
            wall=terms.wall,
            deadline=draft.created_at + round(terms.wall * 1000),
            wrapped_key=wrapped,
            fingerprint=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        )
        route = {name: step for name, step in workflow.route.items() if name in terms.grant.tools}
        head = new_head(
            limits=terms.limits,
            expires_at=task.deadline,
            max_calls={segment(name): step.max_calls for name, step in route.items() if step.max_calls is not None},
        )
        opening = self._record("start", status="open", reason=f"{task.principal.name} for {asked['on_behalf_of']}")
        begun = await house.tasks.begin(task, head, opening)
        return await self._token(await house.tasks.look(begun.id))

    def _workflow(self, name: Any) -> Workflow:
        known = self._house.settings.workflows
        if not isinstance(name, str):
            raise Problem(
                "invalid_request",
                "workflow is missing: name the kind of task to start",
                errors=[{"path": "workflow", "message": "a string is needed", "allowed": sorted(known)}],
            )
        if name not in known:
            raise Problem(
                "not_found",
                f"there is no workflow {name!r} here",
                errors=[{"path": "workflow", "message": "unknown", "allowed": sorted(known)}],
            )
        return known[name]

    def _id(self, principal: Principal, key: str | None) -> str:
        data = self._house.clock.random(15)
        if key is not None:
            data = hashlib.sha256(f"{principal.name}\x00{key}".encode()).digest()[:15]
        return "t_" + base64.b32encode(data).decode().lower()

    async def _subject(self, workflow: Workflow, behalf: Any) -> Subject | None:
        rule = workflow.subject
        if rule is None:
            if behalf is not None:
                raise Problem(
                    "invalid_request",
                    f"workflow {workflow.name!r} acts for nobody but its agent: leave on_behalf_of out",
                )
            return None
        if not isinstance(behalf, Mapping):
            wanted = "{token: …}" if rule.proof == "token" else "{type, id} or {token}"
            raise Problem(
                "invalid_request",
                f"workflow {workflow.name!r} acts for somebody: send on_behalf_of: {wanted}",
                errors=[{"path": "on_behalf_of", "message": "an object is needed"}],
            )
        if set(behalf) == {"token"} and isinstance(behalf["token"], str):
            subject = await self._house.oidc.subject(behalf["token"])
        elif set(behalf) == {"type", "id"} and all(isinstance(part, str) and part for part in behalf.values()):
            if rule.proof != "asserted":
                raise Problem(
                    "denied",
                    f"workflow {workflow.name!r} takes nobody's word for a subject: "
                    "send on_behalf_of: {token: …} with the subject's own token",
                    reasons=["subject_unproven"],
                )
            subject = Subject(type=behalf["type"], id=behalf["id"], proof="asserted")
        else:
            raise Problem(
                "invalid_request",
                "on_behalf_of is {token} or {type, id}, all strings",
                errors=[{"path": "on_behalf_of", "message": "unknown shape", "allowed": ["token", "type, id"]}],
            )
        if subject.type not in rule.types:
            raise Problem(
                "denied",
                f"workflow {workflow.name!r} acts for {', '.join(rule.types)}, not for a {subject.type}",
                reasons=["subject_type"],
            )
        return subject

    # ── take over, renew ────────────────────────────────────────────────────────────────────────────────────────

    async def resume(self, token: str, task: str, reason: str) -> Started:
        """Give a task to another worker: the fence moves on, and the old worker's calls are over."""
        house = self._house
        principal = await house.oidc.workload(token)
        view = await house.tasks.look(task)
        workflow = house.workflow(view.task.workflow)
        try:
            _may(workflow, principal)
        except Problem as refusal:
            raise Problem("not_found", "there is no such task that you may resume") from refusal
        await self._ask("resume", view.task, str(view.head["status"]))
        record = self._record("resume", status="open", reason=reason or f"by {principal.name}")
        await house.tasks.change(task, "resume", record)
        return await self._token(await house.tasks.look(task))

    async def renew(self, task_token: str, actor_token: str) -> Started:
        """Give a fresh token for the same task and fence, to the workload that it belongs to (RFC 8693)."""
        house = self._house
        claims = await house.tokens.verify(task_token)
        principal = await house.oidc.workload(actor_token)
        view = await house.tasks.look(claims.task)
        if principal.name != view.task.principal.name:
            raise Problem("denied", "this task is another workload's", reasons=["actor"])
        if view.head["fence"] != claims.fence:
            raise Problem("fenced", "another worker has resumed this task")
        if view.head["status"] != "open":
            raise Problem("task_not_open", f"the task is {view.head['status']}; only an open one's token is renewed")
        return await self._token(view)

    async def _token(self, view: View) -> Started:
        task = view.task
        minted = await self._house.tokens.mint(
            task=task.id,
            workflow=task.workflow,
            revision=task.revision,
            fence=int(str(view.head["fence"])),
            principal=task.principal,
            subject=task.subject,
            expires_at_ms=task.deadline,
            ttl_s=self._house.workflow(task.workflow).token_ttl,
        )
        return Started(view=view, token=minted.token, expires_in=minted.expires_in)

    # ── change ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def change(self, who: Caller, task: str, verb: Verb, reason: str) -> Item:
        """Complete, suspend or kill; seal; give the head. Raises Problem."""
        house = self._house
        await visible(house, who, task)
        record = self._record(verb, status=verb, reason=reason, by=_name(who))
        head = await house.tasks.change(task, verb, record, fence_of(who))
        if verb in SEALING:
            await house.sealer.seal(task)
        return head

    async def settle_overdue(self, view: View) -> View:
        """The lazy sweep, at a read: end holds that nobody will settle, and a task whose time is over."""
        house, task = self._house, view.task.id
        now = house.clock.now()
        swept = await house.ledger.sweep(task, view.head)
        if view.head["status"] in {"open", "suspended"} and int(str(view.head["expires_at"])) <= now:
            record = self._record("expire", status="expired", reason="its time is over")
            try:
                await house.tasks.change(task, "expire", record)
            except Problem as problem:
                if problem.code == "state_unavailable":
                    raise
            await house.sealer.seal(task)
            swept += 1
        return await house.tasks.look(task) if swept else view

    def _record(self, operation: str, *, status: str, reason: str, by: str = "") -> dict[str, Value]:
        return {
            "kind": "lifecycle",
            "state": status,
            "operation": operation,
            "reason": reason[:500],
            "by": by,
            "host": self._house.host.name,
            "at": self._house.clock.now(),
        }

    async def _ask(self, question: Literal["start", "resume"], task: Task, status: str) -> Decision:
        """Ask policy, where a module answers this question; a denial is raised."""
        house = self._house
        shown = document.start_input(now=house.clock.now(), host=house.host, task=policy_task(task, status))
        decision = await house.policy.ask(question, shown)
        if decision.deny:
            reasons = list(decision.deny)
            raise Problem("denied", f"policy forbids this: {', '.join(reasons)}", reasons=reasons)
        return decision


def _may(workflow: Workflow, principal: Principal) -> None:
    for rule in workflow.agents:
        if fnmatchcase(principal.identity, rule.identity) and fnmatchcase(principal.agent, rule.agent):
            return
    raise Problem("denied", f"{principal.name} may not start {workflow.name!r}", reasons=["agent"])


def _terms(workflow: Workflow, budget: Mapping[str, Any]) -> Terms:
    grant = Grant(models=workflow.models, tools=tuple(workflow.route))
    return _budgeted(Terms(grant=grant, limits=workflow.limits, wall=workflow.wall), budget)


def _budgeted(terms: Terms, budget: Mapping[str, Any]) -> Terms:
    """Narrow the limits. Raises Problem invalid_request for what is unknown, malformed or wider."""
    _only(budget, BUDGET_FIELDS, "budget.")
    limits, wall = dict(terms.limits), terms.wall
    for name, value in budget.items():
        amount = _amount(name, value)
        now = round(wall * MICRO) if name == "wall" else limits.get(name, amount)
        if amount > now:
            most = now / MICRO if name in {"wall", "cost"} else now
            raise Problem(
                "invalid_request",
                f"budget.{name} may only narrow the workflow's {most:g}",
                errors=[{"path": f"budget.{name}", "message": "is wider", "allowed": most}],
            )
        if name == "wall":
            wall = amount / MICRO
        else:
            limits[name] = amount
    return Terms(grant=terms.grant, limits=limits, wall=wall)


def _amount(name: str, value: Any) -> int:
    """Give an account's integer; cost and wall in millionths (USD, seconds)."""
    scaled = name in {"cost", "wall"}
    if isinstance(value, bool) or not isinstance(value, int | float if scaled else int) or not 0 <= value < 2**40:
        raise Problem(
            "invalid_request",
            f"budget.{name} must be a {'number' if scaled else 'whole number'} of at least 0",
            errors=[{"path": f"budget.{name}", "message": "is no such number"}],
        )
    return round(value * MICRO) if scaled else int(value)


def _narrowed(terms: Terms, decision: Decision) -> Terms:
    """Apply policy's grant: it can only narrow, so what it adds is nothing."""
    given = decision.grant
    if given is None:
        return terms
    models = [name for name in terms.grant.models if name in given.get("models", terms.grant.models)]
    tools = [name for name in terms.grant.tools if name in given.get("tools", terms.grant.tools)]
    limits = dict(terms.limits)
    for name, value in given.get("budget", {}).items():
        if name in ACCOUNTS:
            limits[name] = min(_amount(name, value), limits.get(name, _amount(name, value)))
    wall = min(terms.wall, float(given.get("lifetime", terms.wall)))
    return Terms(grant=Grant(models=tuple(models), tools=tuple(tools)), limits=limits, wall=wall)


def _metadata(value: Any) -> Mapping[str, Any]:
    metadata = _mapping(value, "metadata")
    for name, part in metadata.items():
        if not isinstance(part, str | int | float | bool):
            raise Problem(
                "invalid_request",
                f"metadata.{name} must be a string, a number or a boolean",
                errors=[{"path": f"metadata.{name}", "message": "is no scalar"}],
            )
    if len(json.dumps(metadata).encode()) > METADATA_BYTES:
        raise Problem("invalid_request", f"metadata is larger than {METADATA_BYTES} bytes")
    return metadata


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Problem("invalid_request", f"{name} must be an object", errors=[{"path": name, "message": "no object"}])
    return value


def _only(body: Mapping[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    unknown = [name for name in body if name not in known]
    if unknown:
        rows = [{"path": prefix + name, "message": "is not a field", "allowed": list(known)} for name in unknown]
        raise Problem("unsupported", f"field {prefix + unknown[0]!r} is not supported", errors=rows)


def _name(who: Caller) -> str:
    if isinstance(who, TaskCaller):
        return "agent"
    return f"operator {who.name}" if isinstance(who, OperatorCaller) else who.principal.name
