"""Hold, settle, sweep and credit: what each does to a task's accounts, and which answer it gives."""

import pytest
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.ledger import Claim, Finished, Held, Ledger, Outcome, Stale, balance, new_head
from buspass.ledger.accounts import amounts, table, text, whole
from buspass.ledger.holds import entry_of, sweeping
from buspass.model import ACCOUNTS, UNLIMITED, due_shard
from buspass.ports.state import OutcomeUnknown, Put, Update
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Crash, Dies, Down, Late, Lost, MemoryState

LIMITS = {"tokens": 1000, "cost": 500, "calls": 10}
OVERDUE = 31
IN_FLIGHT = {
    "attempt": "x",
    "amounts": {},
    "cause": "",
    "deadline": 2**50,
    "state": "dispatching",
    "kind": "inference",
    "name": "m",
    "host": "h",
    "at": 0,
    "capped": False,
}


class Books:
    """One task's ledger over a store whose faults a test orders."""

    def __init__(self, *, transactional=True, max_calls=None):
        self.clock = FakeClock()
        self.state = MemoryState(transactional=transactional)
        self.ledger = Ledger(self.state, self.clock, lambda task, key, record: {**record, "mac": f"{task} {key}"})
        self.state._items["t"] = {
            "head": new_head(limits=LIMITS, expires_at=self.clock.now() + 600_000, max_calls=max_calls or {})
        }

    @property
    def head(self):
        return self.state._items["t"]["head"]

    def record(self, key):
        return self.state._items["t"].get(key)

    def claim(self, call="a", **more):
        about = {"kind": "inference", "name": "m", "amounts": {"tokens": 100, "cost": 50, "calls": 1}, "fence": 1}
        return Claim(task="t", call=call, **{**about, "deadline": self.clock.now() + 20_000, "host": "h", **more})

    def action(self, call="a", **more):
        return self.claim(call, kind="action", name="pay", amounts={"calls": 1, "tool_calls": 1}, **more)

    async def held(self, claim=None, wait=0.0):
        held = await self.ledger.hold(claim or self.claim(), wait)
        assert isinstance(held, Held), held
        return held

    async def settled(self, held, **use):
        return await self.ledger.settle(held, Outcome(use=use), {"at": held.at, "ended": self.clock.now()})

    def right(self):
        """Every account adds up, and what is spent is what the records say."""
        money = balance(self.head)
        summed = dict.fromkeys(ACCOUNTS, 0)
        for key, item in self.state._items["t"].items():
            if key.startswith(("rec:", "credit:")):
                for name, amount in item["use"].items():
                    summed[name] += amount
        assert money.spent == summed
        assert self.head["slots"] == 64 - len(self.head["open"])
        return money


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
def books(request):
    return Books(transactional=request.param)


# ── accounts ──


def test_a_new_head_has_every_map_and_accounts_without_a_limit_start_at_the_top():
    head = new_head(limits={"calls": 3}, expires_at=7, max_calls={"pay": 1}, index=("m",))
    assert head["available"] == dict.fromkeys(ACCOUNTS, UNLIMITED) | {"calls": 3}
    assert (head["left"], head["count"], head["slots"], head["expires_at"]) == ({"pay": 1}, {"m": 0}, 64, 7)
    money = balance(head)
    assert (money.limits, money.available) == ({"calls": 3}, {"calls": 3})
    assert not any({**money.spent, **money.held, **money.allocated}.values())


def test_what_no_item_of_ours_holds_is_not_read_as_something_else():
    for read, wrong in ((whole, "1"), (whole, True), (text, 1), (lambda item: table(item, "x"), {"x": 1})):
        with pytest.raises(TypeError):
            read(wrong)
    assert amounts({"x": {"a": 1}}, "x") == {"a": 1}


# ── hold and settle ──


async def test_a_hold_takes_and_a_settle_gives_back_what_was_not_used(books):
    held = await books.held()
    money = balance(books.head)
    assert money.available == {"tokens": 900, "cost": 450, "calls": 9}
    assert {name: n for name, n in money.held.items() if n} == {"tokens": 100, "cost": 50, "calls": 1}
    assert (books.head["slots"], books.head["version"], books.head["count"]) == (63, 1, {"m": 1})
    head = await books.settled(held, tokens=30, cost=20, calls=1)
    assert head == books.head
    assert books.right().available == {"tokens": 970, "cost": 480, "calls": 9}
    assert (head["slots"], head["open"], head["entries"]) == (64, {}, 1)
    assert books.record("rec:a")["mac"] == "t rec:a"


async def test_what_was_surely_not_sent_costs_nothing_and_counts_for_nothing(books):
    books.head["left"]["pay"] = 2
    held = await books.held(books.action(capped=True))
    assert (books.head["left"], books.head["running"]) == ({"pay": 1}, {"pay": 1})
    await books.ledger.settle(held, Outcome(use={}, sent=False, last="failed"), {})
    assert (books.head["left"], books.head["running"], books.head["count"]) == ({"pay": 2}, {"pay": 0}, {"pay": 0})
    assert books.record("rec:a")["status"] == "void"
    assert not any(books.right().spent.values())


async def test_a_used_cap_stays_used_and_no_money_is_waited_for(books):
    books.head["left"]["pay"] = 1
    await books.settled(await books.held(books.action("a", capped=True)), calls=1, tool_calls=1)
    assert isinstance(await books.ledger.hold(books.action("b", capped=True), 60), Stale)


async def test_an_action_leaves_its_last_outcome_and_its_facts(books):
    held = await books.held(books.action())
    await books.ledger.settle(held, Outcome(use={"calls": 1}, last="succeeded", kept='{"ok":true}'), {})
    head = books.head
    assert (head["last"], head["done"]) == ({"pay": "succeeded"}, {"pay": 1})
    assert head["kept"] == {"pay:1": {"facts": '{"ok":true}', "at": books.clock.now(), "turn": 1}}


async def test_a_hold_given_back_does_not_let_two_results_share_a_place(books):
    first, second = await books.held(books.action("a")), await books.held(books.action("b"))
    await books.ledger.settle(first, Outcome(use={}, sent=False), {})
    third = await books.held(books.action("c"))
    for held, said in ((second, "no"), (third, "yes")):
        await books.ledger.settle(held, Outcome(use={"calls": 1}, last="succeeded", kept=f'"{said}"'), {})
    assert sorted(entry["facts"] for entry in books.head["kept"].values()) == ['"no"', '"yes"']


async def test_the_seventeenth_result_takes_the_place_of_the_first(books):
    books.head["available"]["calls"] = 100
    for n in range(17):
        held = await books.held(books.action(f"a{n}"))
        await books.ledger.settle(held, Outcome(use={}, last="succeeded", kept=f"{n}"), {})
    assert {entry["facts"] for entry in books.head["kept"].values()} == {f"{n}" for n in range(1, 17)}


async def test_use_above_a_hold_is_charged_and_may_pass_the_limit(books):
    await books.settled(await books.held(), tokens=1500, cost=50, calls=1)
    assert books.right().available["tokens"] == -500


@pytest.mark.parametrize(
    "change",
    [
        {"status": "suspended"},
        {"fence": 2},
        {"expires_at": 0},
        {"open": {"a": IN_FLIGHT}},
    ],
)
async def test_a_head_that_forbids_the_hold_is_given_for_the_guard_to_say_why(books, change):
    books.head.update(change)
    books.head["available"]["tokens"] = 0  # money is not what it is refused for
    result = await books.ledger.hold(books.claim(), 60)
    assert isinstance(result, Stale)
    assert result.head == books.head


async def test_a_claim_on_a_version_holds_on_that_version_only(books):
    assert isinstance(await books.ledger.hold(books.claim(version=7), 0), Stale)
    assert isinstance(await books.ledger.hold(books.claim(version=0), 0), Held)


async def test_a_task_that_is_not_there_is_not_found(books):
    for call in (lambda c: books.ledger.hold(c, 0), lambda c: books.ledger.sweep(c.task)):
        with pytest.raises(Problem, match="not_found"):
            await call(replace(books.claim(), task="nowhere"))


# ── lost answers ──


async def test_a_hold_whose_answer_was_lost_stands(books):
    books.state.meet(Lost())
    held = await books.held()
    assert list(books.head["open"]) == ["a"]
    await books.settled(held, tokens=1)
    books.right()


async def test_a_hold_whose_answer_was_lost_does_not_take_a_later_ones_turn(books):
    apply, lost = books.state.apply, []

    async def raced(partition, operations):
        if not lost:
            lost.append(1)
            await apply(partition, operations)
            await books.held(books.claim("b"))
            raise OutcomeUnknown
        return await apply(partition, operations)

    books.state.apply = raced
    held = await books.held(books.claim("a"))
    assert held.turn == 3, "b has 2, and the first hold of a was given back"
    assert set(books.head["open"]) == {"a", "b"}
    assert books.head["count"]["m"] == 2
    books.right()


async def test_a_hold_whose_answer_is_lost_again_is_given_back(books):
    books.state.meet(Lost(), None, Lost())
    with pytest.raises(Problem, match="state_unavailable"):
        await books.ledger.hold(books.claim(), 0)
    assert not books.head["open"]
    assert books.right().held["tokens"] == 0


@pytest.mark.parametrize("written", [False, True])
async def test_a_hold_without_an_answer_says_what_the_store_said(books, written):
    apply, asked = books.state.apply, []

    async def full(partition, operations):
        asked.append(operations)
        result = await apply(partition, operations) if written else None
        if written and len(asked) % 2 == 0:  # what gives the hold back
            return result
        raise OutcomeUnknown(0, "the disk is full")

    books.state.apply = full
    with pytest.raises(Problem, match=r"answer was lost.*the disk is full"):
        await books.ledger.hold(books.claim(), 0)


@pytest.mark.parametrize("fault", [Down(), Late()])
async def test_a_hold_that_is_not_in_the_head_is_not_granted(books, fault):
    books.state.meet(fault)
    with pytest.raises(Problem, match="state_unavailable"):
        await books.ledger.hold(books.claim(), 0)


async def test_a_hold_that_arrives_late_is_swept(books):
    books.state.meet(Late())
    with pytest.raises(Problem, match="state_unavailable"):
        await books.ledger.hold(books.claim(), 0)
    books.state.deliver()
    books.clock.advance(OVERDUE)
    assert await books.ledger.sweep("t") == 1
    assert books.right().spent["tokens"] == 100


@pytest.mark.parametrize("fault", [Lost(0), Lost(1), Down(0), Down(1), Late(0), Late(1)])
async def test_a_settle_is_sent_again_until_it_is_answered(books, fault):
    held = await books.held()
    books.state.meet(fault)
    await books.settled(held, tokens=10, calls=1)
    assert not books.head["open"]
    books.state.deliver()
    assert books.right().spent["tokens"] == 10


async def test_a_store_that_stays_away_leaves_the_hold_charged(books, monkeypatch):
    async def at_once(seconds):
        books.clock.advance(seconds)

    held = await books.held()
    monkeypatch.setattr("buspass.ledger.ledger.asyncio.sleep", at_once)
    books.state.meet(*[Down()] * 6)
    with pytest.raises(Problem, match="state_unavailable"):
        await books.settled(held, tokens=10)
    assert balance(books.head).held["tokens"] == 100


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_crash_in_a_settle_is_finished_by_the_sweep(after):
    books = Books(transactional=False)
    held = await books.held()
    books.state.meet(Dies(after))
    with pytest.raises(Crash):
        await books.settled(held, tokens=10, calls=1)
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    assert not books.head["open"]
    assert books.right().spent["tokens"] == (100 if after == 0 else 10)


# ── sweep and credit ──


async def test_a_hold_is_swept_when_its_deadline_and_the_clocks_differences_are_over(books):
    await books.held()
    books.clock.advance(30)
    assert await books.ledger.sweep("t") == 0
    books.clock.advance(0.001)
    assert await books.ledger.sweep("t") == 1
    record = books.record("rec:a")
    assert (record["state"], record["status"], record["estimated"]) == ("expired", "unknown", True)
    assert books.right().spent["tokens"] == 100
    assert await books.ledger.sweep("t") == 0


async def test_a_hold_that_was_never_to_be_sent_costs_nothing(books):
    await books.held()
    books.head["open"]["a"]["state"] = "parked"
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    assert books.record("rec:a")["status"] == "void"
    assert not any(books.right().spent.values())


async def test_a_settle_after_the_sweep_is_a_credit_once(books):
    held = await books.held()
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    for _ in range(2):
        await books.settled(held, tokens=10, cost=50, calls=1)
    assert books.record("rec:a")["state"] == "expired"
    assert books.record("credit:a")["use"] == {"tokens": -90, "cost": 0, "calls": 0}
    assert books.head["late"] == {"a": books.clock.now()}
    assert books.right().spent == dict.fromkeys(ACCOUNTS, 0) | {"tokens": 10, "cost": 50, "calls": 1}


async def test_a_credit_that_broke_off_is_posted_by_the_next_reader():
    books = Books(transactional=False)
    held = await books.held()
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    books.state.meet(None, Dies(2))
    with pytest.raises(Crash):
        await books.settled(held, tokens=10, cost=50, calls=1)
    assert balance(books.head).spent["tokens"] == 100
    for _ in range(2):
        await books.ledger.finish_credits("t", books.head, frozenset())
    assert books.right().spent["tokens"] == 10


async def test_a_sealed_credit_was_posted_long_ago(books):
    books.state._items["t"]["credit:a"] = {"use": {"tokens": -5}}
    await books.ledger.finish_credits("t", books.head, frozenset({"credit:a"}))
    assert balance(books.head).spent["tokens"] == 0


async def test_an_overdue_hold_stands_in_nobodys_way(books):
    await books.held(books.claim(amounts={"tokens": 600, "calls": 1}))
    books.clock.advance(OVERDUE)
    with pytest.raises(Problem, match="budget_exhausted"):  # swept, and charged in full
        await books.ledger.hold(books.claim("b", amounts={"tokens": 600, "calls": 1}), 60)
    assert books.right().spent["tokens"] == 600


async def test_a_settled_call_ends_what_others_left(books):
    await books.held()
    late = await books.held(books.claim("b", deadline=books.clock.now() + 90_000))
    books.clock.advance(OVERDUE)
    head = await books.settled(late, tokens=1)
    assert not head["open"]
    assert books.right().spent["tokens"] == 101


# ── keyed twins ──


async def test_a_key_that_was_finished_between_recall_and_hold_is_given_back(books):
    first = await books.held(books.claim("k", keyed=True))
    await books.settled(first, tokens=10)
    before = balance(books.head)
    result = await books.ledger.hold(books.claim("k", keyed=True), 0)
    assert result == Finished(books.record("rec:k"))
    assert balance(books.head) == before
    assert (books.head["entries"], books.head["count"]) == (1, {"m": 1})


async def test_a_key_in_flight_is_not_held_twice(books):
    await books.held(books.claim("k", keyed=True))
    assert isinstance(await books.ledger.hold(books.claim("k", keyed=True), 0), Stale)


async def test_a_second_hold_on_a_finished_key_is_swept_without_a_charge_or_a_count(books):
    first = await books.held(books.claim("k"))
    await books.settled(first, tokens=10)
    await books.held(books.claim("k"))  # its process died before it looked again
    assert await books.ledger.sweep("t") == 0
    books.clock.advance(OVERDUE)
    assert await books.ledger.sweep("t") == 1
    assert books.head["entries"] == 1
    assert books.right().spent["tokens"] == 10


async def test_a_hold_swept_before_it_looked_again_is_not_sent(books):
    await books.held(books.claim("k"))
    attempt = books.head["open"]["k"]["attempt"]
    books.head["open"].pop("k")
    books.head["slots"] += 1
    books.clock.random = lambda length: bytes.fromhex(attempt)
    await books.state.apply("t", [Put("rec:k", {"attempt": attempt, "use": {}})])
    with pytest.raises(Problem, match="deadline_exceeded"):
        await books.ledger.hold(books.claim("k", keyed=True), 0)


async def test_a_cap_that_is_used_up_is_said_before_money_that_is_gone(books):
    books.head["left"]["pay"] = 0
    books.head["available"]["calls"] = 0
    assert isinstance(await books.ledger.hold(books.action(capped=True), 60), Stale)


@pytest.mark.parametrize("fault", [Lost(0), Down(1), Lost(1), Late(1)])
async def test_a_credit_is_sent_again_until_it_is_answered(books, fault):
    held = await books.held()
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    books.state.meet(None, fault)
    await books.settled(held, tokens=10)
    books.state.deliver()
    assert books.right().spent["tokens"] == 10


async def test_a_sweep_of_others_that_fails_does_not_spoil_a_settled_calls_answer(books):
    await books.held()
    late = await books.held(books.claim("b", deadline=books.clock.now() + 90_000))
    books.clock.advance(OVERDUE)
    read = books.state.read

    async def away(partition, key):
        if key == "rec:a":
            books.state.down = True
        return await read(partition, key)

    books.state.read = away
    head = await books.settled(late, tokens=1)
    assert list(head["open"]) == ["a"]


# ── hosts that were frozen between two steps ──


async def test_a_frozen_sweeper_writes_no_record_for_a_hold_that_was_given_back(books):
    """Where a store applies one operation at a time, that record would stand, and nothing in the head with it."""
    held, look = await books.held(), books.head
    await books.ledger.give_back(held)
    books.clock.advance(OVERDUE)
    assert await books.ledger.sweep("t", look) == 0
    assert books.record("rec:a") is None
    assert not any(books.right().spent.values())


async def test_a_hold_that_a_sweep_ends_is_not_given_back(books):
    held, apply = await books.held(), books.state.apply
    books.clock.advance(OVERDUE)

    async def meanwhile(partition, operations):
        answer = await apply(partition, operations)
        if isinstance(operations[0], Update):
            books.state.apply = apply
            await books.ledger.give_back(held)
        return answer

    books.state.apply = meanwhile
    assert await books.ledger.sweep("t") == 1
    assert books.record("rec:a")["state"] == "expired"
    assert books.right().spent["tokens"] == 100


async def test_a_hold_whose_answer_was_lost_and_that_was_swept_is_not_taken_again(books):
    """The sweep's record is this call's: a second hold would be sent, and its use never be charged."""
    books.state.meet(Lost())
    read = books.state.read

    async def slowly(partition, key):
        item = await read(partition, key)
        books.state.read = read
        books.clock.advance(OVERDUE)
        await books.ledger.sweep("t")
        return item

    books.state.read = slowly
    with pytest.raises(Problem, match="state_unavailable"):
        await books.ledger.hold(books.claim(), 0)
    assert not books.head["open"]
    assert books.right().spent["tokens"] == 100


async def test_a_hold_whose_answer_was_lost_and_that_a_sweep_has_begun_to_end_is_not_given_back(books):
    books.state.meet(Lost())
    read = books.state.read

    async def slowly(partition, key):
        books.state.read = read
        entry = entry_of("a", books.head["open"]["a"])
        await books.state.apply("t", [sweeping(entry, books.head["open"]["a"])])
        return await read(partition, key)

    books.state.read = slowly
    with pytest.raises(Problem, match="state_unavailable"):
        await books.ledger.hold(books.claim(), 0)
    books.clock.advance(OVERDUE)
    assert await books.ledger.sweep("t") == 1
    assert books.right().spent["tokens"] == 100


async def test_a_timer_is_told_of_a_correction(books):
    """Its task may have ended, and given back by the old sum; who corrects may die before that is told above."""
    held = await books.held()
    books.clock.advance(OVERDUE)
    await books.ledger.sweep("t")
    await books.settled(held, tokens=10, cost=50, calls=1)
    soon = f"{books.clock.now() + 60_000:016d}"
    assert await books.state.find("due", due_shard("t"), soon, 10) == [("t", "head")]
