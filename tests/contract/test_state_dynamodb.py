"""DynamoDB keeps the contract on a real stand-in, and what it adds: lost answers, large items, long pages, no table."""

import asyncio
import uuid

import pytest
from aws_answers import CLOSES, CUT, HANGS, RESETS, Answers, error
from aws_servers import KEYS, create_table

from buspass.ports.state import Absent, Applied, Equals, Misfit, OutcomeUnknown, Put, Refused, Unavailable, Update, at
from buspass.testing.state_contract import StateContract
from buspass_aws import dynamodb

pytestmark = pytest.mark.verify


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("WRITE", "READ"):  # seconds: a machine with more to do must not look like a service that is away
        monkeypatch.setattr(dynamodb, name, 60.0)


@pytest.fixture
async def table(ministack):
    name = f"t-{uuid.uuid4().hex}"
    await create_table(ministack.url, name)
    return name


def url(ministack, table):
    return f"dynamodb://{table}?region=eu-central-1&endpoint={ministack.url}"


@pytest.fixture
async def state(ministack, table):
    state = await dynamodb.open(url(ministack, table))
    yield state
    await state.close()


class TestContract(StateContract):
    transactional = False
    histories = 60

    @pytest.fixture
    async def state(self, state):
        return state


# ── what the network does ──


@pytest.mark.parametrize("broken", [CLOSES, RESETS, CUT, HANGS, error(500, "InternalServerError")], ids=str)
async def test_an_answer_that_is_lost_after_the_write_is_unknown_and_to_repeat_is_harmless(
    ministack, table, broken, monkeypatch
):
    async with Answers(None, broken, None, None, broken, behind=ministack.url) as between:

        async def lost(operation):
            with monkeypatch.context() as hasty:
                hasty.setattr(dynamodb, "WRITE", 1.0 if broken == HANGS else dynamodb.WRITE)
                with pytest.raises(OutcomeUnknown) as caught:
                    await state.apply("t", [operation])
            while between.passed < len(between.asked):  # who does not wait may be gone before the table has it
                await asyncio.sleep(0.01)
            return caught.value

        state = await dynamodb.open(f"dynamodb://{table}?region=eu-central-1&endpoint={between.url}")
        take = Update("head", (Absent(at("open", "c1")),), {at("left"): -1}, {at("open", "c1"): {"n": 1}})
        await state.apply("t", [Put("head", {"left": 5, "open": {}})])
        await lost(take)
        after = {"left": 4, "open": {"c1": {"n": 1}}}
        assert await state.read("t", "head") == after
        assert await state.apply("t", [take]) == Refused(0, after)
        assert (await lost(Put("rec", {"n": 1}))).index == 0
        await state.close()
    direct = await dynamodb.open(url(ministack, table))
    assert await direct.read("t", "rec") == {"n": 1}
    await direct.close()


# ── what DynamoDB bounds ──


async def test_an_item_takes_400_kilobytes(state):
    assert isinstance(await state.apply("t", [Put("k", {"n": 1, "x": "x" * 390_000})]), Applied)
    for operation in (
        Put("large", {"x": "x" * 410_000}),
        Update("k", (Equals(at("n"), 1),), {at("n"): 1}, {at("y"): "y" * 20_000}),
    ):
        with pytest.raises(Misfit, match="400 KB"):
            await state.apply("t", [operation])
    assert await state.read("t", "large") is None
    assert (await state.read("t", "k"))["n"] == 1


async def test_a_list_of_more_than_a_megabyte_comes_whole(state):
    for n in range(12):
        await state.apply("t", [Put(f"r{n:02}", {"x": f"{n}" * 150_000})])
    assert [key for key, _ in await state.list("t", "r", "", 1000)] == [f"r{n:02}" for n in range(12)]
    assert [key for key, _ in await state.list("t", "r", "r03", 7)] == [f"r{n:02}" for n in range(4, 11)]


async def test_many_entries_of_one_sort_come_in_the_order_of_their_items(state):
    parts = [f"p{n:02}" for n in range(30)]
    for part in reversed(parts):
        await state.apply(part, [Put("k", {"n": 1}, index={"due": ("0", "5")})])
    assert [partition for partition, _ in await state.find("due", "0", "5", 1000)] == parts
    assert await state.find("due", "0", "4", 1000) == []


async def test_a_table_that_is_not_there_says_what_to_create_and_nothing_creates_it(ministack):
    state = await dynamodb.open(url(ministack, "nosuchtable"))
    for call in (state.apply("t", [Put("k", {"n": 1})]), state.read("t", "k"), state.list("t", "", "", 1)):
        with pytest.raises(Unavailable, match=r"nosuchtable' in eu-central-1 is not there.* create it as"):
            await call
    await state.close()
