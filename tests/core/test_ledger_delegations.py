"""A child's entry in its parent's head: taken once, settled once, corrected by what was not settled yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from buspass.ledger import Closing, Delegation, Delegations, Stale, balance, delegations, new_head
from buspass.ledger.delegations import CORRECTIONS, taking
from buspass.model import UNLIMITED
from buspass.ports.state import Put, Refused
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Lost, MemoryState


class Books:
    """A parent with 1,000 micro-dollars and two calls of `pay`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.state = MemoryState()
        self.delegations = Delegations(self.state, self.clock, lambda _task, _key, record: dict(record))
        self.wish = Delegation(
            task="t_child",
            workflow="w",
            amounts={"cost": 300},
            caps={"pay": 1},
            host="",
            at=self.clock.now(),
            deadline=self.clock.now() + 60_000,
        )

    async def begin(self) -> None:
        far = self.clock.now() + 600_000
        head = new_head(limits={"cost": 1_000}, expires_at=far, max_calls={"pay": 2})
        await self.state.apply("t", [Put("head", {**head, "entries": 0})])

    @property
    def head(self) -> Any:
        return self.state.dump()["t"]["head"]

    async def sealed(self) -> frozenset[str]:
        return frozenset()

    async def take(self) -> Delegation:
        found = await self.delegations.delegate("t", 1, self.wish)
        assert isinstance(found, Delegation)
        return found


def closing(cost: int, **more: Any) -> Closing:
    return Closing(
        **{"status": "completed", "used": {"cost": cost, "calls": 1}, "caps": {"pay": 1}, "as_of": 1, **more}
    )


@pytest.fixture
async def books() -> Books:
    books = Books()
    await books.begin()
    return books


async def test_a_child_is_paid_and_settled(books: Books) -> None:
    entry = await books.take()
    money = balance(books.head)
    assert (money.available["cost"], money.allocated["cost"], books.head["left"]) == (700, 300, {"pay": 1})
    await books.delegations.settle("t", entry, closing(120), "h")
    money = balance(books.head)
    assert (money.available["cost"], money.allocated["cost"], money.spent["cost"]) == (880, 0, 120)
    assert money.spent["calls"] == 1, "an account without a limit counts all the same"
    assert books.head["available"]["calls"] == UNLIMITED - 1
    assert (books.head["left"], books.head["entries"]) == ({"pay": 2}, 1)


async def test_the_same_child_is_paid_once(books: Books) -> None:
    first = await books.take()
    assert await books.take() == first
    assert len(delegations(books.head)) == 1


async def test_a_lost_answer_is_looked_up(books: Books) -> None:
    books.state.meet(Lost())
    entry = await books.take()
    assert [each.attempt for each in delegations(books.head)] == [entry.attempt]


async def test_what_was_taken_twice_for_one_child_goes_back_whole(books: Books) -> None:
    first = await books.take()
    other = replace(first, place="7", attempt="other", caps={})
    await books.state.apply("t", [taking("t", other, 1, books.clock.now())])
    assert balance(books.head).available["cost"] == 400
    await books.delegations.settle("t", first, closing(120), "h")
    await books.delegations.settle("t", other, closing(120), "h")
    money = balance(books.head)
    assert (money.available["cost"], money.allocated["cost"], money.spent["cost"]) == (880, 0, 120)
    assert books.head["entries"] == 1


@pytest.mark.parametrize("wider", [{"amounts": {"cost": 1_001}}, {"caps": {"pay": 3}}])
async def test_the_update_itself_refuses_what_is_not_there(books: Books, wider: dict[str, Any]) -> None:
    """A call may take the money between the look and the update."""
    entry = replace(books.wish, place="0", attempt="a", **wider)
    assert isinstance(await books.state.apply("t", [taking("t", entry, 1, books.clock.now())]), Refused)


async def test_settling_again_changes_nothing(books: Books) -> None:
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(120), "h")
    before = books.head
    await books.delegations.settle("t", entry, closing(50), "h")
    assert books.head == before


async def test_corrections_add_up_to_what_the_child_used(books: Books) -> None:
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(300), "h")
    for as_of, used in enumerate((200, 200, 90, 140), start=2):
        await books.delegations.correct("t", "t_child", closing(used, as_of=as_of), books.sealed, "h")
        assert balance(books.head).spent["cost"] == used
    assert books.head["entries"] == 5, "the settle and four corrections, for the second 200 is newer than the first"


async def test_a_correction_that_broke_off_is_posted_by_the_next(books: Books) -> None:
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(300), "h")
    record: Mapping[str, Any] = books.state.dump()["t"]["rec:t_child"]
    credit = {**record, "state": "credit", "use": {"cost": -100}}
    await books.state.apply("t", [Put("credit:t_child.0", {**credit, "as_of": 2})])  # and the host died
    assert await books.delegations.correct("t", "t_child", closing(200, as_of=2), books.sealed, "h")
    assert balance(books.head).spent["cost"] == 200
    assert not await books.delegations.correct("t", "t_child", closing(200, as_of=2), books.sealed, "h")


async def test_what_a_frozen_host_read_long_ago_corrects_nothing(books: Books) -> None:
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(300, as_of=3), "h")
    assert await books.delegations.correct("t", "t_child", closing(90, as_of=5), books.sealed, "h")
    assert not await books.delegations.correct("t", "t_child", closing(300, as_of=3), books.sealed, "h")
    assert not await books.delegations.correct("t", "t_child", closing(200, as_of=4), books.sealed, "h")
    assert balance(books.head).spent["cost"] == 90


async def test_a_newer_closing_that_says_the_same_makes_one_between_old(books: Books) -> None:
    """Two late settles that cancel; and a child that has only refused calls since does not fill its parent's journal."""
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(300, as_of=3), "h")
    assert await books.delegations.correct("t", "t_child", closing(300, as_of=5), books.sealed, "h")
    assert not await books.delegations.correct("t", "t_child", closing(90, as_of=4), books.sealed, "h")
    assert balance(books.head).spent["cost"] == 300
    for as_of in range(6, 6 + 2 * CORRECTIONS):
        await books.delegations.correct("t", "t_child", closing(300, as_of=as_of), books.sealed, "h")
    assert books.head["entries"] == 1 + CORRECTIONS
    assert await books.delegations.correct("t", "t_child", closing(200, as_of=999), books.sealed, "h")
    assert balance(books.head).spent["cost"] == 200


async def test_a_newer_closing_is_told_to_have_met_an_older_one(books: Books) -> None:
    """Whoever settles second must correct: the first one's record stands for ever."""
    entry = await books.take()
    assert await books.delegations.settle("t", entry, closing(300, as_of=3), "h")
    assert not await books.delegations.settle("t", entry, closing(90, as_of=4), "h")
    assert await books.delegations.settle("t", entry, closing(500, as_of=2), "h")
    assert balance(books.head).spent["cost"] == 300


async def test_two_corrections_at_once_come_to_the_newer_one(books: Books) -> None:
    entry = await books.take()
    await books.delegations.settle("t", entry, closing(300), "h")
    looked, calls = books.state.list, 0

    async def behind(*parts: Any) -> Any:
        nonlocal calls
        found, calls = await looked(*parts), calls + 1
        if calls == 1:  # another host's, in the moment after our look
            await books.delegations.correct("t", "t_child", closing(100, as_of=2), books.sealed, "h")
        return found

    books.state.list = behind  # type: ignore[method-assign]
    assert await books.delegations.correct("t", "t_child", closing(80, as_of=3), books.sealed, "h")
    assert balance(books.head).spent["cost"] == 80


async def test_a_head_that_forbids_it_is_given_for_the_guard(books: Books) -> None:
    assert isinstance(await books.delegations.delegate("t", 2, books.wish), Stale)
    books.clock.advance(601)
    assert isinstance(await books.delegations.delegate("t", 1, books.wish), Stale)
