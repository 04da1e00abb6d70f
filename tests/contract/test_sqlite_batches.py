"""Jobs of one turn of an event loop go to the thread together, and each answer comes back to who asked."""

import asyncio
import threading

import pytest

from buspass_onprem.batches import Batches

SECONDS = 60
"""For what comes at once: a busy machine may take its time."""


@pytest.fixture
def made():
    """Give batches over a thread that waits until it may begin, and what it was handed."""
    gate, seen, open_ = Gate(), [], []

    def make(work, most=256):
        def working(jobs):
            gate.here.set()
            gate.wait(SECONDS)
            seen.append(list(jobs))
            return work(jobs)

        open_.append(Batches("test", working, most))
        return open_[-1], gate, seen

    yield make
    gate.set()
    for batches in open_:
        asyncio.run(batches.close())


class Gate(threading.Event):
    """Opens for the thread. `here`: it has what came first by now, and waits."""

    def __init__(self):
        super().__init__()
        self.here = threading.Event()

    async def reached(self):
        """Wait until it is here, for a turn of the loop at least."""
        async with asyncio.timeout(SECONDS):
            await asyncio.sleep(0.001)
            while not self.here.is_set():
                await asyncio.sleep(0.001)


async def test_each_gets_its_own_answer_and_turns_are_taken_together(made):
    batches, gate, seen = made(lambda jobs: [job * 10 for job in jobs])
    asked = [batches.ask(0)]
    await gate.reached()
    for turn in range(1, 4):
        asked += [batches.ask(turn * 10 + each) for each in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asked) == [0, *(turn * 100 + each * 10 for turn in range(1, 4) for each in range(3))]
    assert seen == [[0], [10, 11, 12, 20, 21, 22, 30, 31, 32]]


async def in_turns(batches, gate, count):
    """Ask for the numbers from 0 on, each in a turn of the loop of its own, the first before all others are seen."""
    asked = [batches.ask(0)]
    await gate.reached()
    for turn in range(1, count):
        asked.append(batches.ask(turn))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return asked


async def test_a_loop_is_woken_once_for_all_that_it_asked_before(made, monkeypatch):
    loop, woken = asyncio.get_running_loop(), []
    batches, gate, seen = made(lambda jobs: jobs)
    wake = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *call: woken.append(call) or wake(*call))
    asked = await in_turns(batches, gate, 4)
    gate.set()
    assert await asyncio.gather(*asked) == [0, 1, 2, 3]
    assert (seen, len(woken)) == ([[0], [1, 2, 3]], 2)


def test_loops_that_ask_in_turn_get_their_own_answers(made):
    batches, gate, seen = made(lambda jobs: [job * 10 for job in jobs])
    answers, asked = {}, threading.Barrier(4)

    async def asking(first):
        mine = []
        for job in range(first, first + 5):
            mine.append(batches.ask(job))
            await gate.reached()  # the first one of all is taken alone, or with its likes
        await asyncio.to_thread(asked.wait)
        answers[first] = await asyncio.gather(*mine)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(asking(n * 10)), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    asked.wait(SECONDS)
    gate.set()
    for thread in threads:
        thread.join(SECONDS)
    assert answers == {n * 10: [(n * 10 + each) * 10 for each in range(5)] for n in range(3)}
    for n in range(3):  # each loop's in its order, whatever they were taken with
        assert [job for jobs in seen for job in jobs if job // 10 == n] == [n * 10 + each for each in range(5)]


async def test_from_so_many_on_no_other_turn_is_added(made):
    batches, gate, seen = made(lambda jobs: jobs, most=2)
    asked = await in_turns(batches, gate, 5)
    gate.set()
    assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4]
    assert seen == [[0], [1, 2], [3, 4]]


async def test_what_was_asked_meanwhile_goes_with_what_the_answers_bring_about(made):
    batches, gate, seen = made(lambda jobs: jobs)

    async def twice(job):
        return await batches.ask(await batches.ask(job) + 1)

    async with asyncio.TaskGroup() as group:
        first = [group.create_task(twice(job)) for job in (10, 20)]
        await gate.reached()
        second = group.create_task(twice(30))
        await asyncio.sleep(0)
        gate.set()
    assert [task.result() for task in (*first, second)] == [11, 21, 31]
    assert seen == [[10, 20], [30, 11, 21], [31]]


async def test_one_turn_that_asks_for_more_than_so_many_has_the_rest_in_its_order(made):
    batches, gate, seen = made(lambda jobs: jobs, most=2)
    gate.set()
    assert await asyncio.gather(*map(batches.ask, range(5))) == [0, 1, 2, 3, 4]
    assert seen == [[0, 1], [2, 3], [4]]


async def test_a_loop_that_ended_meanwhile_keeps_no_other_from_its_answers(made):
    batches, gate, seen = made(lambda jobs: jobs)

    async def leaves():
        batches.ask(1)
        await gate.reached()

    await asyncio.to_thread(asyncio.run, leaves())
    mine = batches.ask(2)
    await asyncio.sleep(0)
    gate.set()
    assert await mine == 2
    assert seen == [[1], [2]]


@pytest.mark.parametrize(
    "work", [lambda jobs: 1 / 0, lambda jobs: jobs[1:], lambda jobs: [ZeroDivisionError()] * len(jobs)]
)
async def test_nobody_waits_for_ever(made, work):
    batches, gate, _ = made(work)
    gate.set()
    answers = await asyncio.wait_for(asyncio.gather(*map(batches.ask, range(3)), return_exceptions=True), SECONDS)
    assert {type(answer) for answer in answers} <= {ZeroDivisionError, AssertionError}
    assert len(answers) == 3


async def test_one_who_went_away_keeps_nobody_from_an_answer(made):
    batches, gate, _ = made(lambda jobs: jobs)
    first, second = batches.ask(1), batches.ask(2)
    await gate.reached()
    first.cancel()
    gate.set()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_was_asked_before_the_end_is_answered(made):
    batches, gate, _ = made(lambda jobs: jobs, most=2)
    asked = [batches.ask(each) for each in range(3)]
    await gate.reached()
    asked += [batches.ask(each) for each in range(3, 8)]
    gate.set()
    await batches.close()
    assert await asyncio.gather(*asked) == [*range(8)]
