"""OpenAI's stream of chunks, decoded. Source: platform.openai.com/docs/api-reference/chat-streaming. No I/O.

Usage comes in a chunk of its own at the end, or, from some servers, in every chunk: the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from buspass.model import Ask
from buspass.providers import failures
from buspass.providers.decoding import StreamDecoder
from buspass.providers.document import count, items, loads, optional, optional_member, string
from buspass.providers.openai_usage import usage
from buspass.providers.parts import Block, Choice, Delta, Head
from buspass.providers.sse import Event

DONE: Final = "[DONE]"
EXTRA: Final = ("service_tier", "system_fingerprint")


class Decoder(StreamDecoder):
    """See `StreamDecoder`. Over at `[DONE]`, or where the body ends after every choice has finished."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self._wanted = ask.n
        self._places: dict[tuple[int, str], int] = {}

    def close(self) -> None:
        """As ever; not every server that speaks this format sends `[DONE]`."""
        self.ended = self.ended or self._finished()
        super().close()

    def _finished(self) -> bool:
        return sum(1 for choice in self._collector.choices.values() if choice.finish) >= self._wanted

    def _read(self, event: Event) -> Iterable[Delta]:
        if self.ended:
            return ()
        if event.data[:1] != "{" and event.data.strip() == DONE:
            if not self._finished():
                raise ValueError("done before every choice has finished")
            self.ended = True
            return ()
        chunk = loads(event.data)
        if chunk.get("error") is not None:
            raise failures.told(chunk)
        self._meet(chunk)
        choices = items(chunk, "choices")
        if len(choices) == 1 and (delta := self._more(choices[0])) is not None:  # nearly always
            return (delta,)
        return self._each(choices)

    def _each(self, choices: Iterable[Any]) -> Iterator[Delta]:
        for choice in choices:
            delta = self._more(choice)
            if delta is not None:
                yield delta
            else:
                yield from self._choice(choice)

    def _meet(self, chunk: Mapping[str, Any]) -> None:
        if not self._head.id:
            extra = {name: chunk[name] for name in EXTRA if isinstance(chunk.get(name), str)}
            self._head = Head(id=optional(chunk, "id"), created=count(chunk, "created") or 0, extra=extra)
        if chunk.get("usage") is not None:
            self._usage = usage(chunk["usage"])

    def _more(self, said: Any) -> Delta | None:
        """More of the text under way, which nearly all choices bring; None where there is anything else in one."""
        if type(said) is not dict or said.get("finish_reason") is not None or said.get("logprobs") is not None:
            return None
        change, index = said.get("delta"), said.get("index")
        if type(change) is not dict or len(change) != 1 or type(index) is not int:
            return None
        text, place = change.get("content"), self._places.get((index, "text"))
        if type(text) is not str or not text or place is None or self._collector.choices[index].blocks[place].closed:
            return None
        return Delta(step="grow", choice=index, block=place, text=text)

    def _choice(self, said: Any) -> Iterator[Delta]:
        index = count(said, "index")
        if index is None or index >= self._wanted:
            raise ValueError("a choice that nobody asked for")
        if index not in self._collector.choices:
            yield Delta(step="begin", choice=index)
        choice = self._collector.choices[index]
        change = optional_member(said, "delta")
        logprobs = said.get("logprobs")
        chances = {name: items(logprobs, name) for name in ("content", "refusal")} if isinstance(logprobs, dict) else {}
        chances = {name: rows for name, rows in chances.items() if rows}
        if text := optional(change, "content"):
            yield from self._grow(choice, index, "text", Block(kind="text"), text, chances)
        if text := optional(change, "refusal"):
            yield from self._grow(choice, index, "refusal", Block(kind="refusal"), text, chances)
        for call in items(change, "tool_calls"):
            yield from self._call(choice, index, call)
        if said.get("finish_reason") is not None:
            yield from _close(choice, index)
            choice.finish = string(said, "finish_reason", least=1)

    def _call(self, choice: Choice, index: int, call: Any) -> Iterator[Delta]:
        place = count(call, "index")
        if place is None:
            raise ValueError("a tool call without index")
        function = optional_member(call, "function")
        key, arguments = f"tool {place}", optional(function, "arguments")
        if (index, key) in self._places:
            yield from self._grow(choice, index, key, None, arguments)
            return
        block = Block(kind="tool", id=string(call, "id", least=1), name=string(function, "name", least=1))
        yield from self._grow(choice, index, key, block, arguments)

    def _grow(
        self,
        choice: Choice,
        index: int,
        key: str,
        block: Block | None,
        text: str,
        logprobs: Mapping[str, Any] | None = None,
    ) -> Iterator[Delta]:
        """Text for the block of this key. Blocks follow each other: text after a tool call is a new block."""
        place = self._places.get((index, key))
        if place is None or choice.blocks[place].closed:
            if block is None:
                raise ValueError("arguments for a tool call that another one has followed")
            yield from _close(choice, index)
            place = self._places[index, key] = len(choice.blocks)
            yield Delta(step="open", choice=index, block=place, opens=block)
        if text:
            yield Delta(step="grow", choice=index, block=place, text=text, logprobs=logprobs or None)


def _close(choice: Choice, index: int) -> Iterator[Delta]:
    if choice.blocks and not choice.blocks[-1].closed:
        yield Delta(step="close", choice=index, block=len(choice.blocks) - 1)
