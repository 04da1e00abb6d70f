"""Whether a call goes on with a loop, and what its task's head remembers of it once it is finished.

Owns the line that a finished call leaves, the refusals and their sentences, and the interval of `polling` tools. What
repeats is the room `loops`' to say. No store is asked: the head that judges a call has its last calls, the settle that
ends it writes its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from buspass.calls.house import House
from buspass.config.settings import Loops
from buspass.errors import Problem
from buspass.journal import Erased
from buspass.jsontext import canonical
from buspass.ledger import Held, Outcome
from buspass.ledger.holds import number
from buspass.ledger.refusals import Mark
from buspass.loops import Asked, Found, Stage, Step, find, read_steps, stage, written
from buspass.loops.steps import LONG
from buspass.ports.state import Item
from buspass.tasks import Task, View, segment

if TYPE_CHECKING:
    from buspass.calls.call import Call, Ending

RECEIPT: Final = 200
"""Bytes up to which equal results of different requests say nothing: many an answer is just `{"ok": true}`."""
READS: Final = frozenset({"GET", "HEAD"})
UNTOLD: Final = frozenset({"deadline_exceeded", "internal", "circuit_open", "no_target_available", "rate_limited"})
"""Problems that say nothing of what the agent does."""
CODES: Final = frozenset({"repeated_call", "loop_detected"})


# ── before a call ───────────────────────────────────────────────────────────────────────────────────────────────────


def check(house: House, call: Call, view: View) -> None:
    """Refuse of a `watched` call what goes on with a loop, and a poll that is too soon. Raises Problem, or notes it."""
    call.told = None
    limits, interval = call.workflow.loops, _polling(house, call)
    if not view.head.get("recent") or not (digest := _asked(house, call, view.task)):
        return
    steps = read_steps(view.head)
    if interval is not None:
        _keep_interval(house, call, interval, steps, digest)
        return
    heard = _heard(house, call, view.task)
    asked = Asked(kind=call.kind, name=segment(call.name), asked=digest, heard=heard, refusals=_refusals(view.head))
    if limits is None or (found := find(steps, asked, limits)) is None:
        return
    warned = view.head.get("warned")
    marks = warned if isinstance(warned, Mapping) else {}
    reached = stage(found, steps, asked, marks, number(view.head), limits.kill)
    if reached == "clear":
        return
    if not call.enforcement.on:  # nothing is refused, so nothing is told, and it never gets further
        reached = "told"
    call.told = (found.key, reached)
    reads = call.kind == "action" and house.settings.tools[call.name].method in READS
    call.enforcement.refuse(_problem(found, reached, limits, reads=reads))


def recheck(house: House, call: Call, view: View, head: Item) -> None:
    """Judge again where the hold met what the copy did not show: refusals, another host's calls. Raises Problem."""
    if call.enforcement.on and any(head.get(part) != view.head.get(part) for part in ("recent", "refusals")):
        check(house, call, replace(view, head=head))


def mark_of(call: Call | None, problem: Problem) -> Mark | None:
    """Give what the head is to remember of a refusal."""
    return call.told if call is not None and problem.code in CODES else None


def _keep_interval(house: House, call: Call, interval: float, steps: Sequence[Step], digest: str) -> None:
    last = max((step.at for step in steps if step.kind == "action" and step.asked == digest), default=0)
    wait = last / 1000 + interval - house.clock.now() / 1000
    if wait <= 0:
        return
    seconds, window = max(1, -int(-wait // 1)), max(1, -int(-interval // 1))
    words = f"{call.name} may be asked the same only every {interval:g} s in a task; ask again in {seconds} s"
    problem = Problem("rate_limited", words, retry_after=wait)
    problem.headers = {
        "RateLimit-Policy": f'"{call.name}.polling";q=1;w={window}',
        "RateLimit": f'"{call.name}.polling";r=0;t={seconds}',
    }
    call.enforcement.refuse(problem)


def _problem(found: Found, reached: Stage, limits: Loops, *, reads: bool) -> Problem:
    name, times = found.names[0], found.times
    match found.pattern:
        case "identical":
            seen = f"{name} was called {times} times with just this request and came to the same each time"
            allowed = ["another request", "another step"]
        case "cycle":
            seen = f"{', '.join(found.names)} were called in turn {times} times and came to the same each time"
            allowed = ["another request", "another step"]
        case "signature":
            seen = f"{times} calls of {name} in a row failed alike ({found.status}), whatever was sent"
            allowed = ["one more with other content", "another step"]
        case "no_progress":
            seen = f"the last calls ({', '.join(found.names)}) brought only what the task had already"
            allowed = ["a request that was not made yet", "another step"]
        case "rising":
            first, last = (f"${cost / 1_000_000:.6f}" for cost in found.costs)
            seen = f"the last {times} requests to {name} cost more each time ({first} to {last}), and nothing new came"
            allowed = ["one last request", "a step that brings something new"]
    allowed.append("telling the user")
    if reached != "told" and found.open:
        allowed = allowed[1:]
    polls = reads and found.pattern == "identical"
    hint = "; a tool that must be asked again and again is declared `polling`" if polls else ""
    code, then = "loop_detected", ""
    if reached == "told":
        code = "repeated_call"
        then = f" The same again is refused as loop_detected{', and then ends the task' if limits.kill else ''}."
    elif reached == "ended":
        then = " The task is ended with all its tokens."
    text = f"{seen}; it was not called again, and nothing was charged. Allowed: {', or '.join(allowed)}{hint}.{then}"
    loop = {"pattern": found.pattern, "times": times, "limit": found.limit, "calls": list(found.names)}
    return Problem(code, text, loop=loop, allowed=allowed)


def _polling(house: House, call: Call) -> float | None:
    tool = house.settings.tools.get(call.name) if call.kind == "action" else None
    return tool.polling if tool else None


# ── after a call ────────────────────────────────────────────────────────────────────────────────────────────────────


def remembered(house: House, call: Call, task: Task, held: Held, ending: Ending) -> Outcome:
    """Give the ending's outcome with the line that the head keeps of it."""
    problem = ending.problem
    if "recent" not in held.head or (problem and problem.code in UNTOLD):
        return ending.outcome
    if not (digest := _asked(house, call, task)):
        return ending.outcome
    salted = partial(_digest, house, task)
    cost = ending.outcome.use.get("cost", 0) + ending.also
    step = Step(
        number=number(held.head),
        kind=call.kind,
        name=segment(call.name),
        asked=digest,
        outcome="" if problem is None else f"!{_signature(problem, ending)}",
        opened=" open until " in str(ending.facts.get("breaker", "")),
        at=held.at,
        cost=cost,
        heard=_heard(house, call, task),
        refusals=_refusals(held.head),
    )
    step = _acted(house, call, step, ending, salted) if call.kind == "action" else _said(house, step, ending, salted)
    return replace(ending.outcome, trail=written(step))


def _acted(house: House, call: Call, step: Step, ending: Ending, salted: Callable[[bytes], str]) -> Step:
    tool = house.settings.tools[call.name]
    step = replace(step, polled=tool.polling is not None)
    if step.failed:
        return step
    reads = tool.method in READS
    return replace(
        step,
        outcome=salted(ending.answer),
        large=len(ending.answer) >= RECEIPT,
        change=not reads,
        lookup=reads or (tool.method == "POST" and tool.idempotent),
    )


def _said(house: House, step: Step, ending: Ending, salted: Callable[[bytes], str]) -> Step:
    if step.failed:
        return step
    text = str(ending.payload.get("thought", ""))
    offers: Any = ending.payload.get("tool_calls", ())
    said = [(str(name), str(arguments)) for _, name, arguments in offers]
    tools = house.settings.tools
    polled = any((tool := tools.get(name)) is not None and tool.polling is not None for name, _ in said)
    whole = "\0".join([text, *(part for offer in said for part in offer)]).encode("utf-8", "surrogatepass")
    return replace(step, outcome=salted(whole), large=len(text) >= RECEIPT, polled=polled)


def _signature(problem: Problem, ending: Ending) -> str:
    """Name an error as it stands for all its like: who answered, and with which status or kind."""
    upstream: Mapping[str, Any] = problem.extra.get("upstream") or {}
    what = str(upstream.get("status") or upstream.get("kind") or problem.code)
    if what.startswith("2"):  # a page, or something that is not as its schema says
        what += f":{upstream.get('kind')}"
    target = str(ending.facts.get("target") or "")
    return f"{segment(target)}:{what}" if target else what


def _asked(house: House, call: Call, task: Task) -> str:
    return _digest(house, task, call.asked.encode(), 6)


def _heard(house: House, call: Call, task: Task) -> str:
    if not call.heard:
        return ""
    return ("" if len(call.heard) < RECEIPT else LONG) + _digest(house, task, call.heard)


def results(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """Give the tool results that a request brings to its model, those after the model's last words; b"" without."""
    found: list[Any] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            break
        content = message.get("content")
        if message.get("role") == "tool":
            found.append(content)
        elif isinstance(content, list):
            found += [part.get("content") for part in content if part.get("type") == "tool_result"]
    return canonical(found) if found else b""


def _digest(house: House, task: Task, data: bytes, size: int = 4) -> str:
    """Give a digest salted with the task's key, "" for an erased task."""
    try:
        return hashlib.blake2b(data, digest_size=size, key=house.task_key(task)[:64]).hexdigest()
    except Erased:
        return ""


def _refusals(head: Item) -> int:
    found = head.get("refusals")
    counts = found.items() if isinstance(found, Mapping) else ()
    return sum(int(str(count)) for code, count in counts if code not in {"run", "mark"})
