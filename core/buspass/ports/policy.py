"""The policy engine: one question, one JSON input, one JSON answer. Knows no rule of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class PolicyUnavailable(Exception):  # noqa: N818
    """The engine failed or gave no well-formed answer. Fails closed: the caller must deny."""


class PolicyServerUnavailable(PolicyUnavailable):
    """The engine is a server, and it failed. The text names no input and no address: whoever asked may read it."""


class PolicyEngine(Protocol):
    """Evaluates `data.buspass.QUESTION` on `input`.

    `questions` are those that some module answers; `volatile` those of them whose modules read `input.history` or
    `input.now`. An undefined answer, a malformed one and any failure are `PolicyUnavailable`, never a permission.
    """

    questions: frozenset[str]
    volatile: frozenset[str]

    async def ask(self, question: str, document: Mapping[str, Any]) -> Mapping[str, Any]: ...

    async def ready(self) -> None:
        """Raise `PolicyUnavailable` where no question could be answered; cheap, it is asked every few seconds."""
