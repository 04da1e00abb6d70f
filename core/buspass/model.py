"""The nouns as frozen types: what every room may know of a task, a call and a host. Refuses to know any room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

type Amounts = Mapping[str, int]
"""By account: tokens, cost (micro-dollars), calls, model_calls, tool_calls; all integers."""

ACCOUNTS: Final = ("tokens", "cost", "calls", "model_calls", "tool_calls")
UNLIMITED: Final = 2**53 - 1
"""What an account without a limit starts at: the largest integer that every store keeps exactly."""
SLOTS: Final = 64
"""Calls of one task that may be in flight at once."""
MICRO: Final = 1_000_000
"""Micro-dollars in a dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a host can carry. Bytes for sizes, seconds for times; `first_byte` is the time to begin an answer."""

    request_bytes: int
    response_bytes: int
    first_byte: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The workload that acts, proven by OIDC. `claims` are the mapped ones only."""

    identity: str
    issuer: str
    agent: str
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.identity}:{self.agent}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """On whose behalf, and how that was proven."""

    type: str
    id: str
    proof: Literal["token", "asserted", "parent"]

    @property
    def name(self) -> str:
        return f"{self.type}:{self.id}"
