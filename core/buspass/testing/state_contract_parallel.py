"""The part of the state port's contract that many callers see together: concurrency, indexes, histories, closing.

Owns those sentences and the suite's fixtures. It is the base of `state_contract.StateContract`, which adapters
subclass.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import ClassVar

import pytest

from buspass.ports.state import (
    Absent,
    Applied,
    AtLeast,
    Delete,
    Equals,
    Item,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    at,
)
from buspass.testing import state_history
from buspass.testing.state_memory import MemoryState

BROKEN = "no operations|applied twice|at most once|allowed are|printable ASCII"


class ParallelContract:
    transactional: ClassVar[bool] = True
    histories: ClassVar[int] = 25
    lag: ClassVar[float] = 0.0
    """Seconds within which an index entry is found, and a withdrawn one no more."""

    @pytest.fixture
    async def state(self) -> AsyncIterator[State] | State:
        pytest.fail("override the fixture `state`")

    @pytest.fixture
    def partition(self) -> str:
        return f"task:{uuid.uuid4().hex}"

    # ── many callers ──

    async def test_parallel_decrements_are_exact(self, state: State, partition: str) -> None:
        await state.apply(partition, [Put("head", {"left": {"calls": 40}, "open": {}})])

        async def take(call: str) -> Applied | Refused:
            enough = AtLeast(at("left", "calls"), 1)
            update = Update(
                "head",
                (enough, Absent(at("open", call))),
                {at("left", "calls"): -1},
                {at("open", call): {"n": 1}},
            )
            return await state.apply(partition, [update])

        answers = await asyncio.gather(*(take(f"c{n}") for n in range(100)))
        assert Counter(type(answer) for answer in answers) == {Applied: 40, Refused: 60}
        head = await state.read(partition, "head")
        assert head is not None
        assert head["left"] == {"calls": 0}
        taken = {f"c{n}" for n, answer in enumerate(answers) if isinstance(answer, Applied)}
        assert isinstance(head["open"], dict)
        assert set(head["open"]) == taken

    async def test_of_equal_operations_one_is_applied(self, state: State, partition: str) -> None:
        puts = await asyncio.gather(*(state.apply(partition, [Put("k", {"by": n})]) for n in range(20)))
        (winner,) = [answer.item for answer in puts if isinstance(answer, Applied)]
        assert all(answer.item == winner for answer in puts)
        update = Update("k", (Absent(at("once")),), set={at("once"): True})
        updates = await asyncio.gather(*(state.apply(partition, [update]) for _ in range(20)))
        assert sum(isinstance(answer, Applied) for answer in updates) == 1
        deletes = await asyncio.gather(*(state.apply(partition, [Delete("k", ())]) for _ in range(20)))
        assert sum(isinstance(answer, Applied) for answer in deletes) == 1

    async def test_each_caller_gets_the_item_as_its_own_update_made_it(self, state: State, partition: str) -> None:
        await state.apply(partition, [Put("head", {"n": 0, "by": {}})])

        async def add(call: str) -> Item | None:
            update = Update("head", (Absent(at("by", call)),), {at("n"): 1}, {at("by", call): 1})
            return (await state.apply(partition, [update])).item

        items = await asyncio.gather(*(add(f"c{n}") for n in range(50)))
        assert sorted(item["n"] for item in items if item) == list(range(1, 51))  # type: ignore[type-var]  # integers
        assert all(item and f"c{n}" in item["by"] for n, item in enumerate(items))  # type: ignore[operator]  # a map

    async def test_what_was_answered_is_read(self, state: State, partition: str) -> None:
        async def write_and_read(key: str) -> None:
            await state.apply(partition, [Put(key, {"n": 0})])
            for n in range(10):
                update = Update(key, (Equals(at("n"), n),), {at("n"): 1})
                assert await state.apply(partition, [update]) == Applied({"n": n + 1})
                assert await state.read(partition, key) == {"n": n + 1}

        await asyncio.gather(*(write_and_read(f"k{n}") for n in range(8)))

    async def test_a_cancelled_caller_leaves_the_store_working(self, state: State, partition: str) -> None:
        task = asyncio.create_task(state.apply(partition, [Put("k", {"n": 1})]))
        await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:  # a store may be so quick that the call was through
            assert await task == Applied({"n": 1})
        await state.apply(partition, [Put("other", {"n": 2})])
        assert await state.read(partition, "k") in (None, {"n": 1})
        assert await state.read(partition, "other") == {"n": 2}

    # ── indexes ──

    async def found(self, state: State, shard: str, until: str, limit: int = 1000) -> Sequence[tuple[str, str]]:
        await asyncio.sleep(self.lag)
        return await state.find("due", shard, until, limit)

    async def test_entries_are_found_across_partitions_in_sort_order(self, state: State) -> None:
        shard, parts = uuid.uuid4().hex, [uuid.uuid4().hex for _ in range(4)]
        for part, sort in zip(parts, ("30", "10", "20", "10~"), strict=True):
            await state.apply(part, [Put("head", {"n": 1}, index={"due": (shard, sort)})])
        await state.apply(parts[0], [Put("other", {"n": 1}, index={"flow": (shard, "00"), "due": (shard + "x", "00")})])
        in_order = [(parts[n], "head") for n in (1, 3, 2, 0)]
        assert await self.found(state, shard, "99") == in_order
        assert await self.found(state, shard, "20") == in_order[:3]
        assert await self.found(state, shard, "99", 2) == in_order[:2]
        assert await self.found(state, shard, "0") == []
        assert await self.found(state, shard, "") == []

    async def test_an_update_moves_and_withdraws_the_entries_it_names(self, state: State, partition: str) -> None:
        shard = uuid.uuid4().hex
        index: dict[str, tuple[str, str] | None] = {"due": (shard, "10"), "flow": (shard, "a")}
        await state.apply(partition, [Put("head", {"n": 1}, index=index)])
        for n, entry in ((1, (shard, "20")), (2, None)):
            update = Update("head", (Equals(at("n"), n),), {at("n"): 1}, index={"due": entry})
            assert await state.apply(partition, [update]) == Applied({"n": n + 1})
            assert await self.found(state, shard, "19") == []
            assert await self.found(state, shard, "20") == ([(partition, "head")] if entry else [])
        plain = Update("head", (Equals(at("n"), 3),), {at("n"): 1})
        await state.apply(partition, [plain])
        assert await state.find("flow", shard, "z", 5) == [(partition, "head")]

    async def test_a_put_leaves_only_the_entries_it_names(self, state: State, partition: str) -> None:
        shard = uuid.uuid4().hex
        await state.apply(partition, [Put("head", {"n": 1}, index={"due": (shard, "1"), "flow": (shard, "1")})])
        put = Put("head", {"n": 2}, (Equals(at("n"), 1),), index={"flow": (shard, "2")})
        await state.apply(partition, [put])
        assert await self.found(state, shard, "9") == []
        assert await state.find("flow", shard, "1", 5) == []
        assert await state.find("flow", shard, "2", 5) == [(partition, "head")]

    async def test_a_refused_operation_leaves_no_entry(self, state: State, partition: str) -> None:
        shard = uuid.uuid4().hex
        await state.apply(partition, [Put("head", {"n": 1})])
        await state.apply(partition, [Put("head", {"n": 2}, index={"due": (shard, "1")})])
        update = Update("head", (Equals(at("n"), 2),), {at("n"): 1}, index={"due": (shard, "1")})
        await state.apply(partition, [update])
        assert await self.found(state, shard, "9") == []

    async def test_a_deleted_item_is_found_no_more(self, state: State, partition: str) -> None:
        shard = uuid.uuid4().hex
        await state.apply(partition, [Put("head", {"n": 1}, index={"due": (shard, "1")})])
        await state.apply(partition, [Delete("head", ())])
        assert await self.found(state, shard, "9") == []
        await state.apply(partition, [Put("head", {"n": 1})])
        assert await self.found(state, shard, "9") == []

    # ── histories ──

    async def test_random_histories_go_as_in_memory(self, state: State) -> None:
        kinds: Counter[str] = Counter()
        for seed in range(self.histories):
            random, memory = Random(seed), MemoryState(transactional=self.transactional)
            partition = f"history:{seed}:{uuid.uuid4().hex}"
            for step in range(40):
                drawn = state_history.operations(random)
                wanted = await state_history.outcome(memory, partition, drawn)
                got = await state_history.outcome(state, partition, drawn)
                assert got == wanted, f"seed {seed}, step {step}: {drawn}"
                kinds[wanted[0]] += 1
            for prefix, after, limit in (("", "", 10), ("rec:", "rec:1", 1)):
                wanted_list = await memory.list(partition, prefix, after, limit)
                got_list = await state.list(partition, prefix, after, limit)
                assert [(k, state_history.typed(i)) for k, i in got_list] == [
                    (k, state_history.typed(i)) for k, i in wanted_list
                ]
            await asyncio.sleep(self.lag)
            for name in ("due", "flow"):
                for shard in "01":
                    entries = await memory.find(name, shard, "99", 10)
                    mine = [e for e in await state.find(name, shard, "99", 1000) if e[0] == partition]
                    assert mine == entries
        assert min(kinds["applied"], kinds["refused"], kinds["misfit"]) > self.histories / 5

    # ── what is asked wrongly, and closing ──

    async def test_what_breaks_the_rules_is_rejected_and_not_applied(self, state: State, partition: str) -> None:
        twice = Update("k", (AtLeast(at("n"), 1),), {at("n"): 1})
        for operations in ([], [twice], [Put("new", {"x": 1}), Put("new", {"x": 2})], [Put("new", {"x": 1.5})]):  # type: ignore[dict-item]  # meant
            with pytest.raises(ValueError, match=BROKEN):
                await state.apply(partition, operations)
        for wrong in ("", "é", "a\nb", "x" * 256):
            with pytest.raises(ValueError, match=BROKEN):
                await state.apply(wrong, [Put("new", {"x": 1})])
            with pytest.raises(ValueError, match=BROKEN):
                await state.read(partition, wrong)
        for limit in (0, -1, 1001, True):
            with pytest.raises(ValueError, match=BROKEN):
                await state.list(partition, "", "", limit)
            with pytest.raises(ValueError, match=BROKEN):
                await state.find("due", "0", "9", limit)
        assert await state.list(partition, "", "", 10) == []

    async def test_a_closed_store_is_unavailable(self, state: State, partition: str) -> None:
        writes = [asyncio.create_task(state.apply(partition, [Put(f"k{n}", {"n": n})])) for n in range(20)]
        await asyncio.sleep(0)
        await asyncio.gather(state.close(), *writes)
        await state.close()
        for call in (
            state.read(partition, "k1"),
            state.list(partition, "", "", 1),
            state.find("due", "0", "9", 1),
            state.apply(partition, [Put("k", {"n": 1})]),
        ):
            with pytest.raises(Unavailable):
                await call
