"""An inference: a model request, from its surface's allow-list to one provider's answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Hashable, Mapping, Sequence
from typing import Any, Final

from buspass.breakers import Key
from buspass.calls import pacing, repetition, soft, upstreams
from buspass.calls.call import Ending, Incoming, in_time, policy_input
from buspass.calls.endings import Endings
from buspass.calls.enforcement import Enforcing
from buspass.calls.flow import Begun, Flow, begun
from buspass.calls.house import House
from buspass.calls.lanes import Alias, Lane
from buspass.calls.screening import Screening
from buspass.calls.sending import Sending
from buspass.errors import Problem, Refuse, enforce
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.jsontext import canonical
from buspass.ledger import Claim, Held
from buspass.ledger.refusals import Mark
from buspass.mediation.inspect import Finding
from buspass.model import Answer
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.outbound import Ambiguous, NotSent, Request
from buspass.providers import bounds, failures
from buspass.providers.wires import WIRES
from buspass.routing import targets
from buspass.stops import Stop, refusal
from buspass.surfaces.registry import asked
from buspass.surfaces.wrap_up import with_system
from buspass.tasks import Task, View, keyed, keyless
from buspass.tools.schema import parse_json

MARGIN: Final = 1.0
"""Seconds that a host keeps for itself to settle and to answer."""
LONG: Final = 50_000
"""Bytes of a request whose inspection may take so long that other calls must not wait for it."""
DRAW: Final = 64
"""Random bytes that decide among targets by weight: 16 weights of a million each need 48 to be fair."""
NAMED: Final = 8
"""Models that a refusal's text names; `errors` has them all."""


class Inference:
    """One request to a model. See `calls.call.Call` for its stations."""

    kind: Final = "inference"
    told: Mark | None = None
    _alias: Alias
    """What its model is to this host, once it is planned."""
    _lanes: tuple[Lane, ...] = ()
    _bound: bounds.Bound
    _cost = 0
    _draw: int | None = None
    _view: View
    """The task as it was inspected for."""
    _endings: Endings

    def __init__(self, house: House, incoming: Incoming, claims: TaskClaims, enforcement: Enforcing) -> None:
        """Parse: UTF-8, JSON, allow-listed fields. Raises Problem."""
        body = parse_json(incoming.body, limit=house.limits.request_bytes)
        self.ask = self._said = asked(incoming.surface, body, incoming.headers)
        self.name = self.ask.model
        self.keyed = self.recalls = incoming.key is not None
        self.id = keyed(claims.task, incoming.key, self.kind) if incoming.key else keyless(house.clock, "i")
        self.enforcement = enforcement
        self.workflow = house.workflow(claims.workflow)
        self.watched = self.workflow.loops is not None
        known_by = self.keyed or self.watched
        self.asked = hashlib.sha256(canonical(body, finite=True)).hexdigest() if known_by else ""
        self.heard = repetition.results(self._said.payload.get("messages", ())) if self.watched else b""
        self._house = house
        self._incoming = incoming
        self._claims = claims
        self._screening = Screening(house, self.workflow.personal_data, enforcement)
        self._found = house.aliases.get(self.name)
        # set here and not by the class: what Python reads of an instance it finds at once
        self.cause = self._hint = self._paced = ""
        self._permitted: frozenset[str] | None = None
        self._max_tokens: int | None = None
        self._away: Mapping[Key, int] | None = None

    async def recall(self) -> None:
        """Nothing to find: a keyed inference's id is its key's digest."""

    def guard(self, view: View, now: int) -> int | None:
        """Stops, status, fence, and the grant: the alias, and the functions that are offered to it."""
        house, workflow, ask = self._house, self.workflow, self.ask
        if house.stops.standing:
            house.stops.check(*self._whose(view.task), models=(ask.model,))
        check_standing(view.head, self._claims.fence, now)
        if workflow.wrap_up:  # the model is told that most of the budget is spent
            wraps_up = self.enforcement.on and soft.past(view.head, workflow.soft)
            self._hint = workflow.wrap_up if wraps_up else ""
        granted = view.task.grant
        if ask.model not in granted.models:
            detail = f"model {ask.model!r} is not granted to this task; it has {_some(granted.models)}"
            row = {"path": "model", "message": "not granted", "allowed": list(granted.models)}
            self.enforcement.refuse(Problem("model_not_granted", detail, errors=[row], wanted=ask.model))
        for name in ask.tools if workflow.route else ():
            if name not in granted.named:
                detail = f"tool {name!r} is not granted to this task; take its functions from GET /v1/tools"
                row = {"path": "tools", "message": f"{name} is not granted", "allowed": list(granted.tools)}
                self.enforcement.refuse(Problem("tool_not_granted", detail, errors=[row], wanted=name))
        if self.watched:
            repetition.check(house, self, view)
        judged = house.policy.volatile("call") and self.enforcement.on
        return int(str(view.head["version"])) if judged else None

    def _whose(self, task: Task) -> tuple[str, tuple[str, str]]:
        """Give what a stop may know the call by: workflow, and agents."""
        return task.workflow, (self._claims.act, task.principal.name)

    def plan(self, view: View) -> None:
        """Choose the candidates that can say this ask, and bound the dearest of them.

        Raises Problem model_not_granted for an alias that this revision no longer has.
        """
        if self._found is None:
            raise Problem("model_not_granted", f"model {self.name!r} is not configured at this host any more")
        self._alias = self._found
        lanes = self._candidates()
        refusal = self._able(lanes, enforce)
        if refusal is not None:
            self.enforcement.refuse(refusal)
            refusal = self._able(lanes, self.enforcement.refuse)
        if refusal is not None:
            raise refusal
        cost = bounds.plain_ceiling([lane.rates for lane in self._lanes], self._bound)
        if cost is None:
            row: Mapping[str, Any] = view.head
            chosen, limited = [lane.target for lane in self._lanes], "cost" in row["limits"]
            cost = bounds.ceiling(chosen, self._bound, limited=limited, refuse=self.enforcement.refuse)
        self._cost = cost

    def _able(self, lanes: Sequence[Lane], refuse: Refuse) -> Problem | None:
        """Keep the lanes that can say this ask, and the largest of their bounds; else say why the first can not."""
        able, largest, refusal = [], None, None
        most = self._alias.model.max_output
        for lane in lanes:
            try:
                bound = bounds.bound(
                    self.ask, lane.target, most, api=lane.provider.api, at_most=self._max_tokens, refuse=refuse
                )
            except Problem as problem:
                refusal = refusal or problem
                continue
            able.append(lane)
            if largest is None or bound.tokens > largest.tokens:
                largest = bound
        if largest is None:
            return refusal
        self._lanes, self._bound = tuple(able), largest
        return None

    def _candidates(self) -> tuple[Lane, ...]:
        """One draw a call: what is planned again, on a newer head or by policy's obligation, keeps its order."""
        alias, house = self._alias, self._house
        if not self._away and not house.stops.standing and self._permitted is None and not alias.weighted:
            return alias.lanes  # nearly always
        if self._draw is None and alias.weighted:
            self._draw = int.from_bytes(house.clock.random(DRAW))
        away = {key.name: until for key, until in (self._away or {}).items()}
        stopped = {lane.name: stop for lane in alias.lanes if (stop := self._stopped(lane.name)) is not None}
        try:
            found = targets.candidates(alias.model, self._permitted, {*away, *stopped}, draw=self._draw or 0)
        except Problem as problem:
            if problem.code != "no_target_available":
                raise
            if stopped:
                raise refusal(next(iter(stopped.values()))) from None
            raise upstreams.none_left(self.name, list(away.items()), house.clock.now()) from None
        return tuple([lane for target in found for lane in alias.lanes if lane.target is target])

    def _stopped(self, target: str) -> Stop | None:
        return self._house.stops.against(self._claims.workflow, (self._claims.act,), models=(target,))

    def informed(self) -> bool:
        """Whether nothing is stopped, and all targets are known to work."""
        house, found = self._house, self._found
        return house.stops.clear() and (found is None or house.breakers.well(found.breakers))

    async def survey(self) -> None:
        """Look what is stopped, and which targets work: the breakers know."""
        house, found = self._house, self._found
        if not house.stops.clear():
            await house.stops.look()
        if found is not None and not house.breakers.well(found.breakers):
            self._away = await house.breakers.unavailable(found.breakers)

    @property
    def waits(self) -> bool:
        """Whether a provider has limits, or policy may have asked for placeholders."""
        return self._alias.paced or self._screening.wanting

    async def ready(self, seconds: float) -> None:
        """Wait for a permit of the first provider that has one; attempts after the first ask for themselves.

        Raises Problem rate_limited.
        """
        if self._screening.wanting:
            await self._look_again()
        chosen = await pacing.permit(self._house, self._lanes, self._bound.tokens, seconds / 2, self._paced)
        self._paced = chosen.provider.name
        self._lanes = (chosen, *(lane for lane in self._lanes if lane is not chosen))

    async def leave(self) -> None:
        """Nothing to give back."""

    def inspect(self, view: View) -> tuple[Finding, ...] | None:
        """Look into every text that reaches the model; what may not reach it as it is, is replaced.

        None where it is long, or needs the task's placeholders.
        """
        self._view = view
        screening = self._screening
        screening.meet(view.task)
        if screening.ruled and self._said.input_bytes > LONG:
            return None
        self._screen()
        return None if screening.wanting else screening.findings

    async def inspect_at_length(self) -> tuple[Finding, ...]:
        """Do so in a thread where it is long, and again with the placeholders where they are wanting."""
        screening = self._screening
        if not screening.wanting:
            await self._look()
        if screening.wanting:
            await self._look_again()
        return screening.findings

    async def _look(self) -> None:
        if self._screening.ruled and self._said.input_bytes > LONG:
            await asyncio.to_thread(self._screen)
        else:
            self._screen()

    async def _look_again(self) -> None:
        """Do it with the task's table of placeholders, which is wanting. Raises Problem as its reading."""
        await self._screening.prepare()
        await self._look()

    def _screen(self) -> None:
        before, self.ask = self.ask.input_bytes, self._screening.request(self._said)
        if self._hint:  # the operator's own words are not looked into
            self.ask = with_system(self.ask, self._hint)
        if self.ask.input_bytes != before:
            self.plan(self._view)

    def alike(self, findings: tuple[Finding, ...]) -> Hashable:
        """Give all that `question` says of it, with its size only where modules read it; None with findings."""
        size = len(self._incoming.body) if self._house.policy.sized else 0
        return None if findings else (self.name, self.ask.stream, (*self.ask.tools,), self._lanes, size)

    def question(self, view: View, findings: tuple[Finding, ...]) -> Mapping[str, Any]:
        """Give policy's input for an inference."""
        described = document.inference(
            model=self.name,
            stream=self.ask.stream,
            tools=self.ask.tools,
            size=len(self._incoming.body),
            targets=[lane.described for lane in self._lanes],
            findings=[finding.document() for finding in findings],
        )
        return policy_input(self._house, view, described)

    def narrow(self, view: View, decision: Decision) -> None:
        """Take `targets` and `max_tokens` from policy and plan anew: both only narrow."""
        if self._screening.oblige(decision.obligations):
            self._screen()
        permitted, most = decision.obligations.get("targets"), decision.obligations.get("max_tokens")
        if most is not None and most < self._bound.max_output:
            detail = f"policy ends answers at {most} tokens; this one might have {self._bound.max_output}"
            self._max_tokens = most if self.enforcement.changes("would_hold", "max_tokens", "policy", detail) else None
        if permitted is not None:
            self._permitted = self._leaving(permitted)
        if (self._permitted, self._max_tokens) != (None, None):
            self.plan(view)

    def _leaving(self, permitted: Sequence[str]) -> frozenset[str] | None:
        """Give the names of targets that policy permits; None where observing passes that it permits none."""
        if not any(lane.name in permitted for lane in self._alias.lanes):
            detail = f"policy permits none of the targets of '{self.name}'"
            self.enforcement.refuse(Problem("denied", detail, reasons=["targets"]))
            return None
        return frozenset(permitted)

    def claim(self, view: View, version: int | None, deadline: int) -> Claim:
        """Hold what the dearest permitted target may cost at most."""
        bound = self._bound
        tokens = bound.input_tokens + bound.output_tokens
        return Claim(
            task=view.task.id,
            call=self.id,
            kind="inference",
            name=self._alias.segment,
            amounts={"tokens": tokens, "cost": self._cost, "calls": 1, "model_calls": 1},
            fence=self._claims.fence,
            deadline=deadline,
            lasts=self._alias.lasts,
            host=self._house.host.name,
            version=version,
            keyed=self.keyed,
            observed=not self.enforcement.on,
        )

    async def dispatch(self, view: View, held: Held) -> Ending:
        """Send to the best target, and to others as `calls.sending` says."""
        sent = await self._sending(view, held).run(self._whole)
        if not isinstance(sent, tuple):
            return sent
        answer, lane, tried = sent
        screening = self._screening
        if not screening.silent(answer):
            answer = await screening.seen(answer)
            await screening.keep()
        return self._endings.answered(answer, lane, tried)

    async def begin(self, view: View, held: Held) -> Ending | Flow:
        """Do what `dispatch` does for a stream, up to its first event: until then another target may be tried."""
        sent = await self._sending(view, held).run(self._opened, Begun.close)
        if isinstance(sent, Ending):
            return sent
        begun, lane, tried = sent
        return Flow(self._house, self._claims, view, held, begun, self._endings, lane, tried)

    def _sending(self, view: View, held: Held) -> Sending:
        house, model = self._house, self._alias.model
        self._endings = Endings(
            house, self.workflow, self._incoming, self.ask, view, held, self._bound, self._screening
        )
        return Sending(
            house=house,
            alias=self._alias,
            held=held,
            endings=self._endings,
            request=self._request,
            untried=[*self._lanes],
            paced=self._paced,
            patient=model.first_token if self.ask.stream else model.total,
            since=held.at,
        )

    def _request(self, lane: Lane, held: Held, since: int) -> Request | Awaitable[Request]:
        """Make one attempt's request, at once where nothing must be waited for. Raises Problem, as `_asked_for`."""
        house, named = self._house, lane.provider.auth.secret
        secret = house.secrets.at_once(named) if named else None
        if self._screening.unkept or not house.stops.clear() or (named and secret is None):
            return self._asked_for(lane, held, since)
        return self._written(lane, held, since, secret)

    async def _asked_for(self, lane: Lane, held: Held, since: int) -> Request:
        """Raises Problem: stopped, no secret, too late, not sayable there."""
        house, named = self._house, lane.provider.auth.secret
        await self._screening.keep()
        if not house.stops.clear():
            await house.stops.ask(*self._whose(self._view.task), models=(self.ask.model, lane.name))
        return self._written(lane, held, since, await house.secret(named) if named else None)

    def _written(self, lane: Lane, held: Held, since: int, secret: str | None) -> Request:
        ask, provider, model = self.ask, lane.provider, self._alias.model
        seconds = in_time(held, self._house.clock.now(), since)
        if ask.stream:
            seconds = min(seconds, model.first_token, self._incoming.seconds)
        return WIRES[provider.api].request(provider, lane.target, ask, self._bound, secret, seconds, idle=model.idle)

    async def _whole(self, lane: Lane, request: Request) -> Answer:
        try:
            response = await self._house.outbound.send(request)
        except (NotSent, Ambiguous) as error:
            raise failures.unsent(error) from error
        if lane.pace is not None:
            await pacing.heard(self._house, lane.pace, response.headers)
        return WIRES[lane.provider.api].answer(response, self.ask)

    async def _opened(self, lane: Lane, request: Request) -> Begun:
        found = await begun(self._house.outbound, request, WIRES[lane.provider.api], self.ask)
        try:
            if lane.pace is not None:
                await pacing.heard(self._house, lane.pace, found.headers)
        except BaseException:
            await found.close()
            raise
        return found


def _some(models: Sequence[str]) -> str:
    more = f" and {len(models) - NAMED} more: see GET /v1/models" if len(models) > NAMED else ""
    return ", ".join(models[:NAMED]) + more or "none"
