"""A stream's chunks are read by one task and taken together, and its reads share one timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from buspass.calls.arrivals import AHEAD, Arrivals
from buspass.ports.outbound import Ambiguous, TimedOut
from buspass.ports.outbound_idle import Idle

LONG = 30.0


async def given(*chunks: bytes, then: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


async def everything(arrivals: Arrivals) -> list[list[bytes]]:
    taken = []
    while (come := await arrivals.take()) is not None:
        taken.append(come)
    return taken


async def test_what_came_meanwhile_is_taken_together_and_in_order() -> None:
    arrivals = Arrivals(given(b"a", b"b", b"c"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await everything(arrivals) == [[b"a", b"b", b"c"]]
    await arrivals.close()


async def test_what_came_before_a_fault_is_given_before_it() -> None:
    arrivals = Arrivals(given(b"a", then=Ambiguous("broken")))
    assert await arrivals.take() == [b"a"]
    with pytest.raises(Ambiguous):
        await arrivals.take()
    await arrivals.close()


async def test_nothing_comes_within_the_time_and_the_next_is_not_lost() -> None:
    more = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        await more.wait()
        yield b"late"

    arrivals = Arrivals(slow())
    arrivals.wait(0.01)
    assert await arrivals.take() == []
    assert await arrivals.take() == [], "until somebody waits anew"
    arrivals.wait(LONG)
    more.set()
    assert await everything(arrivals) == [[b"late"]]
    await arrivals.close()


async def test_reading_waits_for_who_takes_nothing() -> None:
    read = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal read
        while True:
            read += AHEAD // 4
            yield b"x" * (AHEAD // 4)

    chunks = endless()
    arrivals = Arrivals(chunks)
    for _ in range(20):
        await asyncio.sleep(0)
    assert read == AHEAD
    assert len(await arrivals.take() or ()) == 4
    for _ in range(20):
        await asyncio.sleep(0)
    assert read == 2 * AHEAD
    await arrivals.close()
    await chunks.aclose()


async def test_reads_in_time_never_time_out_though_they_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds

    idle = Idle(0.5)
    for _ in range(6):
        with idle:
            later(0.4)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    loop.call_soon(later, 0.6)
    with pytest.raises(TimedOut), idle:
        await asyncio.sleep(LONG)
    idle.close()


async def test_a_read_that_stands_still_times_out_and_leaves_the_task_as_it_was() -> None:
    idle = Idle(0.02)
    with idle:
        await asyncio.sleep(0)
    with pytest.raises(TimedOut), idle:
        await asyncio.sleep(LONG)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    idle.close()


async def test_a_cancellation_from_outside_is_no_timeout() -> None:
    async def reads() -> None:
        with Idle(LONG):
            await asyncio.sleep(LONG)

    task = asyncio.ensure_future(reads())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_the_driver_forgot_is_heeded() -> None:
    async def reads() -> None:
        with Idle(LONG), contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)

    task = asyncio.ensure_future(reads())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
