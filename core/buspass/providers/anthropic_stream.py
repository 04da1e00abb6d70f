"""Anthropic's stream of events, decoded. Source: platform.claude.com/docs/en/build-with-claude/streaming. No I/O.

Usage comes twice: with `message_start` what is known of the input, with `message_delta` the totals, which replace it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from buspass.model import Ask
from buspass.providers import failures
from buspass.providers.anthropic_usage import COUNTS, counted
from buspass.providers.decoding import StreamDecoder
from buspass.providers.document import count, loads, member, optional, string
from buspass.providers.parts import Block, Delta, Head, Kind
from buspass.providers.sse import Event

KINDS: Final[Mapping[str, Kind]] = {
    "text": "text",
    "thinking": "thinking",
    "redacted_thinking": "sealed",
    "tool_use": "tool",
}
GROWTH: Final[Mapping[str, str]] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


class Decoder(StreamDecoder):
    """See `StreamDecoder`. Over at `message_stop`. Blocks of kinds that are unknown here are left out."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self._said: dict[str, Any] = {}
        self._places: dict[int, int | None] = {}
        self._readers: Mapping[str, Callable[[Mapping[str, Any]], Iterable[Delta]]] = {
            "message_start": self._start,
            "content_block_start": self._open,
            "content_block_delta": self._grow,
            "content_block_stop": self._stop,
            "message_delta": self._finish,
            "message_stop": self._end,
        }

    def _read(self, event: Event) -> Iterator[Delta]:
        if self.ended:
            return
        document = loads(event.data)
        kind = document.get("type")
        if kind == "error":
            raise failures.told(document)
        if kind == "ping":
            yield Delta(step="ping")
            return
        if (kind == "message_start") == self._begun:
            raise ValueError("a message begins once, and first")
        if isinstance(kind, str) and kind in self._readers:  # of others their versioning promises nothing
            yield from self._readers[kind](document)

    def _start(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        message = member(document, "message")
        self._count(message.get("usage"), known=False)
        known = {name: found for name in COUNTS if (found := count(self._said, name)) is not None}
        # Both plain counts or none: the format demands them together.
        told = known if {"input_tokens", "output_tokens"} <= known.keys() else None
        self._head = Head(id=optional(message, "id"), usage=told)
        yield Delta(step="begin")

    def _open(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        number, given = self._number(document), member(document, "content_block")
        if number in self._places:
            raise ValueError("a content block begins twice")
        kind = KINDS.get(string(given, "type"))
        if kind is None:
            self._places[number] = None
            return
        blocks = self._collector.choices[0].blocks
        place = self._places[number] = len(blocks)
        yield Delta(step="open", block=place, opens=_block(kind, given))
        # Text may come with the start; arguments do where a server does not stream them.
        first = {"text": optional(given, "text"), "thinking": optional(given, "thinking")}.get(kind, "")
        if kind == "tool" and given.get("input"):
            first = json.dumps(given["input"], ensure_ascii=False)
        if first:
            yield Delta(step="grow", block=place, text=first)

    def _grow(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        place, change = self._place(document), member(document, "delta")
        kind = string(change, "type")
        if place is None:
            return
        block = self._collector.choices[0].blocks[place]
        if block.closed:
            raise ValueError("a delta after its block's end")
        if kind == "signature_delta" and block.kind == "thinking":
            yield Delta(step="sign", block=place, text=string(change, "signature"))
        elif kind in GROWTH:
            yield Delta(step="grow", block=place, text=string(change, GROWTH[kind]))

    def _stop(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        place = self._place(document)
        if place is not None and not self._collector.choices[0].blocks[place].closed:
            yield Delta(step="close", block=place)

    def _finish(self, document: Mapping[str, Any]) -> Iterable[Delta]:
        change, choice = member(document, "delta"), self._collector.choices[0]
        choice.finish = optional(change, "stop_reason") or choice.finish
        choice.stop = optional(change, "stop_sequence") or choice.stop
        said = document.get("usage")
        self._count(said, known=count(said, "output_tokens") is not None)
        return ()

    def _end(self, _: Mapping[str, Any]) -> Iterable[Delta]:
        choice = self._collector.choices[0]
        if not choice.finish or not all(block.closed for block in choice.blocks):
            raise ValueError("a message that stops before it is whole")
        self.ended = True
        return ()

    def _count(self, said: Any, *, known: bool) -> None:
        if isinstance(said, dict):
            self._said |= {name: value for name, value in said.items() if value is not None}
        known = known and count(self._said, "input_tokens") is not None
        self._usage = counted(self._said, known=known)

    def _number(self, document: Mapping[str, Any]) -> int:
        number = count(document, "index")
        if number is None:
            raise ValueError("a content block without index")
        return number

    def _place(self, document: Mapping[str, Any]) -> int | None:
        number = self._number(document)
        if number not in self._places:
            raise ValueError("a content block that never began")
        return self._places[number]


def _block(kind: Kind, given: Mapping[str, Any]) -> Block:
    if kind == "tool":
        return Block(kind=kind, id=string(given, "id", least=1), name=string(given, "name", least=1))
    if kind == "sealed":
        return Block(kind=kind, text=string(given, "data"))
    return Block(kind=kind, signature=optional(given, "signature"))
