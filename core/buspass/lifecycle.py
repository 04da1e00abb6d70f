"""Tasks begin, change hands and end: what `POST /v1/tasks` and its verbs do.

Owns who may start what, on whose behalf, with which grant. Refuses to know HTTP and money's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.allocation import drawn_for, unused
from buspass.beginning import (
    Started,
    ask,
    check_agent,
    check_first,
    finished,
    labels,
    new_id,
    put,
    tokened,
    workflow_named,
)
from buspass.callers import Caller, OperatorCaller, TaskCaller, fence_of, visible
from buspass.calls.enforcement import Enforcing, enforcement
from buspass.calls.house import House
from buspass.closing import end, expire, lifecycle_record, settle_overdue
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.identity.keys import PREFIX
from buspass.model import Principal, Subject
from buspass.ports.state import Item, Value
from buspass.standing import stop
from buspass.stopping import names
from buspass.tasks import Task, View
from buspass.tasks.keys import IDENTITY as KEY
from buspass.tasks.lifecycle import Verb
from buspass.terms import Terms, mapping, narrowed, only, terms_of

NAME_CHARACTERS: Final = 256
START_FIELDS: Final = ("workflow", "on_behalf_of", "metadata", "budget")


class Lifecycle:
    """One host's part in the life of tasks."""

    def __init__(self, house: House) -> None:
        self._house = house

    # ── begin ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, token: str, body: Mapping[str, Any], key: str | None) -> Started:
        """Start a task for the workload that this OIDC token proves. Raises Problem."""
        house = self._house
        principal = await self._workload(token)
        only(body, START_FIELDS)
        workflow = workflow_named(house, body.get("workflow"))
        check_agent(house, workflow, principal)
        await house.stops.ask(workflow.name, (principal.name,))
        subject = await self._subject(workflow, body.get("on_behalf_of"))
        metadata = labels(body.get("metadata"))
        terms = terms_of(workflow, mapping(body.get("budget"), "budget"))
        now = house.clock.now()
        draft = Task(
            id=new_id(house, principal.name, key),
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
        enforced = enforcement(workflow)
        terms = narrowed(terms, await ask(house, "start", draft, "open", enforced))
        return await self._begin(workflow, draft, terms, body, enforced)

    async def _begin(
        self, workflow: Workflow, draft: Task, terms: Terms, body: Mapping[str, Any], enforced: Enforcing
    ) -> Started:
        house = self._house
        behalf = draft.subject.name if draft.subject else None
        task = finished(house, draft, terms, {**body, "on_behalf_of": behalf})
        drawn = await drawn_for(house, workflow, task, terms.limits)
        born: dict[str, Value] = {"pool": drawn.account} if drawn else {}
        limits = {**terms.limits, "cost": drawn.amount} if drawn else terms.limits
        opening = {"reason": f"{task.principal.name} for {behalf or 'itself'}", **enforced.facts()}
        view = await put(house, workflow, task, limits, born, opening)
        if drawn is not None:
            await unused(house, drawn, view.task.id, view.head)
        check_first(view)
        return await tokened(house, view, draft.principal)

    async def _workload(self, token: str) -> Principal:
        if token.startswith(PREFIX):
            detail = "this is a key (bp_…): its standing task begins at its first call; here an OIDC token is wanted"
            raise Problem("unauthenticated", detail)
        return await self._house.oidc.workload(token)

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
        elif set(behalf) == {"type", "id"} and all(map(_nameable, behalf.values())):
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
                f"on_behalf_of is {{token}} or {{type, id}}, printable strings of at most {NAME_CHARACTERS} characters",
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
        principal = await self._workload(token)
        view = await house.tasks.look(task)
        workflow = house.workflow(view.task.workflow)
        hidden = Problem("not_found", "there is no such task that you may resume")
        if view.task.principal.identity == KEY:  # its calls go on by themselves: nobody takes them over
            raise hidden
        try:
            check_agent(house, workflow, principal)
        except Problem as refusal:
            raise hidden from refusal
        await house.stops.ask(workflow.name, (principal.name, *names(view.task)))
        view = await self.settle_overdue(view)
        enforced = enforcement(workflow)
        decision = await ask(house, "resume", view.task, str(view.head["status"]), enforced)
        if decision.grant is not None:
            raise Problem("policy_unavailable", "the resume policy narrows the grant, which is not available yet")
        record = self._record("resume", status="open", reason=reason or f"by {principal.name}") | enforced.facts()
        await house.tasks.change(task, "resume", record)
        return await tokened(house, await house.tasks.look(task), principal)

    async def renew(self, task_token: str, actor_token: str) -> Started:
        """Give a fresh token for the same task and fence, to the workload that it belongs to (RFC 8693)."""
        house = self._house
        claims = await house.tokens.verify(task_token)
        principal = await house.oidc.workload(actor_token)
        view = await house.tasks.look(claims.task)
        if principal.name != claims.act:
            raise Problem("denied", "this task's token is another workload's", reasons=["actor"])
        check_standing(view.head, claims.fence, house.clock.now())
        return await tokened(house, view, principal)

    # ── change ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def change(self, who: Caller, task: str, verb: Verb, reason: str) -> Item:
        """Complete, suspend or kill; seal; give the head. Raises Problem."""
        house = self._house
        if isinstance(who, TaskCaller) and who.key:
            raise Problem("denied", "a key reads its standing task; an operator ends it", reasons=["caller"])
        view = await visible(house, who, task, killed=verb == "kill")
        await expire(house, view)
        ended = view.head["status"] in {"completed", "expired"}
        if verb == "kill" and view.task.principal.identity == KEY and not ended:  # first: else other sessions go on
            await stop(house, str(view.task.principal.claims["key"]), task)
        record = self._record(verb, status=verb, reason=reason, by=_name(who))
        return await end(house, task, verb, record, fence_of(who))

    async def settle_overdue(self, view: View) -> View:
        """The lazy sweep, at a read: end holds that nobody will settle, and a task whose time is over."""
        return await settle_overdue(self._house, view)

    def _record(self, operation: str, *, status: str, reason: str, by: str = "") -> dict[str, Value]:
        return lifecycle_record(self._house, operation, status=status, reason=reason, by=by)


def _nameable(part: Any) -> bool:
    """Whether this may name a subject: it stands in tokens and records."""
    return isinstance(part, str) and 0 < len(part) <= NAME_CHARACTERS and part.isprintable()


def _name(who: Caller) -> str:
    if isinstance(who, TaskCaller):
        return "agent"
    return f"operator {who.name}" if isinstance(who, OperatorCaller) else who.principal.name
