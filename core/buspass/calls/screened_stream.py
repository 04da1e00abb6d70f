"""A stream as the agent may see it, event by event, in the shape of its surface.

Owns what is held back of each text and when it is given. Refuses to know what a plan allows: that is `screening`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from buspass.calls.screening import Screening
from buspass.mediation.holdback import Holdback

type Place = tuple[int, str, int]
"""Choice or content block, member, number of the tool call."""

DELTAS: Final = {"text_delta": "text", "input_json_delta": "partial_json"}
"""Anthropic's deltas that are inspected. Thinking stays byte for byte: it is signed."""

ARGUMENTS: Final = frozenset({"arguments", "partial_json"})
"""Members that hold a tool call's arguments, by surface."""


class _Stalls(Exception):  # noqa: N818 - no error: it waits
    """The task's placeholders are needed first."""


class ScreenedStream:
    """One stream. Feed it events, take what comes, and `end` it where the stream ended whole.

    Most streams need none of the task's placeholders, so they are not read for them. Where one does, all that comes
    from there on is kept back: it is `stalled` until it is `resumed`.
    """

    def __init__(self, screening: Screening) -> None:
        self._screening = screening
        self._wary = screening.unread
        self._later: list[Mapping[str, Any]] = []
        self._texts: dict[Place, Holdback] = {}
        self._whole: dict[Place, list[str]] = {}
        self._last: Mapping[str, Any] = {}

    @property
    def stalled(self) -> bool:
        """Whether events are kept back until it is resumed."""
        return bool(self._later)

    async def resumed(self) -> Iterator[Mapping[str, Any]]:
        """Read the task's placeholders, and give what was kept back. Raises Problem state_unavailable, internal."""
        await self._screening.read()
        self._wary = False
        plan = self._screening.answer_plan()
        for held in self._texts.values():
            held.replan(plan)
        later, self._later = self._later, []
        return (shown for event in later for shown in self.event(event))

    def event(self, event: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The events that may be sent once this one has come: often none."""
        try:
            if self._later:
                self._later.append(event)
            elif "choices" in event:
                self._last = event
                choices = [shown for choice in event["choices"] if (shown := self._choice(choice)) is not None]
                if choices or not event["choices"]:
                    return ({**event, "choices": choices},)
            elif event["type"] == "content_block_delta" and (member := DELTAS.get(event["delta"]["type"])):
                text = self._take((event["index"], member, 0), event["delta"][member])
                if text:
                    return ({**event, "delta": {**event["delta"], member: text}},)
            elif event["type"] == "content_block_stop":
                return chain(self._rest(event["index"]), (event,))
            else:
                return (event,)
        except _Stalls:  # an event holds one piece of one text, so nothing of it was taken
            self._later.append(event)
        return ()

    def end(self) -> Iterator[Mapping[str, Any]]:
        """What is still held back, of a stream that ended whole."""
        for place in [*self._texts, *self._whole]:
            text = self._flushed(place)
            index, member, call = place
            if not text:
                continue
            if member == "arguments":
                delta: dict[str, Any] = {"tool_calls": [{"index": call, "function": {"arguments": text}}]}
            else:
                delta = {member: text}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**self._last, "choices": [choice]}

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        """One choice's delta with what may be sent of it; None where nothing of it may."""
        index, given = choice["index"], choice["delta"]
        if len(given) == 1 and (text := given.get("content")):  # nearly always
            shown = self._take((index, "content", 0), text)
            if not shown:
                return None
            return {**choice, "delta": {"content": shown}, "logprobs": choice["logprobs"] if shown == text else None}
        delta = dict(given)
        for member in ("content", "refusal"):
            if delta.get(member):
                delta[member] = self._take((index, member, 0), delta[member])
                if not delta[member]:
                    del delta[member]
        if "tool_calls" in delta:
            calls = [self._call(index, call) for call in delta["tool_calls"]]
            delta["tool_calls"] = [call for call in calls if "id" in call or call["function"].get("arguments")]
            if not delta["tool_calls"]:
                del delta["tool_calls"]
        if not delta and given:
            return None
        return {**choice, "delta": delta} if delta == given else {**choice, "delta": delta, "logprobs": None}

    def _call(self, choice: int, call: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(call["function"])
        if function.get("arguments"):
            function["arguments"] = self._take((choice, "arguments", call["index"]), function["arguments"])
        return {**call, "function": function}

    def _take(self, place: Place, text: str) -> str:
        """A text's next piece. Arguments under rules are read as JSON, so they are given when they are whole."""
        if place[1] in ARGUMENTS and self._screening.ruled:
            if self._wary:
                raise _Stalls
            self._whole.setdefault(place, []).append(text)
            return ""
        held = self._texts.get(place)
        if held is None:
            held = self._texts[place] = Holdback(self._screening.answer_plan(), "answer")
        if not self._wary:
            return held.feed(text)
        shown = held.feed_silent(text)
        if shown is None:
            raise _Stalls
        return shown

    def _flushed(self, place: Place) -> str:
        if place in self._whole:
            return self._screening.arguments_text("".join(self._whole[place]), "answer")[0]
        return self._texts[place].flush()

    def _rest(self, index: int) -> Iterator[Mapping[str, Any]]:
        for place in [place for place in [*self._texts, *self._whole] if place[0] == index]:
            text = self._flushed(place)
            self._texts.pop(place, None)
            self._whole.pop(place, None)
            if text:
                kind = next(kind for kind, member in DELTAS.items() if member == place[1])
                yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, place[1]: text}}
