"""An inference: a model request, from its surface's allow-list to one provider's answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from buspass.breakers import Key
from buspass.calls import pacing, repetition, soft, upstreams
from buspass.calls.call import Ending, Incoming, in_time, policy_input
from buspass.calls.endings import Endings
from buspass.calls.enforcement import Enforcing
from buspass.calls.flow import Begun, Flow, begun
from buspass.calls.house import House
from buspass.calls.screening import Screening
from buspass.calls.sending import Sending, breaker_of
from buspass.config.settings import Model, Target, Workflow
from buspass.errors import Problem, Refuse, enforce
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.jsontext import canonical
from buspass.ledger import Claim, Held
from buspass.ledger.refusals import Mark
from buspass.mediation.inspect import Finding
from buspass.model import Answer, Ask
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.outbound import Ambiguous, NotSent, Request
from buspass.ports.state import Value
from buspass.providers import bounds, failures
from buspass.providers.wires import WIRES, Wire
from buspass.routing import targets
from buspass.stops import Stop, refusal
from buspass.surfaces import anthropic_messages, openai_chat
from buspass.surfaces.wrap_up import with_system
from buspass.tasks import Task, View, keyed, keyless, segment
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

    def __init__(self, house: House, incoming: Incoming, claims: TaskClaims, enforcement: Enforcing) -> None:
        """Parse: UTF-8, JSON, allow-listed fields. Raises Problem."""
        body = parse_json(incoming.body, limit=house.limits.request_bytes)
        self.ask = self._said = asked_of(incoming, body)
        self.name = self.ask.model
        self.cause = ""
        self.keyed = incoming.key is not None
        self.asked = hashlib.sha256(canonical(body, finite=True)).hexdigest()
        self.id = keyed(claims.task, incoming.key, self.kind) if incoming.key else keyless(house.clock, "i")
        self.enforcement = enforcement
        self._house = house
        self._incoming = incoming
        self._claims = claims
        self._screening = Screening(house, house.workflow(claims.workflow).personal_data, enforcement)
        self._targets: tuple[Target, ...] = ()
        self._permitted: frozenset[str] | None = None
        self._max_tokens: int | None = None
        self._bound = bounds.Bound(input_tokens=0, output_tokens=0, max_output=0)
        self._cost = 0
        self._draw: int | None = None
        self._hint = ""
        self._away: Mapping[Key, int] = {}
        self._paced = ""
        self._view: View | None = None
        self._reading: asyncio.Future[None] | None = None
        self._endings: Endings | None = None
        self.heard = repetition.results(self._said.payload.get("messages", ()))
        self.told: Mark | None = None

    async def recall(self) -> None:
        """Nothing to find: a keyed inference's id is its key's digest."""

    def guard(self, view: View) -> int | None:
        """Stops, status, fence, and the grant: the alias, and the functions that are offered to it."""
        self._house.stops.check(*self._whose(view.task), models=(self.ask.model,))
        check_standing(view.head, self._claims.fence, self._house.clock.now())
        workflow = self._house.workflow(view.task.workflow)
        self._hint = workflow.wrap_up if self._wraps_up(workflow, view) else ""
        granted = view.task.grant
        if self.ask.model not in granted.models:
            detail = f"model {self.ask.model!r} is not granted to this task; it has {_some(granted.models)}"
            row = {"path": "model", "message": "not granted", "allowed": list(granted.models)}
            self.enforcement.refuse(Problem("model_not_granted", detail, errors=[row], wanted=self.ask.model))
        outside = [name for name in self.ask.tools if name not in granted.named]
        for name in outside if workflow.route else ():
            detail = f"tool {name!r} is not granted to this task; take its functions from GET /v1/tools"
            row = {"path": "tools", "message": f"{name} is not granted", "allowed": list(granted.tools)}
            self.enforcement.refuse(Problem("tool_not_granted", detail, errors=[row], wanted=name))
        repetition.check(self._house, self, view)
        judged = self._house.policy.volatile("call") and self.enforcement.on
        return int(str(view.head["version"])) if judged else None

    def _whose(self, task: Task) -> tuple[str, tuple[str, str]]:
        """Give what a stop may know the call by: workflow, and agents."""
        return task.workflow, (self._claims.act, task.principal.name)

    def _wraps_up(self, workflow: Workflow, view: View) -> bool:
        """Whether the model is told that most of the budget is spent."""
        return bool(workflow.wrap_up and self.enforcement.on and soft.past(view.head, workflow.soft))

    def plan(self, view: View) -> None:
        """Choose the candidates that can say this ask, and bound the dearest of them."""
        able, refusal = self._able(enforce)
        if not able and refusal is not None:
            self.enforcement.refuse(refusal)
            able, refusal = self._able(self.enforcement.refuse)
        if not able and refusal is not None:
            raise refusal
        self._targets = tuple([target for target, _ in able])
        self._bound = (
            able[0][1] if len(able) == 1 else max([bound for _, bound in able], key=lambda bound: bound.tokens)
        )
        limited = "cost" in _limits(view)
        self._cost = bounds.ceiling(self._targets, self._bound, limited=limited, refuse=self.enforcement.refuse)

    def _able(self, refuse: Refuse) -> tuple[list[tuple[Target, bounds.Bound]], Problem | None]:
        """Give the candidates that can say this ask, each with its bound, and why the first that can't can not."""
        able: list[tuple[Target, bounds.Bound]] = []
        refusal: Problem | None = None
        for target in self._candidates():
            try:
                able.append((target, self._bounded(target, refuse)))
            except Problem as problem:
                refusal = refusal or problem
        return able, refusal

    def _candidates(self) -> tuple[Target, ...]:
        """One draw a call: what is planned again, on a newer head or by policy's obligation, keeps its order."""
        model = self._model()
        if self._draw is None and model.strategy == "weighted":
            self._draw = int.from_bytes(self._house.clock.random(DRAW))
        if not self._away and not self._house.stops.standing and self._permitted is None and self._draw is None:
            return targets.candidates(model)  # nearly always
        away = {key.name: until for key, until in self._away.items()}
        stopped = {name: stop for name in map(targets.name, model.targets) if (stop := self._stopped(name)) is not None}
        try:
            return targets.candidates(model, self._permitted, {*away, *stopped}, draw=self._draw or 0)
        except Problem as problem:
            if problem.code != "no_target_available":
                raise
            if stopped:
                raise refusal(next(iter(stopped.values()))) from None
            raise upstreams.none_left(model.alias, list(away.items()), self._house.clock.now()) from None

    def _stopped(self, target: str) -> Stop | None:
        return self._house.stops.against(self._claims.workflow, (self._claims.act,), models=(target,))

    async def survey(self) -> None:
        """Look what is stopped, and which targets work: the breakers know."""
        await self._house.stops.look()
        model = self._house.settings.models.get(self.ask.model)
        if model is not None:
            self._away = await self._house.breakers.unavailable([breaker_of(target) for target in model.targets])

    async def ready(self, seconds: float) -> None:
        """Wait for a permit of the first provider that has one; attempts after the first ask for themselves.

        Raises Problem rate_limited.
        """
        if self._screening.wanting:
            await self._look_again()  # policy may have asked for placeholders
        chosen = await pacing.permit(self._house, self._targets, self._bound.tokens, seconds / 2, self._paced)
        self._paced = chosen.provider
        self._targets = (chosen, *(target for target in self._targets if target is not chosen))

    async def leave(self) -> None:
        """Nothing to give back, but a reading that nobody will wait for."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _bounded(self, target: Target, refuse: Refuse) -> bounds.Bound:
        api = self._house.settings.providers[target.provider].api
        most = self._model().max_output
        return bounds.bound(self.ask, target, most, api=api, at_most=self._max_tokens, refuse=refuse)

    async def inspect(self, view: View) -> tuple[Finding, ...]:
        """Look into every text that reaches the model; what may not reach it as it is, is replaced."""
        self._view = view
        self._screening.meet(view.task)
        await self._look(view)
        if self._screening.wanting:
            await self._look_again()
        if self.ask.stream and self._screening.ruled and self._reading is None:
            # once the stream flows it is too late, and the hold takes time meanwhile
            self._reading = asyncio.ensure_future(self._screening.read())
        return self._screening.findings

    async def _look(self, view: View) -> None:
        if self._screening.ruled and self._said.input_bytes > LONG:
            await asyncio.to_thread(self._screen, view)
        else:
            self._screen(view)

    async def _look_again(self) -> None:
        """Do it with the task's table of placeholders, which is wanting. Raises Problem as its reading."""
        if self._view is not None:
            await self._screening.prepare()
            await self._look(self._view)

    def _screen(self, view: View) -> None:
        before, self.ask = self.ask.input_bytes, self._screening.request(self._said)
        if self._hint:  # the operator's own words are not looked into
            self.ask = with_system(self.ask, self._hint)
        if self.ask.input_bytes != before:
            self.plan(view)

    def question(self, view: View, findings: tuple[Finding, ...]) -> Mapping[str, Any]:
        """Give policy's input for an inference."""
        providers = self._house.settings.providers
        described = document.inference(
            model=self.ask.model,
            stream=self.ask.stream,
            tools=self.ask.tools,
            size=len(self._incoming.body),
            targets=[
                {
                    "name": targets.name(target),
                    "provider": target.provider,
                    "model": target.model,
                    "region": providers[target.provider].region,
                }
                for target in self._targets
            ],
            findings=[finding.document() for finding in findings],
        )
        return policy_input(self._house, view, described)

    def narrow(self, view: View, decision: Decision) -> None:
        """Take `targets` and `max_tokens` from policy and plan anew: both only narrow."""
        if self._screening.oblige(decision.obligations):
            self._screen(view)
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
        if not any(targets.name(target) in permitted for target in self._model().targets):
            detail = f"policy permits none of the targets of '{self.ask.model}'"
            self.enforcement.refuse(Problem("denied", detail, reasons=["targets"]))
            return None
        return frozenset(permitted)

    def claim(self, view: View, version: int | None, deadline: int) -> Claim:
        """Hold what the dearest permitted target may cost at most."""
        return Claim(
            task=view.task.id,
            call=self.id,
            kind="inference",
            name=segment(self.ask.model),
            amounts={"tokens": self._bound.tokens, "cost": self._cost, "calls": 1, "model_calls": 1},
            fence=self._claims.fence,
            deadline=deadline,
            lasts=round(self._model().total * 1000),
            host=self._house.host.name,
            version=version,
            keyed=self.keyed,
            observed=not self.enforcement.on,
        )

    async def dispatch(self, view: View, held: Held) -> Ending:
        """Send to the best target, and to others as `calls.sending` says."""
        sent = await self._send(view, held, self._whole)
        if isinstance(sent, Ending):
            return sent
        answer, target, tried = sent
        ending = self._made(view, held).answered(await self._screening.seen(answer), target, tried)
        await self._screening.keep()
        return ending

    async def begin(self, view: View, held: Held) -> Ending | Flow:
        """Do what `dispatch` does for a stream, up to its first event: until then another target may be tried."""
        sent = await self._send(view, held, self._opened)
        if isinstance(sent, Ending):
            return sent
        begun, target, tried = sent
        return Flow(self._house, self._claims, view, held, begun, self._made(view, held), target, tried)

    async def _send[T](
        self, view: View, held: Held, attempt: Callable[[Target, Request], Awaitable[T]]
    ) -> tuple[T, Target, int] | Ending:
        model = self._model()
        sending = Sending(
            house=self._house,
            model=model,
            held=held,
            endings=self._made(view, held),
            request=lambda target, since: self._request(view, target, held, since),
            untried=list(self._targets),
            paced=self._paced,
            patient=model.first_token if self.ask.stream else model.total,
        )
        return await sending.run(attempt)

    async def _request(self, view: View, target: Target, held: Held, since: int) -> Request:
        """Make one attempt's request. Raises Problem: stopped, no secret, too late, not sayable there."""
        if self._reading is not None:
            await self._reading
        await self._screening.keep()
        house = self._house
        await house.stops.ask(*self._whose(view.task), models=(self.ask.model, targets.name(target)))
        provider = house.settings.providers[target.provider]
        secret = await house.secret(provider.auth.secret) if provider.auth.secret else None
        seconds = in_time(held, house.clock.now(), since)
        if self.ask.stream:
            seconds = min(seconds, self._model().first_token, self._incoming.seconds)
        idle = self._model().idle
        return self._wire(target).request(provider, target, self.ask, self._bound, secret, seconds, idle=idle)

    async def _whole(self, target: Target, request: Request) -> Answer:
        try:
            response = await self._house.outbound.send(request)
        except (NotSent, Ambiguous) as error:
            raise failures.unsent(error) from error
        await pacing.heard(self._house, self._house.settings.providers[target.provider], response.headers)
        return self._wire(target).answer(response, self.ask)

    async def _opened(self, target: Target, request: Request) -> Begun:
        found = await begun(self._house.outbound, request, self._wire(target), self.ask)
        try:
            await pacing.heard(self._house, self._house.settings.providers[target.provider], found.headers)
        except BaseException:
            await found.chunks.aclose()
            raise
        return found

    def _wire(self, target: Target) -> Wire:
        return WIRES[self._house.settings.providers[target.provider].api]

    def _made(self, view: View, held: Held) -> Endings:
        if self._endings is None:
            self._endings = Endings(self._house, self._incoming, self.ask, view, held, self._bound, self._screening)
        return self._endings

    def _model(self) -> Model:
        """Give the alias. Raises Problem model_not_granted for one that this revision no longer has."""
        if (found := self._house.settings.models.get(self.ask.model)) is None:
            raise Problem("model_not_granted", f"model {self.ask.model!r} is not configured at this host any more")
        return found


def asked_of(incoming: Incoming, body: Any) -> Ask:
    """Parse a request, which `parse_json` read, by the surface that it came in at. Raises Problem."""
    if incoming.surface == anthropic_messages.NAME:
        return anthropic_messages.parse(body, headers=incoming.headers, streaming=True, read=True)
    return openai_chat.parse(body, streaming=True, read=True)


def _some(models: Sequence[str]) -> str:
    more = f" and {len(models) - NAMED} more: see GET /v1/models" if len(models) > NAMED else ""
    return ", ".join(models[:NAMED]) + more or "none"


def _limits(view: View) -> Mapping[str, Value]:
    limits = view.head["limits"]
    return limits if isinstance(limits, Mapping) else {}
