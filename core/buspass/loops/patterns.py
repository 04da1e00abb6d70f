"""What counts as a loop: one table of patterns, and the stages that a task goes through which does not stop.

    clear      nothing repeats                 every call goes
    told       it met a corrective refusal     the same again is refused; what is different goes
    refused    it did the same again           the same is refused, whatever is tried
    ended      and once more                   the task is killed, where the workflow says so

    clear ──▶ told ──▶ refused ──▶ ended       back to clear: when something new comes, or twenty-four calls later

Pure: steps (what finished calls came to) and what is asked for now are handed in. A result is new where the same
request did not bring it before; a request that meets new results is never a loop, however often it is made. Refuses to
know messages, money and stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, Literal

from msgspec import Struct

from buspass.config.settings import Loops
from buspass.loops.steps import LONG, Step
from buspass.ports.state import Value

WINDOW: Final = 12
"""Calls of a kind, actions or inferences, that are looked back at."""
PERIOD: Final = 3
"""Calls that a cycle has at most."""
FORGET: Final = 24
"""Calls of the task after which it is not remembered that it was told."""

ASKED: Final = attrgetter("asked")
OUTCOME: Final = attrgetter("outcome")
HEARD: Final = attrgetter("heard")

type Pattern = Literal["identical", "cycle", "signature", "no_progress", "rising"]
type Stage = Literal["clear", "told", "refused", "ended"]

STAGES: Final[Mapping[Stage, Stage]] = {"clear": "told", "told": "refused", "refused": "ended", "ended": "ended"}
"""What a task's stage becomes by doing the same once more; `ended` only where the workflow's `action` is `kill`."""
ORDER: Final[tuple[Stage, ...]] = tuple(STAGES)


class Asked(Struct, frozen=True, kw_only=True):
    """The call that is asked for now. As in Step; `refusals` of the task until now."""

    kind: Literal["action", "inference"]
    name: str
    asked: str
    heard: str = ""
    refusals: int = 0


class Found(Struct, frozen=True, kw_only=True):
    """A pattern, met `times` times where `limit` are allowed. `names`: the calls that repeat; `status`: an error's.

    `key` names this very loop. `open`: whether a call that was not made yet may be tried once after the task was told.
    """

    pattern: Pattern
    times: int
    limit: int
    names: tuple[str, ...]
    key: str
    status: str = ""
    open: bool = False
    costs: tuple[int, int] = (0, 0)


def find(steps: Sequence[Step], asked: Asked, limits: Loops) -> Found | None:
    """Give the first pattern of the table that the call would go on with. `steps`: oldest first."""
    if not steps or quiet(steps, asked):
        return None
    alike = [step for step in steps if step.kind == asked.kind and not step.polled][-WINDOW:]
    for pattern, look in TABLE.items():
        limit = int(getattr(limits, pattern))
        if (found := look(steps if pattern == "rising" else alike, asked, limit)) is not None:
            return found
    return None


def quiet(steps: Sequence[Step], asked: Asked) -> bool:
    """Whether surely no pattern goes on: nearly always, seen without counting any. `steps`: at least one.

    Each pattern is counted from the newest calls back. So none has begun where this very call was not made lately, the
    last of its kind came to something new, the last of its name did not fail, and a model need not say the same again.
    """
    made = [*map(ASKED, steps)]
    if asked.asked in made:
        return False
    last = None
    for step in reversed(steps):
        if step.kind == asked.kind and not step.polled:
            last = last or step
            if step.name == asked.name:
                if step.failed:
                    return False
                break
    if last is not None and (last.large or last.heard or made.count(last.asked) > 1) and not _new(last, steps):
        return False
    return asked.kind == "action" or _calm(steps, asked)


def _calm(steps: Sequence[Step], asked: Asked) -> bool:
    """Whether what a model costs surely does not begin to rise, or goes on to."""
    newest = steps[-1]
    if newest.polled:
        return True
    if newest.kind == "action":
        return newest.opened or (not newest.failed and _new(newest, steps))
    told_before = asked.heard.startswith(LONG) and asked.heard in map(HEARD, steps)
    return newest.failed or (asked.refusals <= newest.refusals and not told_before)


def _new(step: Step, steps: Sequence[Step]) -> bool:
    """Whether no other of the steps came to the same."""
    return [*map(OUTCOME, steps)].count(step.outcome) == 1


def stage(found: Found, steps: Sequence[Step], asked: Asked, marks: Mapping[str, Value], now: int, kill: bool) -> Stage:
    """Give the stage that the call brings its task to; `clear`: it goes. `marks`: what the task was told, by key.

    `now` is the number of the task's newest call.
    """
    mark = marks.get(found.key)
    before, at = "clear", 0
    if isinstance(mark, Mapping) and now - int(str(mark["at"])) <= FORGET:
        before, at = str(mark["stage"]), int(str(mark["at"]))
    tried = any(step.number > at and step.kind == asked.kind and step.name in found.names for step in steps)
    known = any(step.asked == asked.asked for step in steps)
    if before == "told" and found.open and not tried and not known:
        return "clear"
    after = STAGES[before]  # type: ignore[index]  # as it was marked
    return after if kill or after != "ended" else "refused"


# ── the patterns ────────────────────────────────────────────────────────────────────────────────────────────────────


def _identical(steps: Sequence[Step], asked: Asked, limit: int) -> Found | None:
    """The same call with the same outcome, and nothing new in between."""
    times, outcome, fresh = 0, "", _fresh(steps)
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if step.asked == asked.asked and step.outcome and not step.opened:
            if times and step.outcome != outcome:
                break
            times, outcome = times + 1, step.outcome
        elif step.opened or index in fresh:
            break
    return _found("identical", times, limit, (asked.name,), asked.asked) if times >= limit else None


def _cycle(steps: Sequence[Step], asked: Asked, limit: int) -> Found | None:
    """Two or three calls in turn, each with its same outcome, and this one begins another round."""
    for period in range(2, PERIOD + 1):
        turn = steps[-period:]
        if len(turn) < period or turn[0].asked != asked.asked or len({step.asked for step in turn}) == 1:
            continue
        rounds = 1
        while _same(turn, steps[-period * (rounds + 1) : -period * rounds]):
            rounds += 1
        if rounds >= limit:
            return _found("cycle", rounds, limit, tuple(step.name for step in turn), *sorted(s.asked for s in turn))
    return None


def _signature(steps: Sequence[Step], asked: Asked, limit: int) -> Found | None:
    """The same error of the same service, whatever is sent, and nothing was changed in between."""
    times, outcome, fresh = 0, "", _fresh(steps)
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if step.name == asked.name:
            if not step.failed or step.opened or (times and step.outcome != outcome):
                break
            times, outcome = times + 1, step.outcome
        elif step.change and index in fresh:
            break
    if times < limit:
        return None
    return _found("signature", times, limit, (asked.name,), asked.name, outcome, status=outcome[1:], again=True)


def _no_progress(steps: Sequence[Step], asked: Asked, limit: int) -> Found | None:
    """Only results that were there before: of the same requests, in whatever order, or of other arguments in vain."""
    fresh, old, vain, names = _fresh(steps), 0, 0, set[str]()
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if step.opened or not step.outcome:
            break
        if index not in fresh or _heard(steps, index):
            old += 1
        elif _vain(steps, index):
            vain += 1
        else:
            break
        names.add(step.name)
    known = any(asked.asked == step.asked or (asked.heard and asked.heard == step.heard) for step in steps)
    # other arguments count half: twelve equal answers in a row, where six repeated requests are enough
    times = old + (vain + 1) // 2
    if times < limit or not (known or (vain and asked.name in names)):
        return None
    return _found("no_progress", times, limit, tuple(sorted(names)), asked.kind, *sorted(names), again=bool(vain))


def _rising(steps: Sequence[Step], asked: Asked, limit: int) -> Found | None:
    """Inferences that cost more each time, and between them only failures, refusals and what was known before."""
    if asked.kind != "inference":
        return None
    fresh, refusals, heard = _fresh(steps), asked.refusals, asked.heard
    vain, costs, times = False, list[int](), 0
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if step.kind == "action":
            if step.opened or step.polled or (index in fresh and not step.failed):
                break
            vain = True
            continue
        told_before = heard.startswith(LONG) and any(heard == other.heard for other in steps[: index + 1])
        if step.polled or step.failed or not (vain or refusals > step.refusals or told_before):
            break
        if costs and step.cost >= costs[-1]:
            break
        costs.append(step.cost)
        times += 1
        vain, refusals, heard = False, step.refusals, step.heard
    if times < limit:
        return None
    rise = (costs[-1], costs[0])
    return _found("rising", times, limit, (asked.name,), asked.kind, again=True, costs=rise)


TABLE: Final[Mapping[Pattern, Callable[[Sequence[Step], Asked, int], Found | None]]] = {
    "identical": _identical,
    "cycle": _cycle,
    "signature": _signature,
    "no_progress": _no_progress,
    "rising": _rising,
}
"""The patterns, in the order in which they are looked for; their thresholds are the keys of `loops:`."""


def _fresh(steps: Sequence[Step]) -> frozenset[int]:
    """Give the places of steps that brought what the same request had not brought before."""
    return frozenset(_firsts(steps))


def _firsts(steps: Sequence[Step]) -> Iterator[int]:
    seen = set[tuple[str, str]]()
    for index, step in enumerate(steps):
        if (step.asked, step.outcome) not in seen:
            seen.add((step.asked, step.outcome))
            yield index


def _heard(steps: Sequence[Step], index: int) -> bool:
    """Whether a model said the same to the same tool results before."""
    step = steps[index]
    return bool(step.heard) and any(
        (other.heard, other.outcome) == (step.heard, step.outcome) for other in steps[:index]
    )


def _vain(steps: Sequence[Step], index: int) -> bool:
    """Whether a request of its own brought a long result that another one had brought: no receipt, and nothing new."""
    step = steps[index]
    reads = step.large and not step.failed and (step.lookup or step.kind == "inference")
    return reads and any((other.name, other.outcome) == (step.name, step.outcome) for other in steps[:index])


def _same(one: Sequence[Step], other: Sequence[Step]) -> bool:
    if len(one) != len(other) or any(step.opened or not step.outcome for step in one):
        return False
    return all((a.asked, a.outcome) == (b.asked, b.outcome) for a, b in zip(one, other, strict=True))


def _found(
    pattern: Pattern,
    times: int,
    limit: int,
    names: tuple[str, ...],
    *what: str,
    status: str = "",
    again: bool = False,
    costs: tuple[int, int] = (0, 0),
) -> Found:
    digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]
    key = f"{pattern}.{digest}"
    return Found(
        pattern=pattern, times=times, limit=limit, names=names, key=key, status=status, open=again, costs=costs
    )
