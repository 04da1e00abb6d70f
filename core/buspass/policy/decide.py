"""From a question to a decision: what the engine is shown, what its answer means, and when it need not be asked again.

Owns the reading of answers (fails closed on anything it does not understand) and the cache. Refuses to know an engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct, field

from buspass.errors import Problem
from buspass.jsontext import canonical
from buspass.ports.policy import PolicyEngine, PolicyServerUnavailable, PolicyUnavailable

type Question = Literal["start", "resume", "call"]

CACHED: Final = 1024
LOGGING: Final = ("none", "metadata", "redacted", "full")


class Decision(Struct, frozen=True, kw_only=True):
    """Policy's answer. No reason in `deny` means that policy has nothing against it, not that it is granted.

    `obligations` holds at most `targets`, `placeholder`, `mask` (lists of names), `max_tokens` (positive int), `log`;
    `grant` may narrow.
    """

    deny: tuple[str, ...] = ()
    obligations: Mapping[str, Any] = field(default_factory=dict)
    grant: Mapping[str, Any] | None = None


NOTHING: Final = Decision()


class Policy:
    """Asks an engine, if there is one. `modules` are those that it runs: with them only what they read is shown.

    Without `modules` the engine sees, and the cache keys on, the whole input. For one event loop.
    """

    def __init__(self, engine: PolicyEngine | None, modules: Mapping[str, str] | None = None) -> None:
        self._engine = engine
        self._shown: dict[str, Mapping[str, Any] | None] = {}
        if engine is not None:
            from buspass.policy import scan  # noqa: PLC0415 - a host without policy reads none

            self._project = scan.project
            for asked in engine.questions:
                self._shown[asked] = None if modules is None else scan.tree(scan.reads(modules, asked))
        self._cache: OrderedDict[bytes, Decision] = OrderedDict()
        self._alike: dict[tuple[str, Hashable], tuple[object, Decision]] = {}
        shown = self._shown.get("call")
        self._steady = engine is not None and shown is not None and not self.volatile("call")
        called = (shown or {}).get("call")
        self.sized: bool = shown is None or (called is not None and (not called or "bytes" in called))
        """Whether an answer to a call may depend on its size."""

    def asks(self, question: Question) -> bool:
        """Whether any module answers this question; where none does, its input need not be built."""
        return self._engine is not None and question in self._engine.questions

    def volatile(self, question: Question) -> bool:
        """Whether the hold must demand that the task's head is the one that was decided upon."""
        return self._engine is not None and question in self._engine.volatile

    def reads(self, question: Question, part: str) -> bool:
        """Whether an answer may depend on this part of the input; else that part need not be built."""
        shown = self._shown.get(question, {})
        return shown is None or part in shown

    def kept(self, task: str, described: object, alike: Hashable) -> Decision | None:
        """Give what was decided on a call that was in all that modules may read like this one; see `keep`."""
        if alike is None:
            return None
        before, decision = self._alike.get((task, alike), (None, None))
        return decision if before is described else None

    def keep(self, task: str, described: object, alike: Hashable, decision: Decision) -> None:
        """Keep a decision for the next such call of the same task, whose input need then not be built.

        `described`: the object that holds all of the task that is shown, and never changes; `alike`: all that is shown
        of the call, None where that is too much. Not kept where modules read the time or what changes with each call.
        """
        if self._steady and alike is not None:
            self._alike[task, alike] = described, decision
            if len(self._alike) > CACHED:
                del self._alike[next(iter(self._alike))]

    async def ready(self) -> None:
        """See that the engine can be asked. Raises `policy_unavailable`."""
        try:
            if self._engine is not None:
                await self._engine.ready()
        except PolicyUnavailable as error:
            raise Problem("policy_unavailable", f"policy can't be asked{_told(error)}") from error

    async def ask(self, question: Question, document: Mapping[str, Any]) -> Decision:
        """Raises `policy_unavailable` unless the engine gives a well-formed answer."""
        if self._engine is None or question not in self._engine.questions:
            return NOTHING
        shown = self._project(document, self._shown[question])
        try:
            key = None if "now" in shown else question.encode() + canonical(shown)
        except (TypeError, ValueError) as error:
            raise Problem("policy_unavailable", "what the policy reads is no JSON") from error
        if key is not None and key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            decision = read(question, await self._engine.ask(question, shown))
        except PolicyUnavailable as error:
            raise Problem("policy_unavailable", f"the {question} policy gave no usable answer{_told(error)}") from error
        if key is not None:
            self._cache[key] = decision
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return decision


def read(question: Question, answer: Any) -> Decision:
    """An engine's answer as a decision. Raises `PolicyUnavailable` if any part of it is malformed."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("deny"), list | tuple | set | frozenset):
        raise PolicyUnavailable("deny must be a set of reasons")
    deny = {_reason(item) for item in answer["deny"]}
    asked = answer.get("obligations", {})
    grant = answer.get("grant")
    if not isinstance(asked, Mapping) or not (grant is None or isinstance(grant, Mapping)):
        raise PolicyUnavailable("obligations and grant must be objects")
    obligations = {name: value for name, value in asked.items() if question == "call" and name in _KNOWN}
    for name, value in obligations.items():
        if not _KNOWN[name](value):
            raise PolicyUnavailable(f"obligation {name} is malformed")
    deny |= {f"obligation not available yet: {name}" for name in asked if name not in obligations}
    if grant is not None and question == "call":
        deny.add("grant is no answer to a call")
    return Decision(deny=tuple(sorted(deny)), obligations=obligations, grant=grant)


def _told(error: PolicyUnavailable) -> str:
    """What failed, where saying so shows nothing of the input."""
    return f": {error}" if isinstance(error, PolicyServerUnavailable) else ""


def _reason(item: Any) -> str:
    """A string, or an object's `reason` or `msg`."""
    if isinstance(item, Mapping):
        item = item.get("reason", item.get("msg"))
    if not isinstance(item, str) or not item:
        raise PolicyUnavailable("a reason must be a string, or an object with reason or msg")
    return item


def _names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(n, str) for n in value)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _log(value: Any) -> bool:
    return value in LOGGING


_KNOWN: Final = {"targets": _names, "max_tokens": _positive, "log": _log, "placeholder": _names, "mask": _names}
