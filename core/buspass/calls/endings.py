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
from buspass.calls.lanes import Lane
from buspass.calls.screening import Screening
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.ledger import Held, Outcome
from buspass.model import Answer, Ask, Offer, Usage
from buspass.ports.state import Value
from buspass.providers import bounds
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
    workflow: Workflow
    incoming: Incoming
    ask: Ask
    view: View
    held: Held
    bound: bounds.Bound
    screening: Screening
    notes: dict[str, Any] = field(default_factory=dict)

    def answered(self, answer: Answer, lane: Lane, tried: int) -> Ending:
        """Give the ending of a call that was answered whole; `answer` as the agent may see it."""
        used = answer.usage
        use = self._use(lane, used) if used.known else self._held()
        return Ending(
            outcome=Outcome(use=use),
            facts=self._facts("succeeded", answer, lane, tried, use),
            document=None if self.ask.stream else SURFACES[self.ask.surface].render(answer, self.ask.model),
            payload=self._payload(answer),
            headers=_headers(lane, tried),
            also=self.notes.get("also", 0),
        )

    def cut(self, answer: Answer, lane: Lane, tried: int, problem: Problem) -> Ending:
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
        use = self._use(lane, seen) if seen.known else self._held()
        if not answer.usage.known:
            use = {name: min(amount, self.held.claim.amounts[name]) for name, amount in use.items()}
        facts: dict[str, Value] = {
            **self._facts("unknown", answer, lane, tried, use),
            "code": problem.code,
            "detail": problem.detail[:300],
            "offers": [],  # an answer that nobody got whole licenses nothing
        }
        headers = _headers(lane, tried)
        return Ending(
            outcome=Outcome(use=use),
            facts=facts,
            problem=problem,
            payload=self._payload(answer),
            headers=headers,
            also=self.notes.get("also", 0),
        )

    def failed(
        self, problem: Problem, charge: Literal["nothing", "estimated"], lane: Lane | None, tried: int
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
        if lane is not None:
            facts["target"] = lane.name
        outcome = Outcome(use=self._held() if charged else {}, sent=charged)
        headers = {"Buspass-Attempts": str(tried)}
        also = self.notes.get("also", 0)
        return Ending(outcome=outcome, facts=facts, problem=problem, payload={}, headers=headers, also=also)

    def _held(self) -> dict[str, int]:
        return dict(self.held.claim.amounts)

    def _over(self, use: Mapping[str, int]) -> bool:
        """Whether a provider counted more than was held; then a bound was wrong, and an operator is to know."""
        amounts = self.held.claim.amounts
        if use["tokens"] <= amounts["tokens"] and use["cost"] <= amounts["cost"]:  # the others are 1 in both
            return False
        over = [name for name, amount in use.items() if amount > amounts[name]]
        log.warning("overrun of %s in task %s: more was billed than was held", " ".join(over), self.view.task.id)
        return True

    def _use(self, lane: Lane, used: Usage) -> dict[str, int]:
        cost = bounds.cost(lane.target.price, used)
        return {"tokens": used.input + used.output, "cost": cost, "calls": 1, "model_calls": 1}

    def _facts(self, status: str, answer: Answer, lane: Lane, tried: int, use: Mapping[str, int]) -> dict[str, Value]:
        used, price = answer.usage, lane.target.price
        facts: dict[str, Value] = {
            "status": status,
            "target": lane.name,
            "attempts": tried,
            "price": price.version if price else "none",
            "usage": {
                "input": used.input,
                "output": used.output,
                "cached": used.cached,
                "cache_write": used.cache_write,
                "reasoning": used.reasoning,
            },
            "offers": [self._offer(offer) for offer in answer.offers] if answer.offers else [],
            "labels": self._labels() if self.ask.metadata or self.incoming.labels else "{}",
            "estimated": not used.known,
            "overrun": self._over(use),
        }
        if self.screening.findings or self.notes or self.ask.tools:  # few
            facts |= self._always()
        return facts

    def _labels(self) -> str:
        return json.dumps(self.screening.labels({**self.ask.metadata, **self.incoming.labels}))

    def _always(self) -> dict[str, Value]:
        """Findings; and where the workflow has no tools, the functions that the agent brings itself."""
        facts = self.screening.facts() if self.screening.findings else {}
        if "breaker" in self.notes:
            facts["breaker"] = self.notes["breaker"]
        if self.ask.tools and not self.workflow.route:
            facts["local"] = self.screening.names(self.ask.tools)
        return facts

    def _payload(self, answer: Answer) -> dict[str, object]:
        return {
            "request": self.ask.payload,
            "thought": answer.text,
            "tool_calls": [[offer.id, offer.name, offer.arguments_text] for offer in answer.offers],
        }

    def _offer(self, offer: Offer) -> dict[str, Value]:
        """Give a licence's place in the record. Arguments that are no JSON object license nothing."""
        try:
            arguments = parse_json(offer.arguments_text.encode())
            known = fingerprint(offer.name, arguments) if isinstance(arguments, dict) else ""
        except (Problem, UnicodeEncodeError):
            known = ""
        asked = mark(self.house, self.view.task, known) if known else ""
        return {"id": offer.id, "tool": offer.name, "fingerprint": asked}


def _headers(lane: Lane, tried: int) -> dict[str, str]:
    return {"Buspass-Target": lane.name, "Buspass-Attempts": str(tried)}
