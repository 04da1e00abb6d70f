"""An action: a tool call, from its licence to the service's validated answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from buspass.breakers import Key, Pass, Refusal
from buspass.calls import pacing, repetition, upstreams
from buspass.calls.call import Ending, Incoming, in_time, mark, policy_input
from buspass.calls.enforcement import Enforcing
from buspass.calls.house import House
from buspass.calls.lanes import Service
from buspass.calls.outcomes import withheld
from buspass.calls.screening import Screening, unsaid
from buspass.config.settings import Step, Tool, Workflow
from buspass.errors import Problem
from buspass.guard import check_route, check_standing
from buspass.identity.tokens import TaskClaims
from buspass.ledger import Claim, Held, Outcome
from buspass.ledger.refusals import Mark
from buspass.mediation.inspect import Finding
from buspass.model import Principal
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response
from buspass.ports.state import Value
from buspass.rates import Exhausted, Pace
from buspass.tasks import Licence, Task, View, keyed, keyless
from buspass.tools import auth, call, catalog, http
from buspass.tools.schema import parse_json

ONE: Final = {"calls": 1, "tool_calls": 1}


class Action:
    """One tool call. See `calls.call.Call` for its stations."""

    kind: Final = "action"
    recalls: Final = True
    waits: Final = True

    def __init__(self, house: House, incoming: Incoming, claims: TaskClaims, enforcement: Enforcing) -> None:
        """Parse: the tool, the body, the tool's own schema. Raises Problem."""
        self.enforcement = enforcement
        self._house = house
        self._incoming = incoming
        self._claims = claims
        self.workflow: Workflow = house.workflow(claims.workflow)
        self.name = incoming.name
        self._tool: Tool = self._granted()
        self.watched = self.workflow.loops is not None or self._tool.polling is not None
        self._step: Step = self.workflow.route.get(self.name) or Step(tool=self.name)
        self.arguments, self._tool_call_id = call.arguments_of(parse_json(incoming.body))
        self._screening = Screening(house, self.workflow.personal_data, enforcement)
        if not self._screening.ruled:  # else placeholders stand in them, and `recall` puts values in their place
            self._fit()
        self._shown = self._sent = self.arguments
        self.asked = call.fingerprint(self.name, self.arguments)
        self.cause = ""
        self.keyed = incoming.key is not None
        self.id = keyed(claims.task, incoming.key, self.kind) if incoming.key else keyless(house.clock, "a")
        self._txn_jti = ""
        self._passes: tuple[Pass, ...] = ()
        self._breaker = ""
        self._paced = False
        self.heard = b""
        self.told: Mark | None = None

    def _granted(self) -> Tool:
        """Give the tool, if it is in the route and called at this host. Raises Problem tool_not_granted."""
        tools, hosts, here = self._house.settings.tools, self._house.settings.hosts, self._house.host.name
        refusal = catalog.granted(self.name, self.workflow.route, tools, hosts, here)
        if refusal is not None and self.name in tools and self.name not in self.workflow.route:
            self.enforcement.refuse(refusal)
            refusal = catalog.elsewhere(self.name, tools, hosts, here)
        if refusal is not None:
            raise refusal
        return tools[self.name]

    async def recall(self) -> None:
        """Find the licence: by the model's id, else by tool and arguments where a thought is required.

        Raises Problem thought_required, idempotency_mismatch.
        """
        task = (await self._house.tasks.view(self._claims.task)).task
        await self._restore(task)
        asked = mark(self._house, task, self.asked)
        licence = await self._licence(asked)
        if licence is None:
            if self.workflow.require_thought:
                self.enforcement.refuse(Problem("thought_required", self._why_thoughtless()))
            return
        if licence.tool != self.name or not asked or licence.fingerprint != asked:
            detail = (
                f"the model asked for {licence.tool} with other arguments under this tool_call_id; "
                "send what it asked for, or let it ask anew"
            )
            self.enforcement.refuse(Problem("idempotency_mismatch", detail))
            return
        self.cause, self.id, self.keyed = licence.inference, licence.call, True

    async def _restore(self, task: Task) -> None:
        """Take the arguments as the tool will get them: every later station judges what is really sent."""
        screening = self._screening
        screening.meet(task)
        if not screening.plain(self.arguments):
            await screening.read()
            self._shown = screening.arguments(self._tool, self.arguments)
            self.arguments = self._sent = screening.restored(self._tool, self._shown)
        if screening.ruled:
            self._fit()

    def _fit(self) -> None:
        if (misfit := call.fitting(self._tool, self.arguments)) is not None:
            raise unsaid(misfit)

    async def _licence(self, asked: str) -> Licence | None:
        licences = self._house.licences
        if self._tool_call_id is not None:
            return await licences.by_id(self._claims.task, self._tool_call_id)
        if self.workflow.require_thought:
            return await licences.by_content(self._claims.task, self.name, asked)
        return None

    def _why_thoughtless(self) -> str:
        if self._tool_call_id is not None:
            return f"no model of this task asked for a tool call {self._tool_call_id!r}"
        return (
            f"no model of this task asked for {self.name} with these arguments (or it was done already); "
            "send the tool_call_id of the model's call"
        )

    def guard(self, view: View, now: int) -> int | None:
        """Stops, status, fence, grant, bound arguments, caps and prerequisites."""
        if self._house.stops.standing:
            self._house.stops.check(*self._whose(view.task))
        check_standing(view.head, self._claims.fence, now)
        if self.name not in view.task.grant.named:
            detail = f"tool {self.name!r} is not in this task's grant"
            self.enforcement.refuse(Problem("tool_not_granted", detail, wanted=self.name))
        for refusal in call.bound(self._step.where, self.arguments, view.task.subject):
            self.enforcement.refuse(refusal)
        refuse = self.enforcement.refuse
        judged = check_route(view.head, self._step, self.arguments, view.task.subject, now, refuse)
        if self.watched:
            repetition.check(self._house, self, view)
        judged = judged or self._house.policy.volatile("call")
        return int(str(view.head["version"])) if judged and self.enforcement.on else None

    def _whose(self, task: Task) -> tuple[str, tuple[str, str], str]:
        """Give what a stop may know the call by: workflow, agents, tool."""
        return task.workflow, (self._claims.act, task.principal.name), self.name

    def plan(self, view: View) -> None:  # noqa: ARG002 - the stations' common signature
        """Nothing to choose: one connector, one call. Its path must be sendable before anything is held."""
        if self._house.services[self.name].shaped:
            http.request(self._tool, self.arguments, headers={}, deadline_s=self._tool.timeout)

    def inspect(self, view: View) -> tuple[Finding, ...]:  # noqa: ARG002 - the stations' common signature
        """Give what `recall` found in the arguments, before it put values in the place of placeholders."""
        return self._screening.findings

    async def inspect_at_length(self) -> tuple[Finding, ...]:
        """Do the same: `recall` took its time."""
        return self._screening.findings

    def alike(self, _findings: tuple[Finding, ...]) -> None:
        """Nothing: its arguments are its own."""

    def question(self, view: View, findings: tuple[Finding, ...]) -> Mapping[str, Any]:
        """Give policy's input for a tool call."""
        service = self._house.services[self.name]
        described = document.action(
            tool=self.name,
            method=self._tool.method,
            host=service.where,
            path=service.path,
            arguments=self.arguments,
            thought=bool(self.cause),
            tool_call_id=self._tool_call_id,
            findings=[finding.document() for finding in findings],
        )
        return policy_input(self._house, view, described)

    def narrow(self, view: View, decision: Decision) -> None:  # noqa: ARG002 - the stations' common signature
        """Hide what policy wants hidden; its `log` is the gateway's, the rest makes no sense for a tool."""
        if self._screening.oblige(decision.obligations):
            self._shown = self._screening.arguments(self._tool, self._shown)
            self._sent = self._screening.restored(self._tool, self._shown)

    def claim(self, view: View, version: int | None, deadline: int) -> Claim:
        """Hold one call."""
        return Claim(
            task=view.task.id,
            call=self.id,
            kind="action",
            name=self.name,
            amounts=ONE,
            fence=self._claims.fence,
            deadline=deadline,
            lasts=round(self._tool.timeout * 1000),
            cause=self.cause,
            host=self._house.host.name,
            capped=self._step.max_calls is not None,
            version=version,
            keyed=self.keyed,
            observed=not self.enforcement.on,
        )

    def informed(self) -> bool:
        """Whether nothing is stopped. Nothing to choose from: `ready` says whether the one service works."""
        return self._house.stops.clear()

    async def survey(self) -> None:
        """Look what is stopped."""
        await self._house.stops.look()

    async def ready(self, seconds: float) -> None:
        """Ask the breakers of the service, and of this task there. Raises Problem circuit_open."""
        if self._passes:
            return
        tool, breakers = self._tool, self._house.breakers
        wait, service = min(seconds, tool.timeout), self._house.services[tool.name]
        if service.pace is not None and not self._paced:
            await self._pace(service, service.pace, seconds / 2)
        try:
            key, lasts = service.breaker, tool.timeout
            there = breakers.at_once(key) or await breakers.enter(key, wait=wait, lasts=lasts)
            self._passes = (there,)
            key = Key("task", service.where, self._claims.task)
            own = breakers.at_once(key) or await breakers.enter(key, wait=wait, lasts=lasts)
            self._passes = (own, there)
        except Refusal as refusal:
            await self.leave()
            raise upstreams.closed(tool.name, refusal, self._house.clock.now()) from None

    async def _pace(self, service: Service, pace: Pace, patience: float) -> None:
        """Wait for a permit of the tool's rate; not where the call would not go anyway. Raises Problem rate_limited."""
        if await self._house.breakers.unavailable([service.breaker]):
            return
        try:
            await self._house.rates.take(pace, pacing.CALLS, patience)
        except Exhausted as exhausted:
            raise pacing.refused(exhausted) from None
        self._paced = True

    async def leave(self) -> None:
        """Give the breakers' leave back."""
        passes, self._passes = self._passes, ()
        for passed in passes:
            if not passed.over:
                await passed.void()

    async def dispatch(self, view: View, held: Held) -> Ending:
        """Send once, and make of the answer a result or a problem."""
        try:
            return await self._send(view, held)
        finally:
            await self.leave()

    async def _send(self, view: View, held: Held) -> Ending:
        try:
            request = await self._request(view, held)
        except Problem as problem:  # stopped, no secret, no signature, no time: surely nothing was sent
            return self._ended(Outcome(use={}, sent=False, last="failed"), problem=problem)
        if (there := self._passes[-1]).first:
            there.sent()
        try:
            response = await self._house.outbound.send(request)
        except (NotSent, Ambiguous) as error:
            unsent = isinstance(error, NotSent)
            outcome = Outcome(use={} if unsent else ONE, sent=not unsent, last=http.outcome(self._tool, error))
            upstreams.noted(self.id, f"the service behind tool {self.name}", error)
            failure = http.failure(self._tool, error)
            await self._tell(error, failure, request.timeout, outcome)
            return self._ended(outcome, problem=failure)
        return await self._judged(response)

    async def _tell(
        self, answer: Response | NotSent | Ambiguous, problem: Problem | None, given: float, outcome: Outcome
    ) -> None:
        """Tell the breakers how it went, and the agent when it is worth asking again."""
        found = upstreams.tool_fault(answer, problem, given=given, timeout=self._tool.timeout)
        own, there = self._passes
        if found is None:
            answered = isinstance(answer, Response)
            for passed, well in ((own, problem is None), (there, answered)):
                if well and passed.well():
                    continue
                state = (await passed.succeeded()).state if well else passed.before
                await passed.void()
                if state != passed.before:
                    self._breaker = f"{passed.key.name}: {state}"
            return
        if there.first:
            there.broke()
        whose, fault = found
        if whose == "task":  # its own breaker first: who waits for the other one asks it next
            breaker = await own.failed(fault)
            await there.succeeded(proof=False)
        else:
            breaker = await there.failed(fault)
            await own.void()
        if breaker.state != (own if whose == "task" else there).before:
            self._breaker = upstreams.shown(there.key.name, breaker)
        if problem is not None and (breaker.state == "open" or outcome.last != "unknown"):
            now = self._house.clock.now()
            upstreams.told(problem, upstreams.again(breaker, now), now)

    async def _request(self, view: View, held: Held) -> Request:
        house, tool = self._house, self._tool
        if self._screening.unkept:
            await self._screening.keep()
        if not house.stops.clear():
            await house.stops.ask(*self._whose(view.task))
        headers = auth.headers(
            tool.auth,
            secret=await house.secret(tool.auth.secret) if tool.auth.secret else None,
            txn_token=await self._txn_token(view) if tool.auth.kind == "txn" else None,
            traceparent=self._incoming.traceparent or traceparent(),
            idempotency_key=f"{view.task.id}.{self.id}",
        )
        seconds = in_time(held, house.clock.now())
        return http.request(tool, self._sent, headers=headers, deadline_s=seconds)

    async def _judged(self, response: Response) -> Ending:
        last = http.outcome(self._tool, response)
        given = self._tool.timeout
        try:
            result = http.result(self._tool, response)
            facts = http.facts(self._tool, result)
        except Problem as problem:
            outcome = Outcome(use=ONE, last=last)
            await self._tell(response, problem, given, outcome)
            return self._ended(outcome, problem=problem, status=response.status)
        await self._tell(response, None, given, Outcome(use=ONE, last=last))
        kept = json.dumps(facts) if facts or self.name in self.workflow.timed else ""
        outcome = Outcome(use=ONE, last=last, kept=kept)
        try:
            seen = await self._screening.result(result)
            if self._screening.unkept:
                await self._screening.keep()
        except Problem as problem:  # what the tool did stands, whatever becomes of its answer
            return self._ended(outcome, problem=withheld(problem), status=response.status)
        ending = self._ended(outcome, result=seen, status=response.status)
        return replace(ending, answer=response.body)

    def _ended(
        self, outcome: Outcome, *, result: Any = None, problem: Problem | None = None, status: int = 0
    ) -> Ending:
        facts: dict[str, Value] = {"status": outcome.last, "upstream": status, "tool_call_id": self._tool_call_id or ""}
        facts |= self._screening.facts()
        if self._breaker:
            facts["breaker"] = self._breaker
        if self._txn_jti:
            facts["txn_jti"] = self._txn_jti
        if problem is not None:
            facts |= {"code": problem.code, "detail": problem.detail[:300]}
        return Ending(
            outcome=outcome,
            facts=facts,
            document=None if problem else {"result": result, "action": self.id},
            problem=problem,
            payload={"arguments": self._shown, "result": result},
        )

    async def _txn_token(self, view: View) -> str:
        task, tool = view.task, self._tool
        minted = await self._house.txn.mint(
            task=task.id,
            subject=task.subject,
            principal=acting(self._claims, task),
            audience=tool.auth.audience,
            tool=tool.name,
            method=tool.method,
            arguments=self._sent,
            host=self._house.host.name,
        )
        self._txn_jti = minted.jti
        return minted.token


def acting(claims: TaskClaims, task: Task) -> Principal:
    """Give the workload that holds the token: after a resume it may be another than the one that began the task."""
    if claims.act == task.principal.name:
        return task.principal
    identity, _, agent = claims.act.partition(":")
    return Principal(identity=identity, issuer="", agent=agent)


def traceparent() -> str:
    """Begin a trace (W3C Trace Context), where the agent brought none."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
