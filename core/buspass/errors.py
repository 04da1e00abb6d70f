"""The error tree: every problem a client can meet, with its code, status and whether a retry can mend it.

    Problem                     what a client sees: RFC 9457, or the same in a provider's envelope
    ├── its `code` is a row of CODES, which fixes status, title and retryability
    └── `extra` carries members of its own (reasons, limit, upstream, …), `errors` what to mend and where
    ConfigError                 buspass.yaml is wrong: what, where, what is allowed; never reaches a client

Knows no HTTP library and no room. A driver's exception never crosses a port: adapters map it to the port's errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct


class Code(Struct, frozen=True):
    """One row of the table: HTTP status, the human title, and whether the same call may succeed later."""

    status: int
    title: str
    retryable: bool = False


CODES: Final[Mapping[str, Code]] = {
    "invalid_request": Code(400, "The request is malformed"),
    "unauthenticated": Code(401, "The caller could not be proven"),
    "budget_exhausted": Code(402, "The task's budget is spent"),
    "denied": Code(403, "Policy or the workflow forbids this"),
    "model_not_granted": Code(403, "The model is not in the task's grant"),
    "tool_not_granted": Code(403, "The tool is not in the task's grant"),
    "thought_required": Code(403, "No model of this task asked for this action"),
    "call_limit": Code(403, "The tool's max_calls is used up"),
    "stopped": Code(403, "An operator has stopped this"),
    "loop_detected": Code(403, "The task goes in circles"),
    "task_killed": Code(403, "The task was killed"),
    "task_expired": Code(403, "The task's time is over"),
    "task_not_open": Code(403, "The task is not open"),
    "not_found": Code(404, "There is no such thing here"),
    "unsupported_endpoint": Code(404, "Buspass does not serve this endpoint"),
    "http_method": Code(405, "This route does not know that HTTP method"),
    "prerequisite_missing": Code(409, "A step that must come before has not been taken"),
    "prerequisite_in_flight": Code(409, "A step that must come before is still running", retryable=True),
    "fenced": Code(409, "Another worker has taken this task over"),
    "conflict": Code(409, "Somebody else changes this right now", retryable=True),
    "precondition_failed": Code(412, "The resource is not in the state you named"),
    "request_too_large": Code(413, "The request is larger than this host carries"),
    "invalid_arguments": Code(422, "The tool's arguments do not fit its schema"),
    "unsupported": Code(422, "This field or value is not supported"),
    "unpriced": Code(422, "The model has no price, so its cost cannot be bounded"),
    "unbounded": Code(422, "The call's cost has no upper bound"),
    "content_blocked": Code(422, "The call holds what must not leave"),
    "repeated_call": Code(422, "This call repeats what brought nothing new"),
    "idempotency_mismatch": Code(422, "The key was used with another request"),
    "budget_held": Code(429, "What is left is held by calls in flight", retryable=True),
    "rate_limited": Code(429, "This may be called only so often", retryable=True),
    "too_many_in_flight": Code(429, "The task has too many calls in flight", retryable=True),
    "internal": Code(500, "Buspass failed"),
    "upstream_error": Code(502, "The service behind this call answered with an error"),
    "outcome_unknown": Code(502, "The call was sent, but what came of it could not be recorded"),
    "overloaded": Code(503, "The gateway is busy", retryable=True),
    "circuit_open": Code(503, "The service behind this call does not work", retryable=True),
    "no_target_available": Code(503, "No target of this model is available", retryable=True),
    "lease_expired": Code(503, "The task's parent has not been heard of for too long", retryable=True),
    "peer_unavailable": Code(503, "Another trust domain cannot be asked", retryable=True),
    "identity_unavailable": Code(503, "Identity cannot be proven right now", retryable=True),
    "state_unavailable": Code(503, "The state store cannot be reached", retryable=True),
    "policy_unavailable": Code(503, "Policy could not be asked", retryable=True),
    "upstream_timeout": Code(504, "The service behind this call did not answer in time"),
    "deadline_exceeded": Code(504, "The call's deadline has passed"),
}
"""Codes in use. A code may be added, never renamed; each stands in docs/problems.md."""

TYPE_BASE: Final = "urn:buspass:problem:"


class Problem(Exception):  # noqa: N818 - RFC 9457's word for it
    """A refusal or failure that the client is told. Raised by any room, rendered by `http` alone.

    `detail` names the fix. `errors` holds `{path, message, allowed?}` rows; `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.extra = extra
        self.task: str | None = None
        self.call: str | None = None
        self.headers: Mapping[str, str] = {}
        self.final = False
        """Whether it will be told again whenever this call is repeated, so that no retry can mend it."""

    @property
    def status(self) -> int:
        return CODES[self.code].status

    @property
    def retryable(self) -> bool:
        return CODES[self.code].retryable and not self.final

    def document(self) -> dict[str, Any]:
        """RFC 9457's members and ours; members without a value are absent."""
        row = CODES[self.code]
        members = {
            "type": TYPE_BASE + self.code,
            "title": row.title,
            "status": row.status,
            "detail": self.detail,
            "instance": f"urn:buspass:call:{self.call}" if self.call else None,
            "code": self.code,
            "task": self.task,
            "call": self.call,
            "retryable": self.retryable,
            "errors": [dict(row) for row in self.errors] or None,
            **self.extra,
        }
        return {name: value for name, value in members.items() if value is not None}


type Refuse = Callable[[Problem], None]
"""What a control does with what it found: raise it, or note what it would have been and let the call go on."""


def enforce(problem: Problem) -> None:
    """Refuse."""
    raise problem


class ConfigError(Exception):
    """buspass.yaml cannot be used. `problems` are lines `FILE:LINE:COLUMN PATH: what; allowed`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
