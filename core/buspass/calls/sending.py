"""The attempts of one inference: which target next, after what pause, under which hold.

Owns the loop over lanes and what it tells their breakers. A hold covers one billable attempt: after a surely
unbilled failure it serves the next attempt too; after an ambiguous one the next takes a hold of its own, and what the
failed one may have cost is charged at once, in a record of kind `attempt`. Refuses to know a wire format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buspass.breakers import Pass, Refusal
from buspass.calls import pacing, upstreams
from buspass.calls.call import SEND_WITHIN, Ending
from buspass.calls.endings import Endings
from buspass.calls.house import House
from buspass.calls.lanes import Alias, Lane
from buspass.errors import Problem
from buspass.ledger import Held, Outcome
from buspass.model import Failure
from buspass.ports.outbound import Request
from buspass.ports.state import Value
from buspass.rates import Exhausted
from buspass.routing import attempts

PATIENCE: Final = 2.0
"""Seconds that a call waits for others to find out whether its last target works."""
CHARGED: Final = ("tokens", "cost")
"""What a further billable attempt holds: it is the same call."""


class Sending(Struct, kw_only=True):
    """One call's way through its lanes. `request` makes an attempt's; `since` is the newest hold's time (ms).

    `paced`: the provider whose permit the first attempt has.
    """

    house: House
    alias: Alias
    held: Held
    endings: Endings
    request: Callable[[Lane, Held, int], Request | Awaitable[Request]]
    untried: list[Lane]
    patient: float
    paced: str
    since: int
    tried: int = 0
    last: tuple[Failure, Lane] | None = None
    away: list[tuple[str, int]] = field(default_factory=list)

    async def run[T](
        self, attempt: Callable[[Lane, Request], Awaitable[T]], let_go: Callable[[T], Awaitable[None]] | None = None
    ) -> tuple[T, Lane, int] | Ending:
        """Try until one answers, or nothing is left to try. `let_go` of an answer that does not reach the caller."""
        house = self.house
        house.retries.earn(self.alias.model.alias, self.alias.model.retry_budget)
        current = self.untried.pop(0)
        while True:
            passed = house.breakers.at_once(current.breaker) if current.pace is None else None
            if passed is None and (passed := await self._enter(current)) is None:
                if not self.untried:
                    return self._nobody()
                current = self.untried.pop(0)
                continue
            self.tried += 1
            try:
                made = self.request(current, self.held, self.since)
                request = made if isinstance(made, Request) else await made
                got = await attempt(current, request)
            except Problem as problem:  # it was not sent
                return self.endings.failed(problem, "nothing", current, self.tried)
            except Failure as failure:
                self.last = failure, current
                upstreams.noted(self.held.claim.call, f"{current.name}, attempt {self.tried}", failure)
                await self._tell(passed, failure, request.timeout, current)
                step = await self._next(failure, current)
                if isinstance(step, Ending):
                    return step
                current = step
            else:
                if not passed.well():
                    await self._worked(passed, got, let_go)
                return got, current, self.tried
            finally:
                if not passed.over:
                    await passed.void()

    async def _enter(self, lane: Lane) -> Pass | None:
        """Give the leave to go, once there is a permit too; None where there is none in time, which is noted."""
        wait = 0.0 if self.untried else PATIENCE
        try:
            if lane.pace is not None and (self.tried or lane.provider.name != self.paced):
                await pacing.take(self.house, lane.pace, self.endings.bound.tokens, wait)
            return await self.house.breakers.enter(lane.breaker, wait=wait, lasts=self.alias.model.total)
        except Exhausted as exhausted:
            until = self.house.clock.now() + round(exhausted.seconds * 1000)
        except Refusal as refusal:
            until = refusal.until
        self.away.append((lane.name, until))
        return None

    async def _worked[T](self, passed: Pass, got: T, let_go: Callable[[T], Awaitable[None]] | None) -> None:
        """Tell a breaker that its target answered. What cuts that short, as a call's end does, lets the answer go."""
        try:
            self._note(passed, (await passed.succeeded()).state)
        except BaseException:
            if let_go is not None:
                await let_go(got)
            raise

    async def _tell(self, passed: Pass, failure: Failure, given: float, lane: Lane) -> None:
        if lane.pace is not None and failure.kind == "throttled":
            await self.house.rates.lower(lane.pace, failure.retry_after)
        fault = upstreams.model_fault(failure, given=given, timeout=self.patient)
        if fault is None:
            await passed.void()  # now: what follows may wait for a hold
            return
        breaker = await passed.failed(fault)
        self._note(passed, breaker.state)
        if breaker.state == "open":
            self.endings.notes["breaker"] = upstreams.shown(passed.key.name, breaker)
            self.away.append((passed.key.name, breaker.until))

    def _note(self, passed: Pass, state: str) -> None:
        if state != passed.before:
            self.endings.notes["breaker"] = f"{passed.key.name}: {state}"

    async def _next(self, failure: Failure, current: Lane) -> Lane | Ending:
        """Give the target of the next attempt, its hold taken and its pause over; or how the call ends."""
        now = self.house.clock.now()
        left = self.alias.model.attempts - self.tried
        step = attempts.after(
            failure,
            self.untried,
            attempts_left=left,
            seconds_left=(self.held.deadline - now) / 1000,
            same=current,
            pause=attempts.backoff(self.tried, self.house.clock.random(2)),
            patience=(min(self.since + SEND_WITHIN, self.held.deadline) - now) / 1000,
            anew=True,
        )
        if isinstance(step, attempts.Retry) and not self.house.retries.spend(self.alias.model.alias):
            step = attempts.give_up(failure)
        if isinstance(step, attempts.Retry) and step.anew and not await self._anew(failure, current):
            step = attempts.give_up(failure)
        if isinstance(step, attempts.GiveUp):
            return self._gives_up(step, current)
        if step.target in self.untried:
            self.untried.remove(step.target)
        if step.pause:
            await self.house.clock.sleep(step.pause)
        return step.target

    def _gives_up(self, step: attempts.GiveUp, lane: Lane | None) -> Ending:
        """End the call; where nobody takes it for a while, say for how long."""
        problem, now = step.problem, self.house.clock.now()
        if self.away and problem.code in {"no_target_available", "upstream_error", "upstream_timeout"}:
            upstreams.told(problem, max(min(until for _, until in self.away), now + 1), now)
        return self.endings.failed(problem, step.charge, lane, self.tried)

    def _nobody(self) -> Ending:
        """End the call where the breakers let nobody go any more."""
        if self.last is not None:
            failure, lane = self.last  # if it may have been billed it was charged before another was to be tried
            return self._gives_up(replace(attempts.give_up(failure), charge="nothing"), lane)
        problem = upstreams.none_left(self.alias.model.alias, self.away, self.house.clock.now())
        return self.endings.failed(problem, "nothing", None, self.tried)

    async def _anew(self, failure: Failure, lane: Lane) -> bool:
        """Hold for another billable attempt, and charge the one that failed. False: there is no money for it."""
        house, claim = self.house, self.held.claim
        amounts = {name: claim.amounts[name] for name in CHARGED}
        call = f"b.{claim.call}.{self.tried}"
        try:
            more = replace(claim, call=call, amounts=amounts, cause=claim.call, version=None, keyed=False)
            held = await house.ledger.hold(more, 0.0)
            if not isinstance(held, Held):
                return False
            problem = attempts.give_up(failure).problem
            record: dict[str, Value] = {
                "kind": "attempt",
                "name": self.endings.ask.model,
                "host": house.host.name,
                "at": self.since,
                "ended": house.clock.now(),
                "cause": claim.call,
                "fence": claim.fence,
                "revision": house.settings.revision,
                "status": "unknown",
                "code": problem.code,
                "detail": problem.detail[:300],
                "estimated": True,
                "target": lane.name,
            }
            head = await house.ledger.settle(held, Outcome(use=amounts), record)
        except Problem:
            return False
        house.tasks.saw(claim.task, head)
        self.endings.notes["also"] = self.endings.notes.get("also", 0) + amounts["cost"]
        self.since = held.at
        return True
