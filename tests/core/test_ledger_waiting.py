"""Who waits for money that calls in flight hold, in which order, and what they are told at the end."""

import asyncio

import pytest

from buspass.calls.call import in_time
from buspass.errors import Problem
from buspass.ledger import Claim, Held, Ledger, Outcome, new_head
from buspass.ledger.waiting import AT_ONCE, QUICK, SLOW, Gate, Lines
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import MemoryState


class Books:
    def __init__(self, store=lambda _: MemoryState(), **limits):
        self.clock = FakeClock()
        self.state = store(self.clock)
        self.ledger, self.other = self.process(), self.process()
        head = new_head(limits=limits, expires_at=self.clock.now() + 600_000, max_calls={})
        self.state._items["t"] = {"head": head}
        self.order = []

    def process(self):
        return Ledger(self.state, self.clock, lambda task, key, record: dict(record))

    @property
    def head(self):
        return self.state._items["t"]["head"]

    async def hold(self, call, wait=5.0, ledger=None, lasts=20_000, **amounts):
        claim = Claim(
            task="t",
            call=call,
            kind="inference",
            name="m",
            amounts=amounts,
            fence=1,
            deadline=self.clock.now() + lasts,
        )
        held = await (ledger or self.ledger).hold(claim, wait)
        self.order.append(call)
        return held

    async def settle(self, held, ledger=None, **use):
        await (ledger or self.ledger).settle(held, Outcome(use=use), {})


class OneByOne(MemoryState):
    """A store that writes one item's changes one after the other, 50 ms each."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.turn, self.written = clock, asyncio.Lock(), 0

    async def apply(self, partition, operations):
        async with self.turn:
            await asyncio.sleep(0)
            self.clock.advance(0.05)
            self.written += 1
            return await super().apply(partition, operations)


SECONDS = 20
"""That what happens at once may take on a busy machine: less than where the next look is a minute away."""


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_first_come_first_served_even_where_a_later_one_would_fit():
    books = Books(tokens=100)
    held = await books.hold("first", tokens=90)
    waiting = []
    for call, tokens in (("b", 80), ("c", 10), ("d", 10)):
        waiting.append(asyncio.create_task(books.hold(call, tokens=tokens)))
        await turns()
    assert books.order == ["first"]  # 10 are there, but b was here before c
    await books.settle(held, tokens=0)
    await asyncio.gather(*waiting)
    assert books.order == ["first", "b", "c", "d"]


async def test_who_needs_nothing_that_others_wait_for_is_not_kept_waiting(monkeypatch):
    monkeypatch.setattr("buspass.ledger.waiting.LOOK_AGAIN", 60)  # nobody gets anything but by a settle
    books = Books(tokens=100, calls=10, tool_calls=2)
    held = await books.hold("first", tokens=90, calls=1)
    thought = asyncio.create_task(books.hold("thought", tokens=80, calls=1))
    await turns()
    acts = [await asyncio.wait_for(books.hold(f"act{n}", calls=1, tool_calls=1), SECONDS) for n in range(2)]
    third = asyncio.create_task(books.hold("act2", calls=1, tool_calls=1))
    fourth = asyncio.create_task(books.hold("act3", calls=1, tool_calls=1))
    other = asyncio.create_task(books.hold("small", tokens=10, calls=1))
    await turns()
    assert books.order == ["first", "act0", "act1"], "each waits behind those who lack what it needs"
    await books.settle(acts[0], calls=1)
    await asyncio.wait_for(third, SECONDS)
    assert books.order[3:] == ["act2"]
    await books.settle(held, calls=1)
    await asyncio.gather(thought, other)
    assert books.order[4:] == ["thought", "small"]
    await books.settle(acts[1])
    await asyncio.wait_for(fourth, SECONDS)


async def test_who_lacks_another_account_by_now_lets_others_by_and_keeps_others_back():
    books = Books(tokens=100, calls=3)
    tokens = await books.hold("a", tokens=100)
    calls = await books.hold("b", calls=2)
    both = asyncio.create_task(books.hold("both", tokens=100, calls=2))
    more = asyncio.create_task(books.hold("more", tokens=1))
    await turns()
    await books.settle(tokens)
    await books.settle(await asyncio.wait_for(more, SECONDS))  # `both` lacks calls alone by now
    with pytest.raises(Problem, match="budget_held"):
        await books.hold("one", wait=0.02, calls=1)  # there is one, but `both` was here before
    await books.settle(calls)
    assert isinstance(await asyncio.wait_for(both, SECONDS), Held)


async def test_a_settle_here_wakes_at_once(monkeypatch):
    monkeypatch.setattr("buspass.ledger.waiting.LOOK_AGAIN", 60)
    books = Books(tokens=100)
    held = await books.hold("a", tokens=100)
    waiting = asyncio.create_task(books.hold("b", wait=30, tokens=100))
    await turns()
    await books.settle(held, tokens=0)
    await asyncio.wait_for(waiting, SECONDS)


async def test_a_hold_given_back_wakes_too(monkeypatch):
    monkeypatch.setattr("buspass.ledger.waiting.LOOK_AGAIN", 60)
    books = Books(tokens=100)
    held = await books.hold("a", tokens=100)
    waiting = asyncio.create_task(books.hold("b", wait=30, tokens=100))
    await turns()
    await books.ledger.give_back(held)
    await asyncio.wait_for(waiting, SECONDS)


async def test_a_settle_in_another_process_is_seen_soon():
    books = Books(tokens=100)
    held = await books.hold("a", ledger=books.other, tokens=100)
    waiting = asyncio.create_task(books.hold("b", wait=60, tokens=100))
    await turns()
    await books.settle(held, books.other, tokens=0)
    await asyncio.wait_for(waiting, SECONDS)


async def test_what_did_not_come_free_in_time_is_held_not_gone():
    books = Books(tokens=100, cost=2_000_000)
    await books.hold("a", tokens=100)
    with pytest.raises(Problem, match="100 tokens is needed") as refused:
        await books.hold("b", wait=0.02, tokens=100)
    assert (refused.value.code, refused.value.retry_after) == ("budget_held", 1)
    with pytest.raises(Problem, match="budget_held"):
        await books.hold("c", wait=0, tokens=100)


async def test_money_is_gone_when_no_call_in_flight_could_bring_it_back():
    books = Books(tokens=100, cost=2_000_000)
    held = await books.hold("a", tokens=60)
    with pytest.raises(Problem, match="101 tokens and the task has 40 tokens left") as refused:
        await books.hold("b", tokens=101)
    assert refused.value.extra == {"limit": "tokens", "needed": 101, "left": 40}
    waiting = asyncio.create_task(books.hold("c", tokens=60))
    await turns()
    await books.settle(held, tokens=60)  # spent after all: now it is gone, and nobody waits on
    with pytest.raises(Problem, match="budget_exhausted"):
        await asyncio.wait_for(waiting, SECONDS)
    with pytest.raises(Problem, match=r"\$3.000000 and the task has \$2.000000 left") as refused:
        await books.hold("d", cost=3_000_000)
    assert refused.value.extra == {"limit": "cost", "needed": 3.0, "left": 2.0}


async def test_one_account_that_is_gone_decides_though_another_is_only_held():
    books = Books(tokens=100, calls=10)
    await books.hold("a", tokens=100)
    with pytest.raises(Problem, match="budget_exhausted"):
        await books.hold("b", tokens=100, calls=11)


async def test_sixty_four_calls_are_in_flight_at_most():
    books = Books()
    holds = [await books.hold(f"c{n}", calls=1) for n in range(64)]
    with pytest.raises(Problem, match="too_many_in_flight"):
        await books.hold("next", wait=0.02, calls=1)
    waiting = asyncio.create_task(books.hold("next", calls=1))
    await turns()
    await books.settle(holds[0], calls=1)
    assert isinstance(await asyncio.wait_for(waiting, SECONDS), Held)


async def test_who_gives_up_lets_the_next_one_look():
    books = Books(tokens=100)
    held = await books.hold("a", tokens=90)
    first = asyncio.create_task(books.hold("b", tokens=100))
    second = asyncio.create_task(books.hold("c", tokens=10))
    await turns()
    first.cancel()
    assert isinstance(await asyncio.wait_for(second, SECONDS), Held)
    await books.settle(held, tokens=0)
    assert not books.ledger._lines._lines


async def test_who_never_came_first_is_told_when_their_time_is_over():
    books = Books(tokens=100)
    await books.hold("a", tokens=100)
    first = asyncio.create_task(books.hold("b", wait=5, tokens=100))
    await turns()
    with pytest.raises(Problem, match="budget_held"):
        await books.hold("c", wait=0.02, tokens=1)
    first.cancel()
    await turns()
    assert not books.ledger._lines._lines


async def test_a_crowd_does_not_wait_in_the_store_until_its_holds_are_too_old_to_send():
    books = Books(OneByOne, calls=1_000)

    async def called(n):
        held = await books.hold(f"c{n}", wait=60, calls=1)
        in_time(held, books.clock.now())  # raises once it may not be sent any more
        return await books.ledger.settle(held, Outcome(use={"calls": 1}), {})

    heads = await asyncio.gather(*(called(n) for n in range(150)))
    assert heads[-1]["available"]["calls"] == 850
    assert not books.ledger._lines._gates


async def test_fewer_are_let_through_while_the_store_is_slow_and_more_again_when_it_is_quick():
    gate, inside, most = Gate(), 0, []

    async def through(took):
        nonlocal inside
        await gate.enter(60)
        inside += 1
        most.append(inside)
        await asyncio.sleep(0)
        inside -= 1
        gate.leave(took)

    await asyncio.gather(*(through(SLOW * 2) for _ in range(40)))
    assert max(most) == AT_ONCE
    most.clear()
    await asyncio.gather(*(through((SLOW + QUICK) / 2) for _ in range(40)))
    await asyncio.gather(*(through(None) for _ in range(40)))
    assert max(most) == 1
    await asyncio.gather(*(through(QUICK / 2) for _ in range(200)))
    assert max(most) == AT_ONCE


async def test_who_is_let_in_and_called_off_in_the_same_moment_keeps_no_place():
    gate = Gate()
    for _ in range(AT_ONCE):
        await gate.enter(1)
    waiting = [asyncio.create_task(gate.enter(60)) for _ in range(3)]
    await turns()
    waiting.append(asyncio.create_task(gate.enter(60)))
    await turns()
    waiting.pop(0).cancel()  # before a place is free, and not yet told
    gate.leave(None)
    waiting[0].cancel()  # in the moment in which it is let in
    waiting[2].cancel()
    await turns()
    assert waiting[0].cancelled()
    assert waiting[1].done()
    assert not waiting[1].cancelled()
    for _ in range(AT_ONCE):
        gate.leave(None)
    for _ in range(AT_ONCE):
        await asyncio.wait_for(gate.enter(1), 1)


async def test_a_gate_is_forgotten_whoever_leaves_it_last():
    lines = Lines()
    for _ in range(2):
        inside = [lines.at_once("t") for _ in range(AT_ONCE + 1)]
        assert inside.pop() is None
        with pytest.raises(Problem, match="nothing was sent"):
            await lines.enter("t", 0)
        waiting = [asyncio.create_task(lines.enter("t", 60)) for _ in range(2)]
        await turns()
        for each in inside:
            with each:
                pass
        waiting[0].cancel()  # in the moment in which it is let in
        await turns()
        assert lines._gates
        with await waiting[1]:
            pass
        assert not lines._gates
        inside = [lines.at_once("t") for _ in range(AT_ONCE)]
        alone = asyncio.create_task(lines.enter("t", 60))
        await turns()
        for each in inside:
            with each:
                pass
        alone.cancel()
        await turns()
        assert not lines._gates


async def test_who_is_short_keeps_back_those_whose_holds_are_not_written_yet(monkeypatch):
    monkeypatch.setattr("buspass.ledger.waiting.LOOK_AGAIN", 60)  # on a busy machine that comes again and again
    books = Books(OneByOne, tokens=100)
    held = await books.hold("first", tokens=90)
    before = books.state.written
    waiting = [asyncio.create_task(books.hold(f"c{n}", wait=60, tokens=80)) for n in range(40)]
    for _ in range(100):
        await asyncio.sleep(0)
    # those under way, and the first in line who looks again
    assert AT_ONCE <= books.state.written - before <= AT_ONCE + 4
    await books.settle(held, tokens=90)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {end.code for end in ends} == {"budget_exhausted"}


async def test_a_hold_that_is_never_written_is_told_at_its_deadline():
    books = Books(calls=1_000)
    stuck = asyncio.Event()

    async def apply(partition, operations):
        await stuck.wait()
        return await MemoryState.apply(books.state, partition, operations)

    books.state.apply = apply
    crowd = [asyncio.create_task(books.hold(f"c{n}", calls=1)) for n in range(AT_ONCE)]
    await turns()
    with pytest.raises(Problem, match="nothing was sent") as refused:
        await books.hold("late", lasts=20, calls=1)
    assert refused.value.code == "state_unavailable"
    stuck.set()
    assert all(isinstance(held, Held) for held in await asyncio.gather(*crowd))
