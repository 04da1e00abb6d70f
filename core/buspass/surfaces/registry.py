"""The surfaces by the name that an `Ask` carries. Knows of each only what all of them can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from buspass.errors import Problem
from buspass.model import Answer, Ask
from buspass.surfaces import anthropic_messages, openai_chat


class Surface(Protocol):
    """What a surface does once a request is parsed; each module's docstrings say how."""

    def texts(self, ask: Ask) -> Iterator[tuple[str, str]]: ...

    def render(self, answer: Answer, alias: str) -> dict[str, Any]: ...

    def models(self, aliases: Iterable[str]) -> dict[str, Any]: ...

    def problem(self, found: Problem) -> tuple[int, dict[str, str], dict[str, Any]]: ...

    def stream_event(self, event: Mapping[str, Any]) -> bytes: ...

    def stream_end(self, ask: Ask, answer: Answer, buspass: Mapping[str, Any]) -> bytes: ...

    def stream_problem(self, found: Problem, buspass: Mapping[str, Any] | None = None) -> bytes: ...


SURFACES: Final[Mapping[str, Surface]] = {openai_chat.NAME: openai_chat, anthropic_messages.NAME: anthropic_messages}


def asked(surface: str, body: Any, headers: Mapping[str, str]) -> Ask:
    """Parse a request, which `parse_json` read, by the surface that it came in at. Raises Problem."""
    if surface == anthropic_messages.NAME:
        return anthropic_messages.parse(body, headers=headers, streaming=True, read=True)
    return openai_chat.parse(body, streaming=True, read=True)


def warm() -> None:
    """Have what judges plain requests in one look, whose first answer takes some ten milliseconds.

    A host that lives long does so as it starts, so that no request waits for it.
    """
    from buspass.surfaces import chat_plain, messages_plain  # noqa: PLC0415 - no cold start waits for them

    chat_plain.fits({})
    messages_plain.fits({})
