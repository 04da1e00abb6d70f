"""An inference: a model request, from its surface's allow-list to one provider's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from buspass.calls.call import Ending, Incoming, in_time, mark, policy_input
from buspass.calls.house import House
from buspass.config.settings import Model, Target
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.ledger import Claim, Held, Outcome
from buspass.mediation.inspect import Finding
from buspass.model import Answer, Failure, Offer, Usage
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.outbound import Ambiguous, NotSent
from buspass.ports.state import Value
from buspass.providers import bounds, failures, openai
from buspass.routing import attempts, targets
from buspass.surfaces import openai_chat
from buspass.tasks import View, keyed, keyless, segment
from buspass.tools.call import fingerprint
from buspass.tools.schema import parse_json

MARGIN: Final = 1.0
"""Seconds that a host keeps for itself to settle and to answer."""


class Inference:
    """One request to a model. See `calls.call.Call` for its stations."""

    kind: Final = "inference"

    def __init__(self, house: House, incoming: Incoming, claims: TaskClaims) -> None:
        """Parse: UTF-8, JSON, allow-listed fields. Raises Problem."""
        body = parse_json(incoming.body, limit=house.limits.request_bytes)
        self.ask = openai_chat.parse(body)
        self.name = self.ask.model
        self.cause = ""
        self.keyed = incoming.key is not None
        self.asked = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.id = keyed(claims.task, incoming.key, self.kind) if incoming.key else keyless(house.clock, "i")
        self._house = house
        self._incoming = incoming
        self._claims = claims
        self._targets: tuple[Target, ...] = ()
        self._permitted: frozenset[str] | None = None
        self._max_tokens: int | None = None
        self._bound = bounds.Bound(input_tokens=0, output_tokens=0, max_output=0)
        self._cost = 0

    async def recall(self) -> None:
        """Nothing to find: a keyed inference's id is its key's digest."""

    def guard(self, view: View) -> int | None:
        """Status, fence, and the grant: the alias, and the functions that are offered to it."""
        check_standing(view.head, self._claims.fence, self._house.clock.now())
        granted = view.task.grant
        if self.ask.model not in granted.models:
            raise Problem(
                "model_not_granted",
                f"model {self.ask.model!r} is not granted to this task; it has {', '.join(granted.models) or 'none'}",
                errors=[{"path": "model", "message": "not granted", "allowed": list(granted.models)}],
            )
        outside = [name for name in self.ask.tools if name not in granted.tools]
        if outside and self._house.workflow(view.task.workflow).route:
            raise Problem(
                "tool_not_granted",
                f"tool {outside[0]!r} is not granted to this task; take its functions from GET /v1/tools",
                errors=[{"path": "tools", "message": f"{outside[0]} is not granted", "allowed": list(granted.tools)}],
            )
        return int(str(view.head["version"])) if self._house.policy.volatile("call") else None

    def plan(self, view: View) -> None:
        """Choose the candidates, and bound the dearest of them."""
        model = self._model()
        self._targets = targets.candidates(model, self._permitted)
        per_target = [
            bounds.bound(
                self.ask,
                target,
                model.max_output,
                api=self._house.settings.providers[target.provider].api,
                at_most=self._max_tokens,
            )
            for target in self._targets
        ]
        self._bound = max(per_target, key=lambda bound: bound.tokens)
        self._cost = bounds.ceiling(self._targets, self._bound, limited="cost" in _limits(view))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Give every text that reaches the model."""
        return openai_chat.texts(self.ask)

    def question(self, view: View, findings: tuple[Finding, ...]) -> Mapping[str, Any]:
        """Give policy's input for an inference."""
        providers = self._house.settings.providers
        described = document.inference(
            model=self.ask.model,
            stream=False,
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
        permitted, most = decision.obligations.get("targets"), decision.obligations.get("max_tokens")
        if permitted is None and most is None:
            return
        self._permitted = frozenset(permitted) if permitted is not None else None
        self._max_tokens = most
        self.plan(view)

    def claim(self, view: View, version: int | None, deadline: int) -> Claim:
        """Hold what the dearest permitted target may cost at most."""
        return Claim(
            task=view.task.id,
            call=self.id,
            kind="inference",
            name=segment(self.ask.model),
            amounts={"tokens": self._bound.tokens, "cost": self._cost, "calls": 1, "model_calls": 1},
            fence=self._claims.fence,
            deadline=min(deadline, self._house.clock.now() + round(self._model().total * 1000)),
            host=self._house.host.name,
            version=version,
            keyed=self.keyed,
        )

    async def dispatch(self, view: View, held: Held) -> Ending:
        """Send to the best target; to the next only after a failure that surely was not billed."""
        house = self._house
        tried = 0
        current: Target | None = self._targets[0]
        while current is not None:
            tried += 1
            try:
                answer = await self._attempt(current, held)
            except Problem as problem:  # it was not sent
                return self._failed(problem, "nothing", current, tried)
            except Failure as failure:
                step = attempts.after(
                    failure,
                    self._targets[tried:],
                    attempts_left=self._model().attempts - tried,
                    seconds_left=(held.claim.deadline - house.clock.now()) / 1000,
                )
                if isinstance(step, attempts.GiveUp):
                    return self._failed(step.problem, step.charge, current, tried)
                current = step.target
            else:
                return self._answered(answer, current, tried, view, held)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _attempt(self, target: Target, held: Held) -> Answer:
        """Send once. Raises Failure, or Problem where nothing was sent: no secret, or too late for any target."""
        house = self._house
        provider = house.settings.providers[target.provider]
        secret = await house.secret(provider.auth.secret) if provider.auth.secret else None
        seconds = in_time(held, house.clock.now())
        request = openai.request(provider, target, self.ask, self._bound, secret, seconds)
        try:
            response = await house.outbound.send(request)
        except (NotSent, Ambiguous) as error:
            raise failures.unsent(error) from error
        return openai.answer(response)

    def _answered(self, answer: Answer, target: Target, tried: int, view: View, held: Held) -> Ending:
        known = answer.usage.known
        used = answer.usage
        use = {
            "tokens": used.input + used.output if known else self._bound.tokens,
            "cost": bounds.cost(target.price, used) if known else self._cost,
            "calls": 1,
            "model_calls": 1,
        }
        over = any(use[name] > held.claim.amounts[name] for name in use)
        facts: dict[str, Value] = {
            "status": "succeeded",
            "target": targets.name(target),
            "attempts": tried,
            "price": target.price.version if target.price else "none",
            "usage": _usage(used),
            "estimated": not known,
            "overrun": over,
            "offers": [self._offer(view, offer) for offer in answer.offers],
            "labels": json.dumps({**self.ask.metadata, **self._incoming.labels}),
        }
        return Ending(
            outcome=Outcome(use=use),
            facts=facts,
            document=openai_chat.render(answer, self.ask.model),
            payload={
                "request": dict(self.ask.payload),
                "thought": answer.text,
                "tool_calls": [[offer.id, offer.name, offer.arguments_text] for offer in answer.offers],
            },
            headers={"Buspass-Target": targets.name(target), "Buspass-Attempts": str(tried)},
        )

    def _failed(self, problem: Problem, charge: str, target: Target | None, tried: int) -> Ending:
        charged = charge == "estimated"
        use = {"tokens": self._bound.tokens, "cost": self._cost, "calls": 1, "model_calls": 1} if charged else {}
        facts: dict[str, Value] = {
            "status": "unknown" if charged else "failed",
            "code": problem.code,
            "detail": problem.detail[:300],
            "attempts": tried,
            "estimated": charged,
        }
        if target is not None:
            facts["target"] = targets.name(target)
        outcome = Outcome(use=use, sent=charged)
        headers = {"Buspass-Attempts": str(tried)}
        return Ending(outcome=outcome, facts=facts, problem=problem, payload={}, headers=headers)

    def _offer(self, view: View, offer: Offer) -> dict[str, Value]:
        """Give a licence's place in the record. Arguments that are no JSON object license nothing."""
        try:
            arguments = parse_json(offer.arguments_text.encode())
            known = fingerprint(offer.name, arguments) if isinstance(arguments, dict) else ""
        except (Problem, UnicodeEncodeError):
            known = ""
        asked = mark(self._house, view.task, known) if known else ""
        return {"id": offer.id, "tool": offer.name, "fingerprint": asked}

    def _model(self) -> Model:
        return self._house.settings.models[self.ask.model]


def _limits(view: View) -> Mapping[str, Value]:
    limits = view.head["limits"]
    return limits if isinstance(limits, Mapping) else {}


def _usage(used: Usage) -> dict[str, Value]:
    return {"input": used.input, "output": used.output, "cached": used.cached, "reasoning": used.reasoning}
