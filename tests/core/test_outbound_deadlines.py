"""Many deadlines on one timer: the same as `asyncio.timeout` would do around each."""

import asyncio
import time

import pytest

from buspass.ports.outbound_deadlines import Deadlines


async def waiting(deadlines, seconds, work):
    with deadlines.within(seconds):
        return await work


async def test_each_block_ends_at_its_own_time_and_the_others_go_on(monkeypatch):
    deadlines, never, work = Deadlines(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    began = now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    ended = []

    async def one(seconds):
        with pytest.raises(TimeoutError):
            await waiting(deadlines, seconds, never.wait())
        ended.append(seconds)

    whole = asyncio.create_task(waiting(deadlines, 60, work.wait()))
    others = asyncio.gather(*(one(seconds) for seconds in (3, 1, 4, 1)))
    await asyncio.sleep(0)
    for seconds, until_then in ((0.9, []), (1, [1, 1]), (2.9, [1, 1]), (3, [1, 1, 3]), (4, [1, 1, 3, 4])):
        now = began + seconds
        for _ in range(9):
            await asyncio.sleep(0)
        assert ended == until_then
    await others
    work.set()
    assert await whole is True


async def test_one_timer_is_armed_however_many_blocks_there_are(monkeypatch):
    deadlines, loop, armed = Deadlines(), asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when, *rest):
        armed.append(when)
        return call_at(when, *rest)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(50):
        assert await waiting(deadlines, 60, asyncio.sleep(0, "done")) == "done"
    assert len(armed) == 1
    deadlines.close()


async def test_a_cancellation_from_outside_stays_one_even_when_the_time_is_over_too():
    deadlines, never = Deadlines(), asyncio.Event()
    task = asyncio.create_task(waiting(deadlines, 60, never.wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    both = asyncio.create_task(waiting(deadlines, 0.01, never.wait()))
    await asyncio.sleep(0)
    time.sleep(0.02)  # so that the timer and what comes from outside meet in one turn of the loop
    asyncio.get_running_loop().call_soon(both.cancel)
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_an_error_of_the_work_itself_passes_and_leaves_no_cancellation_behind():
    deadlines = Deadlines()

    async def failing():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise ValueError("its own") from None

    with pytest.raises(ValueError, match="its own"):
        await waiting(deadlines, 0.01, failing())
    assert asyncio.current_task().cancelling() == 0


async def test_nested_blocks_end_each_by_their_own_time():
    outer, inner, never = Deadlines(), Deadlines(), asyncio.Event()
    with outer.within(60):
        with pytest.raises(TimeoutError), inner.within(0.01):
            await never.wait()
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), outer.within(0.01), inner.within(60):
        await never.wait()


def test_another_loop_gets_a_timer_of_its_own():
    deadlines = Deadlines()

    async def late():
        with pytest.raises(TimeoutError):
            await waiting(deadlines, 0.01, asyncio.Event().wait())

    async def quick():
        await waiting(deadlines, 60, asyncio.sleep(0))

    asyncio.run(quick())  # its timer is still armed when its loop is gone
    asyncio.run(late())


async def test_there_is_no_block_without_a_task():
    told = asyncio.get_running_loop().create_future()

    def outside():
        try:
            with Deadlines().within(1):
                told.set_result("entered")
        except RuntimeError as error:
            told.set_result(str(error))

    asyncio.get_running_loop().call_soon(outside)
    assert await told == "a deadline is a task's"
