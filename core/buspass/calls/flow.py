"""A stream between the provider's first event and the settle.

Owns what ends it: the provider, the deadline, a kill, a stop, a provider that stands still. The bytes that end a stream
for the agent are held back: they follow the settle. Refuses to know money.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from msgspec import Struct, field

from buspass.calls import upstreams
from buspass.calls.arrivals import Arrivals
from buspass.calls.call import Ending
from buspass.calls.endings import Endings
from buspass.calls.house import House
from buspass.calls.lanes import Lane
from buspass.calls.screened_stream import ScreenedStream
from buspass.errors import Problem
from buspass.guard import check_standing
from buspass.identity.tokens import TaskClaims
from buspass.ledger import Held
from buspass.model import Ask, Failure
from buspass.ports.outbound import Ambiguous, NotSent, Outbound, Request, Response, Streamed
from buspass.providers import failures
from buspass.providers.decoding import StreamDecoder
from buspass.providers.wires import Wire
from buspass.routing import attempts
from buspass.surfaces.registry import SURFACES
from buspass.tasks import View

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks at the task: a killed one's streams are cut this late at most."""
ERROR_BYTES: Final = 100_000
"""Bytes of a provider's refusal that are read."""


class Begun(Struct, frozen=True):
    """A stream whose first event has come: until then another target might have been tried."""

    chunks: AsyncGenerator[bytes, None]
    decoder: StreamDecoder
    events: list[dict[str, Any]]
    headers: Mapping[str, str] = field(default_factory=dict)

    async def close(self) -> None:
        """Let the provider's connection go."""
        await self.chunks.aclose()


async def begun(outbound: Outbound, request: Request, wire: Wire, ask: Ask) -> Begun:
    """Open a stream and wait for its first event, `request.timeout` seconds at most. Raises Failure."""
    try:
        async with asyncio.timeout(request.timeout):
            streamed = await outbound.open(request)
            try:
                return await _first(streamed, wire, ask)
            except BaseException:
                await streamed.chunks.aclose()
                raise
    except TimeoutError as error:
        raise Failure("timeout", billed="unknown", retryable=False) from error
    except (NotSent, Ambiguous) as error:
        raise failures.unsent(error) from error


async def _first(streamed: Streamed, wire: Wire, ask: Ask) -> Begun:
    if not 200 <= streamed.status < 300:
        body = b""
        async for chunk in streamed.chunks:
            body += chunk
            if len(body) > ERROR_BYTES:
                break
        raise wire.refused(Response(status=streamed.status, headers=streamed.headers, body=body))
    decoder = wire.decoder(ask)
    async for chunk in streamed.chunks:
        if events := decoder.feed(chunk):
            return Begun(streamed.chunks, decoder, events, streamed.headers)
    decoder.close()
    return Begun(streamed.chunks, decoder, [], streamed.headers)


class Flow:
    """One stream. Iterate `pieces`, then take its `ending`; whatever happens, `close` it."""

    def __init__(
        self,
        house: House,
        claims: TaskClaims,
        view: View,
        held: Held,
        opened: Begun,
        endings: Endings,
        lane: Lane,
        tried: int,
    ) -> None:
        self._house, self._claims, self._view, self._held = house, claims, view, held
        self._begun, self._endings, self._lane, self._tried = opened, endings, lane, tried
        self._surface = SURFACES[endings.ask.surface]
        self._screened = ScreenedStream(endings.screening)
        self.headers = {"Buspass-Target": lane.name, "Buspass-Attempts": str(tried)}

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the agent's bytes as they come, but for those that end the stream. Raises Problem."""
        try:
            async with aclosing(self._events()) as arriving:
                async for events in arriving:
                    piece, fault = self._given(events)
                    if piece:
                        await self._endings.screening.keep()  # a placeholder in it is kept before it leaves
                        yield piece
                    if fault is not None:
                        raise fault
        except Failure as failure:
            raise await self._problem(failure) from failure
        except (NotSent, Ambiguous) as error:
            raise await self._problem(failures.unsent(error)) from error

    async def _events(self) -> AsyncGenerator[Iterator[Mapping[str, Any]], None]:
        """Give what may be shown, by what came together: each is to be used up before the next is asked for."""
        screened, decoder = self._screened, self._begun.decoder
        yield (shown for come in self._begun.events for shown in screened.event(come))
        async with aclosing(self._chunks()) as chunks:
            if screened.stalled:
                yield await screened.resumed()
            async for arrived in chunks:
                yield (shown for chunk in arrived for come in decoder.feed(chunk) for shown in screened.event(come))
                if screened.stalled:
                    yield await screened.resumed()
        decoder.close()
        yield self._screened.end()

    def _given(self, events: Iterator[Mapping[str, Any]]) -> tuple[bytes, Exception | None]:
        """Give events as bytes, all that there are as one piece, up to one that must not leave; and what kept it."""
        given: list[bytes] = []
        try:
            for event in events:
                given.append(self._surface.stream_event(event))  # noqa: PERF401 - those before a fault are given
        except Exception as fault:  # noqa: BLE001 - raised once the others are on their way
            return b"".join(given), fault
        return b"".join(given), None

    async def _chunks(self) -> AsyncGenerator[list[bytes], None]:
        """Give the provider's bytes, with a look at the clock and the task every two seconds meanwhile.

        A provider that stands still does not keep it from the last look, which is at the deadline.
        """
        clock = self._house.clock
        look = self._next_look()
        arrivals = Arrivals(self._begun.chunks)
        try:
            arrivals.wait(look - clock.monotonic())
            while (come := await arrivals.take()) is not None:
                if come:
                    yield come
                if clock.monotonic() >= look:
                    await self._look()
                    look = self._next_look()
                elif come:
                    continue
                arrivals.wait(look - clock.monotonic())  # again, too, where the event loop's clock goes before this one
        finally:
            await arrivals.close()

    def _next_look(self) -> float:
        clock = self._house.clock
        left = (self._held.deadline - clock.now()) / 1000
        return clock.monotonic() + min(LOOK_AGAIN, max(0.0, left))

    async def _look(self) -> None:
        """Cut the stream where its time is over, where it is stopped, or its task is not this caller's any more."""
        now = self._house.clock.now()
        if now >= self._held.deadline:
            raise Problem("deadline_exceeded", "the call's deadline passed in the middle of its stream")
        task, models = self._view.task, (self._endings.ask.model, self._lane.name)
        await self._house.stops.ask(task.workflow, (self._claims.act, task.principal.name), models=models)
        check_standing((await self._house.tasks.look(self._claims.task)).head, self._claims.fence, now)

    async def _problem(self, failure: Failure) -> Problem:
        fault = upstreams.model_fault(failure, given=upstreams.ENOUGH, timeout=upstreams.ENOUGH)
        if fault is not None:
            key = self._lane.breaker
            breaker = await self._house.breakers.failed(key, fault)
            if breaker.state != "closed":
                self._endings.notes["breaker"] = upstreams.shown(key.name, breaker)
        return attempts.give_up(failure).problem

    async def ending(self, problem: Problem | None = None) -> Ending:
        """Give how it ended: whole, or cut short by `problem`."""
        answer, screening = self._begun.decoder.answer(), self._endings.screening
        if screening.unread and not screening.silent(answer):  # what was cut before anybody saw it
            with suppress(Problem):  # then what is kept of the answer has placeholders of its own
                await screening.read()
        if problem is None:
            seen = screening.answer(answer, streamed=True)
            return self._endings.answered(seen, self._lane, self._tried)
        return self._endings.cut(answer, self._lane, self._tried, problem)

    def last(self, ending: Ending, told: Mapping[str, Any]) -> bytes:
        """Give the bytes that end the stream for the agent, with member `buspass`: sent after the settle."""
        if ending.problem is not None:
            return self._surface.stream_problem(ending.problem, told)
        return self._surface.stream_end(self._endings.ask, self._begun.decoder.answer(), told)

    async def close(self) -> None:
        """Let the provider's connection go."""
        await self._begun.close()
