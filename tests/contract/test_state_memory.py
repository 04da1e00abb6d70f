"""The memory adapter keeps the contract it specifies, in both of its forms, and shows each fault as it is described."""

import asyncio
from random import Random

import pytest

from buspass.ports.state import (
    Absent,
    Applied,
    Equals,
    OutcomeUnknown,
    Put,
    Refused,
    Unavailable,
    Update,
    at,
)
from buspass.testing.state_contract import StateContract
from buspass.testing.state_counting import Count, Counting
from buspass.testing.state_memory import Crash, Dies, Down, Late, Lost, MemoryState
from buspass.testing.state_memory import open as open_memory

RECORD = Put("rec:1", {"n": 1})
CLOSE = Update("head", (Equals(at("n"), 1),), {at("n"): 1})


class TestTransactional(StateContract):
    @pytest.fixture
    async def state(self):
        return await open_memory("memory://")


class TestOneByOne(StateContract):
    transactional = False

    @pytest.fixture
    async def state(self):
        return MemoryState(transactional=False)


async def with_head(**options):
    state = MemoryState(**options)
    await state.apply("t", [Put("head", {"n": 1})])
    return state


async def test_only_a_bare_memory_url_is_taken():
    with pytest.raises(ValueError, match="memory://"):
        await open_memory("memory://shared")


@pytest.mark.parametrize("at_operation", [0, 1])
async def test_unavailable_leaves_the_prefix_only_one_by_one(at_operation):
    for transactional in (True, False):
        state = await with_head(transactional=transactional)
        state.meet(Down(at_operation))
        with pytest.raises(Unavailable) as caught:
            await state.apply("t", [RECORD, CLOSE])
        stands = at_operation == 1 and not transactional
        assert caught.value.index == (at_operation if not transactional else 0)
        assert (await state.read("t", "rec:1") is not None) == stands
        assert await state.read("t", "head") == {"n": 1}


@pytest.mark.parametrize("transactional", [True, False])
async def test_a_lost_answer_was_applied_and_repeating_is_refused(transactional):
    state = await with_head(transactional=transactional)
    state.meet(None, Lost())
    await state.apply("t", [RECORD])
    with pytest.raises(OutcomeUnknown):
        await state.apply("t", [CLOSE])
    assert await state.apply("t", [CLOSE]) == Refused(0, {"n": 2})


async def test_a_late_write_arrives_and_is_judged_then():
    state = await with_head()
    state.meet(Late(), Late())
    for operations in ([RECORD], [CLOSE]):
        with pytest.raises(OutcomeUnknown):
            await state.apply("t", operations)
    assert await state.apply("t", [CLOSE]) == Applied({"n": 2})
    assert await state.read("t", "rec:1") is None
    state.deliver()
    assert await state.read("t", "rec:1") == {"n": 1}
    assert await state.read("t", "head") == {"n": 2}


async def test_the_caller_dies_after_any_operation():
    stood = []
    for transactional in (True, False):
        for after in (0, 1, 2):
            state = await with_head(transactional=transactional)
            state.meet(Dies(after))
            with pytest.raises(Crash):
                await state.apply("t", [RECORD, CLOSE])
            stood.append(("rec:1" in state.dump()["t"]) + (state.dump()["t"]["head"]["n"] == 2))
    assert stood == [0, 0, 2, 0, 1, 2]


async def test_the_caller_dies_after_a_number_of_writes_over_several_applies():
    state = await with_head(transactional=False)
    state.crash_after(2)
    await state.apply("t", [RECORD])
    with pytest.raises(Crash):
        await state.apply("t", [Put("rec:2", {"n": 1}), CLOSE])
    assert set(state.dump()["t"]) == {"head", "rec:1", "rec:2"}
    assert await state.apply("t", [CLOSE]) == Applied({"n": 2})


async def test_random_trouble_never_applies_twice():
    seen = set()
    for seed in range(30):
        state = MemoryState(transactional=seed % 2 == 0, trouble=0.5, random=Random(seed))
        for n in range(20):
            for _ in range(6):
                try:
                    await state.apply("t", [Put(f"rec:{n}", {"n": n})])
                    break
                except (OutcomeUnknown, Unavailable) as error:
                    seen.add(type(error))
        state.trouble = 0
        await state.apply("t", [Put("head", {"n": 0, "by": {}})])
        state.trouble = 0.5

        async def add(call, state=state):
            while True:
                try:
                    return await state.apply(
                        "t", [Update("head", (Absent(at("by", call)),), {at("n"): 1}, {at("by", call): 1})]
                    )
                except (OutcomeUnknown, Unavailable):
                    continue

        await asyncio.gather(*(add(f"c{n}") for n in range(10)))
        state.deliver()
        head = state.dump()["t"]["head"]
        assert head["n"] == len(head["by"]) == 10
    assert seen == {OutcomeUnknown, Unavailable}


@pytest.mark.parametrize("transactional", [True, False])
async def test_others_come_between_single_operations_only_one_by_one(transactional):
    state = await with_head(transactional=transactional)
    writing = asyncio.create_task(state.apply("t", [RECORD, CLOSE]))
    seen = set()
    while not writing.done():
        await asyncio.sleep(0)
        items = state.dump()["t"]
        seen.add(("rec:1" in items, items["head"]["n"]))
    assert ((True, 1) in seen) == (not transactional)


async def test_a_store_that_is_down_answers_nothing():
    state = await with_head()
    state.down = True
    for call in (state.read("t", "head"), state.list("t", "", "", 1), state.apply("t", [CLOSE])):
        with pytest.raises(Unavailable):
            await call
    state.down = False
    assert await state.read("t", "head") == {"n": 1}


async def test_a_lagging_index_is_stale_until_it_catches_up():
    state = await with_head(lagging=True)
    await state.apply("t", [Put("k", {"n": 1}, index={"due": ("0", "1")})])
    assert await state.find("due", "0", "9", 5) == []
    state.deliver()
    await state.apply("t", [Update("k", (Equals(at("n"), 1),), {at("n"): 1}, index={"due": None})])
    assert await state.find("due", "0", "9", 5) == [("t", "k")]
    state.deliver()
    assert await state.find("due", "0", "9", 5) == []


async def test_what_is_handed_out_does_not_reach_back():
    state = await with_head()
    value = {"map": {"x": [1]}}
    answer = await state.apply("t", [Put("k", value)])
    value["map"]["x"].append(2)
    answer.item["map"]["x"].append(3)
    (await state.read("t", "k"))["map"]["x"].append(4)
    assert await state.read("t", "k") == {"map": {"x": [1]}}


async def test_counts_of_the_store_and_of_the_wrapper_agree():
    inner = MemoryState(transactional=False)
    state = Counting(inner)
    await state.apply("t", [Put("head", {"n": 1}), RECORD])
    await state.apply("t", [RECORD, CLOSE])
    inner.meet(Down(1), Lost(0))
    for error in (Unavailable, OutcomeUnknown):
        with pytest.raises(error):
            await state.apply("t", [Put(f"rec:{error.__name__}", {"n": 1}), CLOSE])
    await state.read("t", "head")
    await state.list("t", "", "", 5)
    await state.find("due", "0", "9", 5)
    assert state.count == inner.count == Count(reads=1, lists=1, finds=1, applies=4, writes=5)
    state.count.reset()
    assert state.count == Count()
    await state.close()
    assert inner.closed
