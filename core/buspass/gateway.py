"""The one path: every governed call goes through the same stations, in this order.

     1 authenticate   2 parse   3 recall   4 guard   5 plan   6 inspect   7 decide   8 hold
     9 dispatch      10 validate          11 settle

Owns the order, and what happens when a station refuses. Refuses to know what a station does for one kind of call: that
is `calls`. Every station fails closed: what can't be proven, judged, held or recorded is not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from msgspec.structs import replace

from buspass.callers import claims_of
from buspass.calls import repetition
from buspass.calls.action import Action
from buspass.calls.call import Call, Ending, Incoming, Reply, Stopwatch, claims_match
from buspass.calls.enforcement import Enforcing, enforcement
from buspass.calls.flow import Flow
from buspass.calls.house import House
from buspass.calls.inference import Inference
from buspass.calls.outcomes import broken, in_flight, replay, streamed, unsettled
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.ledger import Finished, Held, Stale
from buspass.ledger.holds import entries, expired
from buspass.ledger.ledger import SKEW
from buspass.mediation.inspect import Finding
from buspass.policy.decide import NOTHING, Decision
from buspass.ports.state import Unavailable, Value
from buspass.settling import Admitted, settle
from buspass.tasks import View

ROUNDS: Final = 64
"""How often a call is judged anew because the history that a rule read has moved on."""
LEVELS: Final = ("none", "metadata", "redacted", "full")


class Gateway:
    """One host's path. Safe for any number of concurrent calls."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._settling: set[asyncio.Future[Any]] = set()

    def infer(self, incoming: Incoming) -> Coroutine[Any, Any, Reply]:
        """Govern one model request. Raises Problem."""
        return self._govern(incoming, Inference)

    def act(self, incoming: Incoming) -> Coroutine[Any, Any, Reply]:
        """Govern one tool call. Raises Problem."""
        return self._govern(incoming, Action)

    async def _govern(self, incoming: Incoming, kind: type[Inference | Action]) -> Reply:
        house = self._house
        watch = Stopwatch(house.clock, "authenticate")
        claims = house.tokens.known(incoming.token) or await claims_of(house, incoming.token, incoming.session)
        call: Call | None = None
        enforced = enforcement(house.settings.workflows.get(claims.workflow))
        try:
            watch.at["parse"] = watch.now()
            call = made = kind(house, incoming, claims, enforced)
            watch.at["recall"] = watch.now()
            done = await self._recall(made, claims) if made.recalls else None
            watch.at["guard"] = watch.now()
            if done is None and not made.informed():
                await made.survey()
            admitted = done or await self._admit(made, claims, incoming, watch)
        except BaseException as problem:
            if call is not None:
                await call.leave()
            if isinstance(problem, Problem):
                await self._refused(problem, claims, call, incoming, enforced)
            raise
        if not isinstance(admitted, Admitted):
            await made.leave()
            return admitted
        if isinstance(made, Inference) and made.ask.stream:
            return await self._stream(made, admitted, watch)
        try:
            watch.at["dispatch"] = watch.now()
            ending = await made.dispatch(admitted.view, admitted.held)
        except Exception as error:  # noqa: BLE001
            # whatever went wrong, a hold must not be left: it may have been sent, so it is charged in full
            ending = broken(admitted.held, error)
        return await self._finish(made, admitted, ending, watch)

    # ── 3 recall ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _recall(self, call: Call, claims: TaskClaims) -> Reply | None:
        """A finished call's outcome, before every other refusal but a dead task's and an old fence's."""
        try:
            await call.recall()
        except Problem:
            await self._alive(claims)
            raise
        if not call.keyed:
            return None
        view = await self._alive(claims)
        if expired(view.head, self._house.clock.now(), 2 * SKEW):
            view = await self._swept(view)
        return await self._finished(call, view)

    async def _alive(self, claims: TaskClaims) -> View:
        """Read the task; refuse at once where it is killed or expired, or another worker's by now."""
        view = await self._house.tasks.look(claims.task)
        if view.head["status"] not in {"suspended", "completed"} or view.head["fence"] != claims.fence:
            check_standing(view.head, claims.fence, self._house.clock.now())
        return view

    async def _finished(self, call: Call, view: View) -> Reply | None:
        """Give a keyed call's outcome if it has one. Raises Problem conflict while its twin is in flight."""
        try:
            record = await self._house.state.read(view.task.id, f"rec:{call.id}")
        except Unavailable as error:
            raise Problem("state_unavailable", f"the journal could not be read ({error})", retry_after=1) from error
        if record is not None:
            return await replay(self._house, call, view.task, record)
        if any(entry.call == call.id for entry in entries(view.head)):
            raise in_flight()
        return None

    # ── 4-8 guard, plan, inspect, decide, hold ──────────────────────────────────────────────────────────────────

    async def _admit(self, call: Call, claims: TaskClaims, incoming: Incoming, watch: Stopwatch) -> Admitted | Reply:
        house = self._house
        now = house.clock.now()
        view = house.tasks.known(claims.task, now) or await house.tasks.view(claims.task)
        claims_match(claims, view.task)
        flows = isinstance(call, Inference) and call.ask.stream
        deadline = now + round((incoming.flowing if flows else incoming.seconds) * 1000.0)
        for _ in range(ROUNDS):
            if house.ledger.overdue(claims.task, view.head, now):
                view = await self._swept(view)
            try:
                version, findings = self._judge(call, view, watch, now)
                decided = None if findings is None or call.waits else self._decided(call, view, findings)
                if decided is not None:
                    log = self._heed(call, view, decided)
                else:
                    log = await self._consult(call, view, findings, watch, deadline)
            except Problem:
                if not view.fresh:
                    watch.again("guard")
                    view = await house.tasks.look(claims.task)  # nothing is refused on a copy
                    now = house.clock.now()
                    continue
                if call.keyed and (done := await self._finished(call, view)) is not None:
                    return done  # its twin took what this one lacks
                raise
            watch.at["hold"] = watch.now()
            result = await house.ledger.hold(call.claim(view, version, deadline), call.workflow.wait)
            if isinstance(result, Held):
                house.tasks.saw(claims.task, result.head)
                if call.watched or not call.enforcement.on:
                    await self._judge_again(call, view, result)
                level = _lower(view.task.payloads, incoming.log, log, call.enforcement.log)
                return Admitted(view=view, held=result, level=level)
            if isinstance(result, Finished):
                return await replay(house, call, view.task, result.record)
            watch.again("guard")
            view, now = self._moved(call, view, result), house.clock.now()
        raise Problem("conflict", "the task's history changes faster than this call can be judged", retry_after=0.5)

    async def _swept(self, view: View) -> View:
        """The lazy sweep, at a call: what a lost host left running does not stand in this one's way."""
        await self._house.ledger.sweep(view.task.id)
        return await self._house.tasks.look(view.task.id)

    def _judge(
        self, call: Call, view: View, watch: Stopwatch, now: int
    ) -> tuple[int | None, tuple[Finding, ...] | None]:
        """Stations 4 to 6 on one view of the task.

        Gives the head's version where a rule read the history, and what was found in the call, as its `inspect`.
        """
        if not call.enforcement.on:
            call.enforcement.anew(fresh=view.fresh)
        version = call.guard(view, now)
        watch.at["plan"] = watch.now()
        call.plan(view)
        watch.at["inspect"] = watch.now()
        findings = call.inspect(view)
        watch.at["decide"] = watch.now()
        return version, findings

    async def _consult(
        self, call: Call, view: View, findings: tuple[Finding, ...] | None, watch: Stopwatch, deadline: int
    ) -> str | None:
        """What of stations 6 and 7 waits for something: long texts, policy, a service. Give policy's `log`."""
        if findings is None:
            watch.again("inspect")
            findings = await call.inspect_at_length()
            watch.at["decide"] = watch.now()
        log = await self._decide(call, view, findings) if self._house.policy.asks("call") else None
        if call.waits:
            watch.again("guard")
            await call.ready((deadline - self._house.clock.now()) / 1000)
        return log

    async def _judge_again(self, call: Call, view: View, held: Held) -> None:
        """The hold may have met calls of other hosts that the judged copy did not show: the last may close a loop."""
        if call.watched:
            try:
                repetition.recheck(self._house, call, view, held.head)
            except Problem:
                await self._house.ledger.give_back(held)
                raise
        call.enforcement.held(held)

    def _decided(self, call: Call, view: View, findings: tuple[Finding, ...]) -> Decision | None:
        """Give what need not be asked: that policy has no rule for calls, or what it said of such a call before."""
        policy = self._house.policy
        return policy.kept(view.task.id, view.task, call.alike(findings)) if policy.asks("call") else NOTHING

    async def _decide(self, call: Call, view: View, findings: tuple[Finding, ...]) -> str | None:
        """Ask policy and do what it obliges to; give its `log`. An answer that can't be had is a refusal."""
        policy, alike = self._house.policy, call.alike(findings)
        try:
            decision = await policy.ask("call", call.question(view, findings))
        except Problem as problem:
            _unanswered(call, problem)
            return None
        policy.keep(view.task.id, view.task, alike, decision)
        return self._heed(call, view, decision)

    def _heed(self, call: Call, view: View, decision: Decision) -> str | None:
        """Do what a decision obliges to; give its `log`. What can't be read of it is a refusal."""
        if decision is NOTHING:
            return None
        try:
            if decision.deny:
                reasons = list(decision.deny)
                refusal = Problem("denied", f"policy forbids this: {', '.join(reasons)}", reasons=reasons)
                call.enforcement.refuse(refusal)
            call.narrow(view, decision)
        except Problem as problem:
            _unanswered(call, problem)
            return None
        log: str | None = decision.obligations.get("log")
        return log

    def _moved(self, call: Call, view: View, stale: Stale) -> View:
        """The hold met another head than the one judged: judge that one, unless it is this very call's."""
        opened = stale.head["open"]
        if isinstance(opened, Mapping) and call.id in opened:
            raise in_flight()
        self._house.tasks.saw(view.task.id, stale.head)
        return replace(view, head=stale.head, fresh=True)

    async def _refused(
        self, problem: Problem, claims: TaskClaims, call: Call | None, incoming: Incoming, enforced: Enforcing
    ) -> None:
        """Count a refusal, and suspend a task that earns nothing but refusals."""
        from buspass.interventions import kill, suspend  # noqa: PLC0415 - no call that goes well needs them

        problem.task = claims.task
        house = self._house
        now = house.clock.now()
        record: dict[str, Value] = {
            "name": (call.name if call else incoming.name)[:128],
            "host": house.host.name,
            "at": now,
            "cause": call.cause if call else "",
            "detail": problem.detail[:300],
            "fence": claims.fence,
            **enforced.facts(),
        }
        with suppress(Problem):  # the refusal is told, whatever becomes of its record
            # what waiting mends is no sign of a misled agent: it is counted, and suspends nobody
            status = 0 if problem.retryable else problem.status
            marked = repetition.mark_of(call, problem)
            if await house.ledger.refuse(claims.task, problem.code, status, record, marked) and enforced.on:
                await suspend(house, claims.task, "refusals")
            if marked is not None and marked[1] == "ended":
                await kill(house, claims.task, f"loop_detected: {problem.detail}")

    # ── 9-11 dispatch, validate, settle ─────────────────────────────────────────────────────────────────────────

    async def _finish(self, call: Call, admitted: Admitted, ending: Ending, watch: Stopwatch) -> Reply:
        """Settle, then answer: a problem is raised with the headers that tell what it cost."""
        watch.at["settle"] = watch.now()
        try:
            headers = await settle(self._house, call, admitted, ending)
        except Problem as error:
            raise unsettled(admitted.view.task, call, error) from error
        headers["Server-Timing"] = watch.header()
        if ending.problem is not None:
            problem = ending.problem
            problem.task, problem.call = admitted.view.task.id, call.id
            problem.headers = headers
            raise problem
        return Reply(status=200, document=ending.document, headers=headers)

    # ── the same for a stream, whose headers leave before its settle ────────────────────────────────────────────

    async def _stream(self, call: Inference, admitted: Admitted, watch: Stopwatch) -> Reply:
        try:
            watch.at["dispatch"] = watch.now()
            begun = await call.begin(admitted.view, admitted.held)
        except Exception as error:  # noqa: BLE001 - as in _govern
            begun = broken(admitted.held, error)
        if isinstance(begun, Ending):
            return await self._finish(call, admitted, begun, watch)
        task = admitted.view.task.id
        headers = {"Buspass-Task": task, "Buspass-Call": call.id, **begun.headers, **call.enforcement.headers()}
        headers["Server-Timing"] = watch.header()
        stream = self._flow(call, admitted, begun, watch)
        await anext(stream)  # a generator that was never begun would pass its end over, too
        return Reply(status=200, document=None, headers=headers, stream=stream)

    async def _flow(
        self, call: Inference, admitted: Admitted, flow: Flow, watch: Stopwatch
    ) -> AsyncGenerator[bytes, None]:
        """Pass the stream on; settle; only then send what ends it. A client that hangs up is settled all the same."""
        ending: Ending | None = None
        said: list[bytes] = []
        try:
            yield b""  # from here on it is settled, even if nobody ever reads it
            async with aclosing(flow.pieces()) as pieces:
                async for piece in pieces:
                    if call.keyed:
                        said.append(piece)
                    yield piece
            ending = await flow.ending()
            if call.keyed:
                ending = streamed(ending, said, flow)
        except Problem as problem:
            ending = await flow.ending(problem)
        except Exception as error:  # noqa: BLE001 - as in _govern
            ending = broken(admitted.held, error)
        finally:
            if ending is None:  # the client hung up, or the host is stopping
                gone = Problem("deadline_exceeded", "the client hung up in the middle of the stream")
                with suppress(Problem):  # nobody is left to be told; the hold is the sweep's to end
                    await self._surely(self._cut(call, admitted, flow, gone))
        try:
            watch.at["settle"] = watch.now()
            told = await self._surely(self._close(call, admitted, flow, ending))
        except Problem as error:
            yield flow.last(replace(ending, problem=unsettled(admitted.view.task, call, error)), {})
            return
        if ending.problem is not None:
            ending.problem.task, ending.problem.call = admitted.view.task.id, call.id
        yield flow.last(ending, _members(told))

    async def _cut(self, call: Call, admitted: Admitted, flow: Flow, gone: Problem) -> None:
        await self._close(call, admitted, flow, await flow.ending(gone))

    async def _close(self, call: Call, admitted: Admitted, flow: Flow, ending: Ending) -> dict[str, str]:
        await flow.close()
        return await settle(self._house, call, admitted, ending)

    async def _surely[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end even where the one who waits for it is cancelled: a hold must not be left."""
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return await asyncio.shield(task)


def _unanswered(call: Call, problem: Problem) -> None:
    """Refuse a call of which policy can't be asked, or be understood: no answer is no permission."""
    if problem.code != "policy_unavailable":
        raise problem
    call.enforcement.refuse(problem)


def _lower(payloads: str, *asked: str | None) -> str:
    """Give the least of what workflow, client and policy want logged: each may only lower it."""
    if asked == (None, None, None):
        return payloads
    return min((level for level in (payloads, *asked) if level is not None), key=LEVELS.index)


def _members(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the headers that a stream could not send, as members of its last event: `cost` for `Buspass-Cost`."""
    return {name.removeprefix("Buspass-").lower().replace("-", "_"): value for name, value in headers.items()}
