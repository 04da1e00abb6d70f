"""What a call came to, kept for whoever asks again under its key; and the endings that nobody foresaw.

Owns the outcome's blob and its replay. Refuses to know why a call is repeated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from msgspec.structs import replace

from buspass.calls.call import Call, Ending, Reply, mark
from buspass.calls.flow import Flow
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal import Erased
from buspass.ledger import Held, Outcome
from buspass.ports.state import Item, Value
from buspass.tasks import Task

log = logging.getLogger("buspass")


async def replay(house: House, call: Call, task: Task, record: Item) -> Reply:
    """Give a finished call's outcome, at no cost: the same key brings the same for ever.

    Raises the Problem that it ended with, or idempotency_mismatch.
    """
    asked = mark(house, task, call.asked)
    if record.get("asked", asked) != asked:
        raise Problem("idempotency_mismatch", "this key was used with another request; use a new key")
    headers = {"Buspass-Task": task.id, "Buspass-Call": call.id, "Buspass-Replayed": "true"}
    if record["state"] == "expired":
        raise _told(
            call, headers, "upstream_timeout", "the first call with this key was cut off; its outcome is unknown"
        )
    kept = await _kept(house, task, call, record)
    if kept is None:
        raise _told(call, headers, "outcome_unknown", "this call was finished, and its outcome is not kept")
    outcome = json.loads(kept)
    if outcome["problem"]:
        code, detail, extra = outcome["problem"]
        raise _told(call, headers, code, detail, **extra)
    if "stream" in outcome:
        return Reply(status=200, document=None, headers=headers, stream=_again(outcome["stream"]))
    return Reply(status=200, document=outcome["document"], headers=headers)


def _told(call: Call, headers: dict[str, str], code: str, detail: str, **extra: object) -> Problem:
    problem = Problem(code, detail, **extra)  # type: ignore[arg-type]  # what an earlier problem's extra held
    problem.call, problem.final = call.id, True
    problem.headers = headers
    return problem


async def _kept(house: House, task: Task, call: Call, record: Item) -> bytes | None:
    """Give the outcome's blob while the workflow's `replay.ttl` lasts, and its task is not erased."""
    lasts = house.workflow(task.workflow).replay_ttl * 1000
    ended = record.get("ended")
    if not isinstance(ended, int) or house.clock.now() > ended + lasts:
        return None
    try:
        return await house.vault.get(house.task_key(task), f"{task.id}/outcome/{call.id}")
    except Erased:
        return None


async def _again(said: str) -> AsyncGenerator[bytes, None]:
    yield said.encode()


async def keep(house: House, call: Call, task: Task, ending: Ending) -> None:
    """Keep what a repetition is to be given, before the record that says it is finished. Raises Problem."""
    if not house.workflow(task.workflow).replay_ttl:
        return
    problem = ending.problem
    outcome: dict[str, object] = {
        "document": ending.document,
        "problem": [problem.code, problem.detail, problem.extra] if problem else None,
    }
    if ending.said:
        outcome["stream"] = ending.said.decode()
    try:
        key = house.task_key(task)
    except Erased:
        return
    data = json.dumps(outcome, ensure_ascii=False).encode()
    await house.vault.put(key, f"{task.id}/outcome/{call.id}", data)


def streamed(ending: Ending, said: Sequence[bytes], flow: Flow) -> Ending:
    """Give the ending of a keyed stream with all that was said, for its replay: which costs nothing and says so."""
    last = flow.last(ending, {"replayed": "true"})
    return replace(ending, said=b"".join([*said, last]))


def broken(held: Held, error: Exception) -> Ending:
    """Give the ending of a call that failed inside Buspass after its hold: it may have been sent."""
    problem = error if isinstance(error, Problem) else Problem("internal", "the call failed inside Buspass")
    if problem is not error:
        log.error("call %s failed inside Buspass", held.claim.call, exc_info=error)
        problem.__cause__ = error
    facts: dict[str, Value] = {"status": "unknown", "code": problem.code, "estimated": True}
    last: Final = "unknown" if held.claim.kind == "action" else ""
    return Ending(outcome=Outcome(use=dict(held.claim.amounts), last=last), facts=facts, problem=problem)


def unsettled(task: Task, call: Call, error: Problem) -> Problem:
    """Give the problem of a call that was sent and could not be recorded: to repeat it might do it twice."""
    log.error("call %s of task %s was sent and could not be recorded: %s", call.id, task.id, error)
    problem = Problem(
        "outcome_unknown",
        "the call was sent, but what came of it could not be recorded; it stays charged. Do not repeat it: look first",
    )
    problem.task, problem.call = task.id, call.id
    return problem


def withheld(problem: Problem) -> Problem:
    """Give what is told of an answer that can't be shown: nothing that a client would repeat a done call for."""
    if not problem.retryable:
        return problem
    detail = f"the tool was called and has answered, but its answer can't be shown: {problem.detail}. Do not repeat it"
    return Problem("outcome_unknown", detail)


def in_flight() -> Problem:
    """Give the problem of a keyed call whose twin is not finished yet."""
    return Problem("conflict", "the same call is in flight; retry for its outcome", retry_after=1)
