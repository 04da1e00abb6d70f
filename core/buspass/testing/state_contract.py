"""The contract suite of the state port: an adapter passes it, or is none.

Owns what every store must do alike, in sentences. Refuses to know a store: subclass `StateContract`, override
the fixture `state` (a fresh or a shared store: partitions are new each time), and say whether it is
`transactional`. What `check` rejects is the same for all and is tested with it.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from buspass.ports.forms import VARIES, Form, Given
from buspass.ports.state import (
    Absent,
    Applied,
    AtLeast,
    Delete,
    Equals,
    Misfit,
    Operation,
    Prepared,
    Present,
    Put,
    Refused,
    State,
    Update,
    at,
)
from buspass.testing import state_history
from buspass.testing.state_contract_parallel import ParallelContract

HEAD: dict[str, Any] = {
    "status": "open",
    "version": 1,
    "available": {"tokens": 100, "cost": 5},
    "open": {"c1": {"attempt": "a1", "amounts": {"tokens": 3}, "sent": True}},
    "empty": {},
    "nothing": None,
}
BUMP: dict[str, Any] = {"require": (Equals(at("version"), 1),), "add": {at("version"): 1}}


def refused(answer: Applied | Refused, index: int = 0) -> bool:
    return isinstance(answer, Refused) and answer.index == index


class StateContract(ParallelContract):
    @pytest.fixture
    async def head(self, state: State, partition: str) -> dict[str, Any]:
        assert await state.apply(partition, [Put("head", HEAD)]) == Applied(HEAD)
        return HEAD

    # ── items and values ──

    async def test_what_is_not_there_reads_as_none(self, state: State, partition: str) -> None:
        assert await state.read(partition, "head") is None

    async def test_an_item_comes_back_as_it_was_put(self, state: State, partition: str) -> None:
        item: dict[str, Any] = {
            "text": "é ☃ 😀 \x00 \" ' \\ {} /",
            "whole": [2**53 - 1, 1 - 2**53, 0, 10**14 + 1],
            "truth": [True, False, None, "", "5"],
            "lists": [[], [1, [2, {}]], {"any name, é": {}}],
            "map": {"a.b": {"any name": 1}, "c-d:e_f": {}, "none": None},
        }
        await state.apply(partition, [Put("k", item)])
        assert state_history.typed(await state.read(partition, "k")) == state_history.typed(item)

    async def test_keys_and_partitions_are_any_printable_text(self, state: State) -> None:
        for name in ("a/b", "a?b#c", "{x}", "'quoted\"", "%41", "back\\slash", " ", "~", "A", "a", "x" * 255):
            partition = uuid.uuid4().hex + name[:200]
            await state.apply(partition, [Put(name, {"name": name})])
            assert await state.read(partition, name) == {"name": name}
            assert await state.list(partition, name[:1], "", 5) == [(name, {"name": name})]

    @pytest.mark.usefixtures("head")
    async def test_partitions_do_not_see_each_other(self, state: State, partition: str) -> None:
        assert await state.read(partition + "2", "head") is None
        assert await state.list(partition + "2", "", "", 10) == []

    # ── put and delete ──

    async def test_a_put_without_condition_needs_an_empty_place(self, state: State, partition: str) -> None:
        assert await state.apply(partition, [Put("k", {"n": 1})]) == Applied({"n": 1})
        assert await state.apply(partition, [Put("k", {"n": 2})]) == Refused(0, {"n": 1})
        assert await state.read(partition, "k") == {"n": 1}

    async def test_a_put_with_a_condition_replaces_the_whole_item(self, state: State, partition: str) -> None:
        await state.apply(partition, [Put("k", {"v": 1, "old": {"deep": 1}})])
        put = Put("k", {"v": 2, "new": True}, (Equals(at("v"), 1),))
        assert await state.apply(partition, [put]) == Applied({"v": 2, "new": True})
        assert await state.apply(partition, [put]) == Refused(0, {"v": 2, "new": True})

    async def test_a_put_with_a_condition_never_creates(self, state: State, partition: str) -> None:
        put = Put("k", {"v": 2}, (Absent(at("v")),))
        assert await state.apply(partition, [put]) == Refused(0, None)

    async def test_a_delete_needs_its_item_and_its_conditions(self, state: State, partition: str) -> None:
        assert await state.apply(partition, [Delete("k", ())]) == Refused(0, None)
        await state.apply(partition, [Put("k", {"n": 1})])
        assert await state.apply(partition, [Delete("k", (Equals(at("n"), 2),))]) == Refused(0, {"n": 1})
        assert await state.apply(partition, [Delete("k", (Equals(at("n"), 1),))]) == Applied(None)
        assert await state.read(partition, "k") is None

    # ── conditions ──

    @pytest.mark.parametrize(
        ("condition", "true"),
        [
            (Present(at("status")), True),
            (Present(at("nothing")), True),
            (Present(at("empty")), True),
            (Present(at("open", "c1", "sent")), True),
            (Present(at("open", "c2")), False),
            (Present(at("status", "x")), False),
            (Absent(at("open", "c2", "attempt")), True),
            (Absent(at("nothing")), False),
            (Absent(at("nothing", "x")), True),
            (Absent(at("available", "cost")), False),
            (Equals(at("open", "c1", "attempt"), "a1"), True),
            (Equals(at("open", "c1", "attempt"), "a2"), False),
            (Equals(at("open", "c1", "sent"), True), True),
            (Equals(at("open", "c1", "sent"), 1), False),
            (Equals(at("version"), True), False),
            (Equals(at("version"), "1"), False),
            (Equals(at("none"), ""), False),
            (AtLeast(at("available", "tokens"), 100), True),
            (AtLeast(at("available", "tokens"), 101), False),
            (AtLeast(at("available", "tokens"), -1), True),
            (AtLeast(at("available", "none"), -1), False),
            (AtLeast(at("open", "c1", "sent"), 0), False),
            (AtLeast(at("status"), 0), False),
        ],
    )
    async def test_conditions(self, state: State, partition: str, head: Any, condition: Any, true: bool) -> None:
        answer = await state.apply(partition, [Update("head", (condition, *BUMP["require"]), BUMP["add"])])
        assert answer == (Applied(head | {"version": 2}) if true else Refused(0, head))

    async def test_all_conditions_must_hold(self, state: State, partition: str, head: Any) -> None:
        require = (*BUMP["require"], Present(at("status")), Absent(at("status")))
        assert await state.apply(partition, [Update("head", require, BUMP["add"])]) == Refused(0, head)

    # ── updates ──

    async def test_an_update_never_creates_an_item(self, state: State, partition: str) -> None:
        update = Update("head", (Absent(at("x")),), set={at("x"): 1})
        assert await state.apply(partition, [update]) == Refused(0, None)
        assert await state.read(partition, "head") is None

    @pytest.mark.usefixtures("head")
    async def test_an_update_adds_sets_and_removes(self, state: State, partition: str) -> None:
        update = Update(
            "head",
            (Equals(at("open", "c1", "attempt"), "a1"),),
            add={at("available", "tokens"): -30, at("available", "new"): 7, at("version"): 1, at("count"): 1},
            set={at("status"): "closed", at("empty", "c2"): {"deep": {"er": [1]}}, at("nothing"): [None]},
            remove=(at("open", "c1"),),
        )
        after: dict[str, Any] = {
            "status": "closed",
            "version": 2,
            "available": {"tokens": 70, "cost": 5, "new": 7},
            "open": {},
            "empty": {"c2": {"deep": {"er": [1]}}},
            "nothing": [None],
            "count": 1,
        }
        assert await state.apply(partition, [update]) == Applied(after)
        assert await state.read(partition, "head") == after
        assert await state.apply(partition, [update]) == Refused(0, after)

    async def test_a_prepared_operation_is_its_update(self, state: State, partition: str, head: Any) -> None:
        hold = Form(
            Update(
                "head",
                (Absent(("open", VARIES)), AtLeast(("available", "tokens"), Given(0)), Equals(("version",), Given(1))),
                {("available", "tokens"): -Given(0), ("version",): 1},
                {("open", VARIES): Given(2)},
            )
        ).of("c2", (40, 1, {"attempt": "a2", "amounts": {"tokens": 40}}))
        assert isinstance(hold, Prepared)
        held = await state.apply(partition, [Put("rec:c2", {"v": 1}), hold])
        entry = {"attempt": "a2", "amounts": {"tokens": 40}}
        expected = {
            **head,
            "version": 2,
            "available": {"tokens": 60, "cost": 5},
            "open": {**head["open"], "c2": entry},
        }
        assert held == Applied(expected)
        assert refused(await state.apply(partition, [hold]))
        end = Form(
            Update(
                "head",
                (Equals(("open", VARIES, "attempt"), Given(0)),),
                {("available", "tokens"): Given(1)},
                remove=(("open", VARIES),),
            )
        )
        assert refused(await state.apply(partition, [end.of("c2", ("a1", 40))]))
        ended = {**head, "version": 2}
        assert await state.apply(partition, [end.of("c2", ("a2", 40))]) == Applied(ended)
        assert await state.read(partition, "head") == ended
        assert refused(await state.apply(partition, [end.of("c2", ("a2", 40))]))

    async def test_a_whole_map_can_be_removed(self, state: State, partition: str, head: Any) -> None:
        await state.apply(partition, [Update("head", (Present(at("open", "c1")),), remove=(at("open"),))])
        assert await state.read(partition, "head") == {k: v for k, v in head.items() if k != "open"}

    async def test_a_map_can_give_way_to_a_leaf(self, state: State, partition: str, head: Any) -> None:
        update = Update("head", BUMP["require"], BUMP["add"], {at("open"): 0})
        assert await state.apply(partition, [update]) == Applied(head | {"version": 2, "open": 0})

    @pytest.mark.usefixtures("head")
    async def test_accounts_may_go_below_zero(self, state: State, partition: str) -> None:
        add = {at("version"): 1, at("available", "cost"): -9}
        answer = await state.apply(partition, [Update("head", BUMP["require"], add)])
        assert answer.item is not None
        assert answer.item["available"] == {"tokens": 100, "cost": -4}

    @pytest.mark.parametrize(
        "change",
        [
            {"add": {at("missing", "x"): 1}},
            {"set": {at("missing", "x"): 1}},
            {"set": {at("status", "x"): 1}},
            {"add": {at("nothing", "x"): 1}},
            {"add": {at("status"): 1}},
            {"add": {at("nothing"): 1}},
            {"add": {at("available"): 1}},
            {"add": {at("available", "tokens"): 2**53 - 1}},
        ],
        ids=str,
    )
    async def test_a_change_that_does_not_fit_is_an_error_and_changes_nothing(
        self, state: State, partition: str, head: Any, change: Any
    ) -> None:
        update = Update(
            "head", (Absent(at("open", "c9")),), change.get("add", {}), {at("open", "c9"): 1} | change.get("set", {})
        )
        with pytest.raises(Misfit) as caught:
            await state.apply(partition, [update])
        assert caught.value.index == 0
        assert await state.read(partition, "head") == head

    # ── several operations ──

    @pytest.mark.usefixtures("head")
    async def test_all_operations_of_an_apply_stand(self, state: State, partition: str) -> None:
        operations: list[Operation] = [Put("rec:1", {"n": 1}), Delete("head", ()), Put("rec:2", {"n": 2})]
        assert await state.apply(partition, operations) == Applied({"n": 2})
        assert await state.list(partition, "", "", 10) == [("rec:1", {"n": 1}), ("rec:2", {"n": 2})]

    async def test_a_refusal_stops_an_apply_and_gives_that_item(self, state: State, partition: str, head: Any) -> None:
        stale = Update("head", (Equals(at("version"), 7),), {at("version"): 1})
        answer = await state.apply(partition, [Put("rec:1", {"n": 1}), stale, Put("rec:2", {"n": 2})])
        assert answer == Refused(1, head)
        assert await state.read(partition, "head") == head
        assert await state.read(partition, "rec:2") is None
        assert await state.read(partition, "rec:1") == (None if self.transactional else {"n": 1})

    @pytest.mark.usefixtures("head")
    async def test_repeated_after_a_refusal_an_apply_can_be_finished(self, state: State, partition: str) -> None:
        """A prefix that stands meets its own put; the caller sees it as its own and goes on behind it."""
        record: dict[str, Any] = {"attempt": "a1"}
        stale = Update("head", (Equals(at("version"), 7),), {at("version"): 1})
        closing = Update("head", (Present(at("open", "c1")),), {at("version"): 1}, remove=(at("open", "c1"),))
        assert refused(await state.apply(partition, [Put("rec:1", record), stale]), 1)
        answer = await state.apply(partition, [Put("rec:1", record), closing])
        if isinstance(answer, Refused):
            assert answer == Refused(0, record)
            answer = await state.apply(partition, [closing])
        assert answer.item is not None
        assert answer.item["open"] == {}
        assert await state.read(partition, "rec:1") == record

    # ── order ──

    async def test_list_pages_in_key_order(self, state: State, partition: str) -> None:
        keys = ["rec:2", "rec:10", "rec:1", "rec:", "rec:~", "rec:A", "rec:a", "head", "red", "rec"]
        for key in keys:
            await state.apply(partition, [Put(key, {"k": key})])
        wanted = sorted(key for key in keys if key.startswith("rec:"))
        got: list[str] = []
        while page := await state.list(partition, "rec:", got[-1] if got else "", 2):
            assert all(item == {"k": key} for key, item in page)
            got += [key for key, _ in page]
        assert got == wanted
        assert [key for key, _ in await state.list(partition, "", "", 1000)] == sorted(keys)
        assert [key for key, _ in await state.list(partition, "", "rec:a", 1000)] == ["rec:~", "red"]
        assert await state.list(partition, "rec:", "red", 5) == []
        assert [key for key, _ in await state.list(partition, "rec:", "a", 1)] == ["rec:"]

    async def test_a_page_may_be_a_thousand_items(self, state: State, partition: str) -> None:
        for first in range(0, 1010, 101):
            await asyncio.gather(
                *(state.apply(partition, [Put(f"r{n:04}", {"n": n})]) for n in range(first, first + 101))
            )
        page = await state.list(partition, "r", "", 1000)
        assert [item["n"] for _, item in page] == list(range(1000))
        assert len(await state.list(partition, "r", page[-1][0], 1000)) == 10
