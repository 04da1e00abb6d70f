"""How an inference ends: what it cost, what its record says, what the agent gets; whole, failed, or cut short.

Owns the rule that what is not known is charged as it was held. Refuses to know how it was sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from buspass.calls.call import Ending, Incoming, mark
from buspass.calls.house import House
from buspass.calls.screening import Screening
from buspass.config.settings import Target
from buspass.errors import Problem
from buspass.ledger import Held, Outcome
from buspass.model import Answer, Ask, Offer, Usage
from buspass.ports.state import Value
from buspass.providers import bounds
from buspass.routing import targets
from buspass.surfaces.registry import SURFACES
from buspass.tasks import View
from buspass.tools.call import fingerprint
from buspass.tools.schema import parse_json

log = logging.getLogger("buspass")


class Endings(Struct, frozen=True):
    """Makes the ending of one inference.

    `notes`: what its attempts left: `breaker`, a change for the record; `also`, micro-dollars charged before the last.
    """

    house: House
    incoming: Incoming
    ask: Ask
    view: View
    held: Held
    bound: bounds.Bound
    screening: Screening
    notes: dict[str, Any] = field(default_factory=dict)

    def answered(self, answer: Answer, target: Target, tried: int) -> Ending:
        """Give the ending of a call that was answered whole; `answer` as the agent may see it."""
        known = answer.usage.known
        use = self._use(target, answer.usage) if known else self._held()
        facts = {**self._facts(answer, target, tried), "status": "succeeded", "estimated": not known}
        facts["overrun"] = self._over(use)
        return Ending(
            outcome=Outcome(use=use),
            facts=facts,
            document=None if self.ask.stream else SURFACES[self.ask.surface].render(answer, self.ask.model),
            payload=self._payload(answer),
            headers=self._headers(target, tried),
            also=self.notes.get("also", 0),
        )

    def cut(self, answer: Answer, target: Target, tried: int, problem: Problem) -> Ending:
        """Give the ending of a stream that broke, was cut, or whose client hung up: known counts, else the hold.

        Known counts are charged as they are, above the hold too: nobody gets out of a bill by hanging up. What the
        model still made when nobody listened any more is unknown, so its output is charged as it was held; its input is
        what the provider counted, where it said so at the beginning.
        """
        answer = self.screening.answer(answer, streamed=True)
        seen = answer.usage
        if not seen.known and seen.input:
            seen = Usage(
                input=seen.input,
                cached=seen.cached,
                cache_write=seen.cache_write,
                cache_write_1h=seen.cache_write_1h,
                output=max(self.bound.output_tokens, seen.output),
            )
        use = self._use(target, seen) if seen.known else self._held()
        if not answer.usage.known:
            use = {name: min(amount, self.held.claim.amounts[name]) for name, amount in use.items()}
        facts: dict[str, Value] = {
            **self._facts(answer, target, tried),
            "status": "unknown",
            "code": problem.code,
            "detail": problem.detail[:300],
            "estimated": not answer.usage.known,
            "overrun": self._over(use),
            "offers": [],  # an answer that nobody got whole licenses nothing
        }
        headers = self._headers(target, tried)
        return Ending(
            outcome=Outcome(use=use),
            facts=facts,
            problem=problem,
            payload=self._payload(answer),
            headers=headers,
            also=self.notes.get("also", 0),
        )

    def failed(
        self, problem: Problem, charge: Literal["nothing", "estimated"], target: Target | None, tried: int
    ) -> Ending:
        """Give the ending of a call without an answer."""
        charged = charge == "estimated"
        facts: dict[str, Value] = {
            "status": "unknown" if charged else "failed",
            "code": problem.code,
            "detail": problem.detail[:300],
            "attempts": tried,
            "estimated": charged,
            **self._always(),
        }
        if target is not None:
            facts["target"] = targets.name(target)
        outcome = Outcome(use=self._held() if charged else {}, sent=charged)
        headers = {"Buspass-Attempts": str(tried)}
        also = self.notes.get("also", 0)
        return Ending(outcome=outcome, facts=facts, problem=problem, payload={}, headers=headers, also=also)

    def _held(self) -> dict[str, int]:
        return dict(self.held.claim.amounts)

    def _over(self, use: Mapping[str, int]) -> bool:
        """Whether a provider counted more than was held; then a bound was wrong, and an operator is to know."""
        over = [name for name, amount in use.items() if amount > self.held.claim.amounts[name]]
        if over:
            log.warning("overrun of %s in task %s: more was billed than was held", " ".join(over), self.view.task.id)
        return bool(over)

    def _use(self, target: Target, used: Usage) -> dict[str, int]:
        cost = bounds.cost(target.price, used)
        return {"tokens": used.input + used.output, "cost": cost, "calls": 1, "model_calls": 1}

    def _facts(self, answer: Answer, target: Target, tried: int) -> dict[str, Value]:
        used = answer.usage
        return {
            "target": targets.name(target),
            "attempts": tried,
            "price": target.price.version if target.price else "none",
            "usage": {
                "input": used.input,
                "output": used.output,
                "cached": used.cached,
                "cache_write": used.cache_write,
                "reasoning": used.reasoning,
            },
            "offers": [self._offer(offer) for offer in answer.offers],
            "labels": self._labels(),
            **self._always(),
        }

    def _labels(self) -> str:
        labels = {**self.ask.metadata, **self.incoming.labels}
        return json.dumps(self.screening.labels(labels)) if labels else "{}"

    def _always(self) -> dict[str, Value]:
        """Findings; and where the workflow has no tools, the functions that the agent brings itself."""
        own = () if self.house.workflow(self.view.task.workflow).route else self.ask.tools
        changed = {"breaker": self.notes["breaker"]} if "breaker" in self.notes else {}
        return self.screening.facts() | changed | ({"local": self.screening.names(own)} if own else {})

    def _payload(self, answer: Answer) -> dict[str, object]:
        return {
            "request": dict(self.ask.payload),
            "thought": answer.text,
            "tool_calls": [[offer.id, offer.name, offer.arguments_text] for offer in answer.offers],
        }

    @staticmethod
    def _headers(target: Target, tried: int) -> dict[str, str]:
        return {"Buspass-Target": targets.name(target), "Buspass-Attempts": str(tried)}

    def _offer(self, offer: Offer) -> dict[str, Value]:
        """Give a licence's place in the record. Arguments that are no JSON object license nothing."""
        try:
            arguments = parse_json(offer.arguments_text.encode())
            known = fingerprint(offer.name, arguments) if isinstance(arguments, dict) else ""
        except (Problem, UnicodeEncodeError):
            known = ""
        asked = mark(self.house, self.view.task, known) if known else ""
        return {"id": offer.id, "tool": offer.name, "fingerprint": asked}
