"""What the decoders of all wire formats share: events in, deltas told to the agent's surface, one answer at the end.

Owns how a stream ends and fails. Knows no provider's event; a wire format's own decoder reads those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol

from buspass.model import Answer, Ask, Failure, Usage
from buspass.providers import chat_shape, messages_shape
from buspass.providers.parts import Choice, Collector, Delta, Head
from buspass.providers.sse import Event, Parser

CHAT: Final = "openai.chat"
MESSAGES: Final = "anthropic.messages"
"""The surfaces whose shapes are spoken here, by the name in `Ask.surface`."""


class Writer(Protocol):
    """Tells deltas as the events of one surface."""

    def write(self, head: Head, delta: Delta) -> list[dict[str, Any]]: ...


def told(surface: str, head: Head, choices: list[Choice], usage: Usage, document: Any = None) -> Answer:
    """The answer that these choices are, in the shape of `surface`; `document` where it has that shape already."""
    if surface == CHAT:
        shown = document or chat_shape.document(head, choices)
        finish = [chat_shape.finish(choice.finish) for choice in choices if choice.finish]
    else:
        shown = document or messages_shape.document(head, choices[0] if choices else Choice())
        finish = [stop for choice in choices if (stop := messages_shape.stop(choice))]
    return Answer(
        document=shown,
        usage=usage,
        text="\n\n".join(text for choice in choices if (text := choice.text())),
        offers=tuple(offer for choice in choices for offer in choice.offers()),
        finish=tuple(finish),
        thinking="\n\n".join(thought for choice in choices if (thought := choice.thinking())),
    )


def writer(ask: Ask) -> Writer:
    """The writer of the surface that asked."""
    kind = chat_shape.Writer if ask.surface == CHAT else messages_shape.Writer
    return kind(ask.model, usage=ask.include_usage)


class StreamDecoder(ABC):
    """One stream. Feed it bytes as they come, close it when the body is over, then (or at any time) ask its answer.

    What ends a stream on the surface (finish reasons, usage) is held back: it belongs after the settle. `usage` of the
    answer is `known` only when the provider has counted to the end. After a `Failure` the answer says what was seen.
    """

    def __init__(self, ask: Ask) -> None:
        self.ended = False
        self._surface = ask.surface
        self._parser = Parser()
        self._collector = Collector()
        self._writer = writer(ask)
        self._head = Head()
        self._usage = Usage(known=False)
        self._begun = False
        self._failure: Failure | None = None

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The surface's events that this piece brings. Raises `Failure`: an error event, or not the wire format.

        Events that came before the fault are given first: the failure is raised by the next call.
        """
        if self._failure is not None:
            raise self._failure
        events: list[dict[str, Any]] = []
        try:
            for event in self._parser.feed(data):
                for delta in self._read(event):
                    events += self._tell(delta)
        except Failure as failure:
            self._failure = failure
        except (ValueError, RecursionError) as error:
            self._failure = _failed("malformed")
            self._failure.__cause__ = error
        if self._failure is not None and not events:
            raise self._failure
        return events

    def close(self) -> None:
        """The body is over. Raises `Failure` where the stream is not."""
        if self._failure is not None:
            raise self._failure
        if not self.ended:
            raise _failed("broken" if self._begun else "malformed")

    def answer(self) -> Answer:
        """What was said so far; whole once `ended`."""
        return told(self._surface, self._head, self._collector.in_order(), self._usage)

    def _tell(self, delta: Delta) -> list[dict[str, Any]]:
        if delta.step != "ping":
            self._begun = True
            self._collector.take(delta)
        return self._writer.write(self._head, delta)

    @abstractmethod
    def _read(self, event: Event) -> Iterable[Delta]:
        """The deltas of one event; each is collected before the next is asked for.

        Raises ValueError where the event is malformed, `Failure` where it tells of an error.
        """


def _failed(kind: Literal["broken", "malformed"]) -> Failure:
    return Failure(kind, billed="unknown", retryable=False, status=200)
