"""What both kinds of call share: how one comes in, what goes out, and the record it leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from operator import mul, sub
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from msgspec import Struct, field

from buspass.calls.enforcement import Enforcing
from buspass.calls.house import House
from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.guard import newest_first
from buspass.identity.tokens import TaskClaims
from buspass.journal import Erased
from buspass.ledger import Claim, Held, Outcome
from buspass.ledger.refusals import Mark
from buspass.mediation.inspect import Finding
from buspass.model import MICRO
from buspass.policy import document
from buspass.policy.decide import Decision
from buspass.ports.clock import Clock
from buspass.ports.state import Item, Value
from buspass.tasks import Task, View, segment

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
SEND_WITHIN: Final = 5_000
"""Milliseconds from a hold within which it may be sent: after a kill nothing leaves later than this."""


class Incoming(Struct, frozen=True, kw_only=True):
    """A request to infer or to act, as `http` hands it in. `session`: a key's.

    `seconds`: what the host leaves until an answer begins, which is all there is unless it streams; `flowing`: what it
    leaves until a stream ends. `surface` names the wire format of a request to infer, `headers` those of its own that
    it may read.
    """

    token: str
    body: bytes
    name: str = ""
    key: str | None = None
    seconds: float
    flowing: float
    log: Literal["none", "metadata", "redacted", "full"] | None = None
    labels: Mapping[str, Any] = NOTHING
    traceparent: str | None = None
    session: str = ""
    surface: str = "openai.chat"
    headers: Mapping[str, str] = NOTHING


class Reply(Struct, frozen=True, kw_only=True):
    """What goes back: a JSON document or a stream of events, its status and the `Buspass-*` headers."""

    status: int
    document: Any
    headers: Mapping[str, str]
    stream: AsyncGenerator[bytes, None] | None = None


class Ending(Struct, frozen=True, kw_only=True):
    """How a dispatched call ended: money, what its record says, and the answer or the problem for the agent.

    `payload` is logged only as the workflow says; `said` is what a keyed stream told its client;
    `also` what attempts before the last one were charged, in micro-dollars; `answer` the service's own, where it is a
    result.
    """

    outcome: Outcome
    facts: Mapping[str, Value]
    document: Any = None
    problem: Problem | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    said: bytes = b""
    also: int = 0
    answer: bytes = b""


class Call(Protocol):
    """One call of either kind. The gateway asks its stations in order; each raises the Problem that ends it."""

    name: str
    id: str
    cause: str
    keyed: bool
    enforcement: Enforcing
    asked: str
    """Digest of the request: a key used with another request is a mismatch. With a key its `mark` is stored, no more.
    "" where neither a key nor loops are to know the request again."""
    heard: bytes
    """The tool results that a request to a model brings."""
    told: Mark | None
    """The loop that it was found to go on with."""
    workflow: Workflow
    watched: bool
    """Whether what comes of it is of any use later, against loops or for a `polling` tool."""

    @property
    def kind(self) -> Literal["inference", "action"]:
        """Say which."""
        ...

    @property
    def recalls(self) -> bool:
        """Whether it may have been finished before: then `recall` comes first."""
        ...

    async def recall(self) -> None:
        """Find the id under which this call may already have been finished."""
        ...

    def guard(self, view: View, now: int) -> int | None:
        """Judge standing and route at `now` (ms); give the head's version where a rule read the history."""
        ...

    def plan(self, view: View) -> None:
        """Choose targets or connector, and bound what one attempt can cost."""
        ...

    def inspect(self, view: View) -> tuple[Finding, ...] | None:
        """Find what stands in its texts, and make of them what may be sent. Raises Problem content_blocked.

        None: that takes longer than others may wait for, or the task's placeholders; `inspect_at_length` then.
        """
        ...

    async def inspect_at_length(self) -> tuple[Finding, ...]:
        """Do so in its own time. Raises Problem state_unavailable, too."""
        ...

    def question(self, view: View, findings: tuple[Finding, ...]) -> Mapping[str, Any]:
        """Give policy's input."""
        ...

    def alike(self, findings: tuple[Finding, ...]) -> Hashable:
        """Give all of policy's input that is the call's own, in a form to find it again; None where there is none."""
        ...

    def narrow(self, view: View, decision: Decision) -> None:
        """Apply policy's obligations."""
        ...

    def claim(self, view: View, version: int | None, deadline: int) -> Claim:
        """Say what to hold; `deadline` in ms."""
        ...

    def informed(self) -> bool:
        """Whether it is known what is stopped, and that the services work; else `survey`."""
        ...

    async def survey(self) -> None:
        """Look, before anything is judged, which services work."""
        ...

    @property
    def waits(self) -> bool:
        """Whether `ready` has anything to do."""
        ...

    async def ready(self, seconds: float) -> None:
        """Get the leave to go to the service, right before the hold; `seconds` to wait for it. Raises Problem."""
        ...

    async def leave(self) -> None:
        """Give that leave back: the call does not go."""
        ...

    async def dispatch(self, view: View, held: Held) -> Ending:
        """Send, and validate what comes back. Raises nothing that the agent caused: an Ending says it."""
        ...


class Stopwatch:
    """Time spent at each station, for `Server-Timing`.

    `at[STATION] = now()` begins a station that this call was not at before, and the one before is over; `again` begins
    one where the call may come a second time. A call of this instead of an assignment would cost it more than a clock.
    """

    __slots__ = ("_spent", "at", "now")

    def __init__(self, clock: Clock, station: str) -> None:
        self.now = clock.monotonic
        self.at: dict[str, float] = {station: self.now()}
        self._spent: dict[str, float] = {}

    def again(self, station: str) -> None:
        """Begin a station, whether or not the call was there before."""
        self._add_up()
        self.at = {station: self.now()}

    def header(self) -> str:
        """Give the header's value; durations in milliseconds (W3C Server Timing)."""
        if not self._spent:  # nearly always: nothing was done twice
            times = [*self.at.values(), self.now()]
            if len(times) == _TIMES:  # each station once, and there is one order
                try:
                    return _ten(times)
                except IndexError:
                    pass
            return _timing(*self.at) % (*_lasted(times),)
        self._add_up()
        return _timing(*self._spent) % (*self._spent.values(),)

    def _add_up(self) -> None:
        for station, time in zip(self.at, _lasted([*self.at.values(), self.now()]), strict=True):
            self._spent[station] = self._spent.get(station, 0.0) + time


def _lasted(times: Sequence[float]) -> Iterable[float]:
    """Give how long each station took, in ms, of when each began and the last was over."""
    return map(mul, map(sub, times[1:], times), repeat(1000))


@cache
def _timing(*stations: str) -> str:
    return ", ".join(f"{name};dur=%.2f" for name in stations)


_TIMES: Final = 11
"""When each of the ten stations began, and when the last was over."""
_WHOLE: Final = tuple([str(whole) for whole in range(250)])
_PART: Final = tuple([f"{part:02d}" for part in range(100)])
_SHOWN: Final = tuple([f"{whole}.{part}" for whole in _WHOLE[:5] for part in _PART])
"""Hundredths as `%.2f` writes them, which takes four times as long."""


def _ten(times: list[float]) -> str:
    """Give the header of a call that was once at each station, when they began (s), and when the last was over.

    Hundredths are cut off. Raises IndexError where it took longer at one than calls do: 5 ms where nothing is waited
    for nor anything long read, else 250, but for the answer, which may take as long as it likes.
    """
    a, p, r, g, n, i, c, h, d, s, e = times
    shown, w, f = _SHOWN, _WHOLE, _PART
    return (
        f"authenticate;dur={shown[int((p - a) * 1e5)]}, parse;dur={w[(x := int((r - p) * 1e5)) // 100]}.{f[x % 100]}, "
        f"recall;dur={shown[int((g - r) * 1e5)]}, guard;dur={shown[int((n - g) * 1e5)]}, "
        f"plan;dur={shown[int((i - n) * 1e5)]}, inspect;dur={w[(x := int((c - i) * 1e5)) // 100]}.{f[x % 100]}, "
        f"decide;dur={shown[int((h - c) * 1e5)]}, hold;dur={w[(x := int((d - h) * 1e5)) // 100]}.{f[x % 100]}, "
        f"dispatch;dur={(s - d) * 1e3:.2f}, settle;dur={w[(x := int((e - s) * 1e5)) // 100]}.{f[x % 100]}"
    )


def in_time(held: Held, now: int, since: int | None = None) -> float:
    """Give the seconds that a held call has left. Raises Problem deadline_exceeded once it may not be sent any more.

    `since`: when its newest hold was taken (ms), if that is not this one. Asked right before every send, so that what
    a kill found in flight is drained when it said.
    """
    deadline = held.deadline
    if now > (held.at if since is None else since) + SEND_WITHIN or now >= deadline:
        raise Problem("deadline_exceeded", "the call waited too long to be sent; nothing was sent")
    return (deadline - now) / 1000


def claims_match(claims: TaskClaims, task: Task) -> None:
    """Refuse a token whose workflow is not its task's. Raises Problem unauthenticated."""
    if claims.workflow != task.workflow:
        raise Problem("unauthenticated", "the token does not belong to this task")


def policy_task(task: Task, status: str) -> dict[str, Any]:
    """Give `input.task` of the Rego."""
    return document.task(
        id=task.id,
        workflow=task.workflow,
        status=status,
        metadata=task.metadata,
        started_at=task.created_at,
        depth=task.level,
        principal=task.principal,
        subject=task.subject,
    )


def policy_input(house: House, view: View, call: Mapping[str, Any]) -> dict[str, Any]:
    """Give the input of the question `call`, with the history that the head tells where policy reads it."""
    head = view.head
    tools: dict[str, Mapping[str, Any]] = {}
    models: dict[str, int] = {}
    if house.policy.reads("call", "history"):
        tools = {
            name: document.tool_history(
                count=_count(head, "count", segment(name)),
                running=_count(head, "running", segment(name)),
                last=_last(head, segment(name)),
                kept=[(kept["facts"], kept["at"]) for kept in newest_first(head, segment(name))],
            )
            for name in view.task.grant.tools
        }
        models = {alias: _count(head, "count", segment(alias)) for alias in view.task.grant.models}
    return document.call_input(
        now=house.clock.now(),
        host=house.host,
        task=policy_task(view.task, str(head["status"])),
        call=call,
        tools=tools,
        models=models,
    )


def _count(head: Item, table: str, name: str) -> int:
    found = head[table]
    return int(str(found.get(name, 0))) if isinstance(found, Mapping) else 0


def _last(head: Item, name: str) -> str | None:
    found = head["last"]
    return str(found[name]) if isinstance(found, Mapping) and name in found else None


def remaining(head: Item, now: int) -> str:
    """Give `Buspass-Budget-Remaining`: the limited accounts and the seconds left."""
    said = ""
    row: Mapping[str, Any] = head
    available = row["available"]
    for name in row["limits"]:
        if name == "cost":
            dollars = f"{available[name] / MICRO:.6f}".rstrip("0").rstrip(".")
            said += f"cost={dollars}, "
        else:
            said += f"{name}={available[name]}, "
    left = (row["expires_at"] - now) // 1000
    return f"{said}wall={max(0, left)}"


def mark(house: House, task: Task, fingerprint: str) -> str:
    """Give what a record may hold of a request's digest: salted with the task's key, so it says nothing once erased.

    "" for an erased task, which is no task's mark.
    """
    try:
        return house.vault.mark(house.task_key(task), fingerprint)
    except Erased:
        return ""
