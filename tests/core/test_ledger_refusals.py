"""Refusals are counted, some are recorded, and a run of them suspends."""

import pytest

from buspass.ledger import RUN_LIMIT, Claim, Ledger, Outcome, new_head
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Late, MemoryState


class Books:
    def __init__(self, **store):
        self.clock, self.state = FakeClock(), MemoryState(**store)
        self.ledger = Ledger(self.state, self.clock, lambda task, key, record: dict(record))
        head = new_head(limits={}, expires_at=self.clock.now() + 600_000, max_calls={})
        self.state._items["t"] = {"head": head}

    @property
    def head(self):
        return self.state._items["t"]["head"]

    @property
    def records(self):
        return [item for key, item in self.state._items["t"].items() if key.startswith("rec:r")]

    async def refuse(self, times=1, code="denied", status=403):
        return [await self.ledger.refuse("t", code, status, {"detail": "why"}) for _ in range(times)]

    async def settle(self, *, sent=True):
        claim = Claim(
            task="t", call=f"c{self.head['version']}", kind="inference", name="m", amounts={}, fence=1, deadline=2**50
        )
        await self.ledger.settle(await self.ledger.hold(claim, 0), Outcome(use={}, sent=sent), {})


@pytest.fixture
def books():
    return Books()


async def test_the_first_twenty_of_a_code_are_recorded_then_one_in_a_hundred(books):
    await books.refuse(20)
    assert len(books.records) == 20
    await books.refuse(79)
    assert len(books.records) == 20
    await books.refuse(1)
    assert len(books.records) == 21
    await books.refuse(101)
    assert len(books.records) == 22
    assert books.head["refusals"]["denied"] == 201
    assert books.head["entries"] == 22


async def test_each_code_is_counted_by_itself(books):
    await books.refuse(25)
    await books.refuse(1, "fenced", 409)
    assert [record["code"] for record in books.records].count("fenced") == 1
    record = books.records[-1]
    assert (record["kind"], record["state"], record["use"], record["detail"]) == ("refusal", "refused", {}, "why")


async def test_fifty_refusals_in_a_run_are_told(books):
    assert RUN_LIMIT == 50
    assert await books.refuse(49) == [False] * 49
    assert await books.refuse(1, "invalid_arguments", 422) == [True]


async def test_a_settled_call_ends_the_run_and_one_that_was_not_sent_does_not(books):
    await books.refuse(49)
    await books.settle(sent=False)
    assert await books.refuse(1) == [True]
    await books.settle()
    assert await books.refuse(49) == [False] * 49
    assert await books.refuse(1) == [True]


@pytest.mark.parametrize("status", [400, 402, 404, 429, 500, 503])
async def test_what_no_misled_agent_earns_is_not_in_the_run(books, status):
    await books.refuse(49)
    assert not any(await books.refuse(60, "other", status))
    assert await books.refuse(1) == [True]


async def test_a_lost_race_leaves_one_record_and_the_right_count():
    books = Books(transactional=False)
    apply, steps = books.state.apply, []

    async def raced(partition, operations):
        if not steps:
            steps.append(1)
            await books.refuse()  # somebody else's comes first
        return await apply(partition, operations)

    books.state.apply = raced
    await books.refuse()
    assert books.head["refusals"]["denied"] == 2
    assert (len(books.records), books.head["entries"]) == (2, 2)


async def test_a_store_that_is_away_loses_the_count_and_never_the_refusal(books):
    books.state.meet(Late())
    assert await books.refuse() == [False]
    books.state.down = True
    assert await books.refuse() == [False]
    books.state.down = False
    assert await books.ledger.refuse("nowhere", "denied", 403, {}) is False
