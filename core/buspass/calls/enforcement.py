"""Whether a control refuses, or notes what it would have done: the workflow's `enforce`, in one place.

Owns which refusals observing lets pass (WOULD) and what a call's record then says of them. A control asks `refuse`;
what does not ask is never relaxed: who the caller is, the task's status, fence and time, secrets, what can't be
understood or sent, a store that can't be written. Refuses to know any control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from buspass.config.settings import Workflow
from buspass.errors import Problem
from buspass.ledger import Held, overdrafts
from buspass.ports.state import Value

type Verdict = Literal["would_deny", "would_hold", "would_block"]

WOULD: Final[Mapping[str, Verdict]] = {
    "denied": "would_deny",
    "policy_unavailable": "would_deny",
    "model_not_granted": "would_deny",
    "tool_not_granted": "would_deny",
    "thought_required": "would_deny",
    "idempotency_mismatch": "would_deny",  # of a model's tool call; that of a client's own key does not ask
    "call_limit": "would_deny",
    "prerequisite_missing": "would_deny",
    "prerequisite_in_flight": "would_deny",
    "repeated_call": "would_deny",
    "rate_limited": "would_hold",  # of a polling tool; what a service can take does not ask
    "budget_exhausted": "would_hold",
    "budget_held": "would_hold",
    "too_many_in_flight": "would_hold",
    "unpriced": "would_hold",
    "unbounded": "would_hold",
    "content_blocked": "would_block",
}
"""Problems that a call under `enforce: observe` passes where a control asks, and what its record calls them."""
ROWS: Final = 32
"""What a record lists at most."""
CHARACTERS: Final = 240


class Enforcing:
    """`enforce: on`: a control that has something against a call refuses it. Keeps nothing, so one serves all calls."""

    on: bool
    log: Literal["redacted"] | None
    """The most that is logged of a payload."""

    def __init__(self) -> None:
        self.on, self.log = True, None

    def anew(self, *, fresh: bool) -> None:
        """Stations 4 to 7 begin; `fresh`: on the task as it is, not on a copy."""

    def refuse(self, problem: Problem) -> None:
        """Say what a control has against the call. Raises it."""
        raise problem

    def changes(self, verdict: Verdict, code: str, rule: str, detail: str) -> bool:  # noqa: ARG002 - see Observing
        """Say whether a control may change the call in this way."""
        return True

    def held(self, held: Held) -> None:
        """Take the hold that stands."""

    def facts(self) -> dict[str, Value]:
        """Give the record's part."""
        return {}

    def headers(self) -> Mapping[str, str]:
        """Give the answer's part."""
        return {}


ENFORCED: Final = Enforcing()


class Observing(Enforcing):
    """`enforce: observe`, for one call: what would have refused or changed it is noted, and it goes on as it came.

    Where personal data would have been replaced it is sent as it is, so it is never logged as it is.
    Nothing is noted on a copy of the task: there it refuses, and the gateway judges again on the task as it is.
    """

    def __init__(self, log: Literal["redacted"] | None = None) -> None:
        self.on, self.log = False, log
        self._rows: dict[tuple[str, str], dict[str, Value]] = {}
        self._before = 0
        self._judged = self._fresh = False

    def anew(self, *, fresh: bool) -> None:
        if not self._judged:
            self._judged, self._before = True, len(self._rows)
        self._fresh = fresh
        for key in list(self._rows)[self._before :]:
            del self._rows[key]

    def refuse(self, problem: Problem) -> None:
        if problem.code not in WOULD or (self._judged and not self._fresh):
            raise problem
        loop = problem.extra.get("loop")
        more = {"limit": loop["limit"], "below": loop["times"] + 1 - loop["limit"]} if loop else None
        self._note(WOULD[problem.code], problem.code, rule_of(problem), problem.detail, more)

    def changes(self, verdict: Verdict, code: str, rule: str, detail: str) -> bool:
        self._note(verdict, code, rule, detail)
        return False

    def held(self, held: Held) -> None:
        for row in overdrafts(held):
            problem = row.problem
            more: dict[str, Value] = {"below": row.below}
            if row.limit is not None:
                more["limit"] = row.limit
            self._note(WOULD[problem.code], problem.code, rule_of(problem), problem.detail, more)

    def facts(self) -> dict[str, Value]:
        rows: list[Value] = [*self._rows.values()]
        return {"observed": rows[:ROWS]}

    def headers(self) -> Mapping[str, str]:
        said = dict.fromkeys(f"{row['verdict']} {row['code']}" for row in self._rows.values())
        return {"Buspass-Observed": ", ".join(said)} if said else {}

    def _note(
        self, verdict: Verdict, code: str, rule: str, detail: str, more: Mapping[str, Value] | None = None
    ) -> None:
        row: dict[str, Value] = {"verdict": verdict, "code": code, "rule": rule[:CHARACTERS]}
        self._rows[code, rule] = row | {"detail": detail[:CHARACTERS], **(more or {})}


def enforcement(workflow: Workflow | None) -> Enforcing:
    """Give what a workflow wants; one that is no longer configured is enforced."""
    if workflow is None or not workflow.observe:
        return ENFORCED
    return Observing("redacted" if workflow.personal_data else None)


def rule_of(problem: Problem) -> str:
    """Name what in the configuration refuses: what would have to change there."""
    extra: Mapping[str, Any] = problem.extra
    match problem.code:
        case "denied":
            return ", ".join(extra.get("reasons", ()))
        case "model_not_granted" | "tool_not_granted":
            return str(extra.get("wanted", ""))
        case "prerequisite_missing" | "prerequisite_in_flight":
            return f"after {extra['prerequisite']} ({extra.get('unmet', 'done')})"
        case "call_limit":
            return "max_calls"
        case "repeated_call":
            return str(extra["loop"]["pattern"])
        case "rate_limited":
            return "polling"
        case "thought_required" | "idempotency_mismatch":
            return "require_thought" if problem.code == "thought_required" else "the model's own tool call"
        case "unpriced":
            return str(extra["target"])
        case "unbounded":
            return _paths(problem.errors)
    return str(extra.get("limit", ""))


def _paths(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(row["path"]) for row in rows)
