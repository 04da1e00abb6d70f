"""Tasks begin once, change status by one table, and lose nothing when an answer is lost."""

import asyncio

import pytest
from msgspec.structs import replace

from buspass.errors import Problem
from buspass.journal import Journal
from buspass.ledger import new_head
from buspass.model import Principal, Subject
from buspass.ports.state import OutcomeUnknown
from buspass.tasks import TRANSITIONS, Grant, Task, Tasks
from buspass.tasks.store import COPIES
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Crash, Dies, Down, Late, Lost, MemoryState

STATUSES = ("open", "suspended", "completed", "killed", "expired")
VERBS = ("resume", "suspend", "complete", "kill", "expire")
RECORD = {"kind": "lifecycle", "at": 1, "host": "h"}


class House:
    def __init__(self, *, transactional=True):
        self.clock, self.state = FakeClock(), MemoryState(transactional=transactional)
        self.journal = Journal(b"k" * 32)
        self.tasks = self.host()

    def host(self):
        return Tasks(self.state, self.clock, self.journal.stamp, self.journal.genuine)

    def task(self, name="t", **more):
        about = Task(
            id=name, workflow="w", revision="r1", host="h", depth=2, payloads="full", fingerprint="f1",
            principal=Principal(identity="i", issuer="https://i", agent="a", claims={"team": "x", "n": 1.5}),
            subject=Subject(type="customer", id="C-1", proof="token"), metadata={"x": 1.5, "y": "é"},
            grant=Grant(models=("m",), tools=("look", "pay")), wall=600.5, wrapped_key="wrapped-1",
            created_at=self.clock.now(), deadline=self.clock.now() + 600_500,
        )  # fmt: skip
        return replace(about, **more)

    async def begin(self, task=None, host=None, **limits):
        task = task or self.task()
        head = new_head(limits=limits or {"calls": 5}, expires_at=task.deadline, max_calls={})
        return await (host or self.tasks).begin(task, head, RECORD)

    async def listed(self):
        return [task for task, _ in (await self.tasks.listing("", 100, 10))[0]]

    @property
    def items(self):
        return self.state._items["t"]

    @property
    def head(self):
        return self.items["head"]

    @property
    def events(self):
        return [key for key in self.items if key.startswith("rec:")]


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
def house(request):
    return House(transactional=request.param)


# ── begin ──


async def test_a_task_is_the_same_at_every_host(house):
    task = house.task()
    assert await house.begin(task) == task
    for host in (house.tasks, house.host()):
        assert (await host.look("t")).task == task
    bare = house.task("u", subject=None, metadata={}, level=1)
    await house.begin(bare)
    assert (await house.host().look("u")).task == bare


ALTERATIONS = {
    "a wider grant": {"tools": ["look", "pay", "wire"]},
    "another subject": {"subject": {"type": "customer", "id": "C-2", "proof": "token"}},
    "another agent": {"agent": "b"},
    "a later end": {"deadline": 2**50},
    "nobody's signature": {"mac": "0" * 32},
}


@pytest.mark.parametrize("altered", ALTERATIONS.values(), ids=ALTERATIONS)
async def test_who_can_write_to_the_store_widens_no_task(house, altered):
    await house.begin()
    house.items["task"] = {**house.items["task"], **altered}
    with pytest.raises(Problem, match="internal: the task's facts in the store were altered"):
        await house.host().look("t")
    assert (await house.tasks.look("t")).task == house.task(), "who knew it goes by what it knew"


async def test_the_facts_of_one_task_are_not_those_of_another(house):
    await house.begin()
    await house.begin(house.task("u", subject=Subject(type="customer", id="C-2", proof="token")))
    house.items["task"] = house.state._items["u"]["task"]
    with pytest.raises(Problem, match="internal"):
        await house.host().look("t")


async def test_a_task_begun_again_is_the_one_that_stands(house):
    first = await house.begin()
    second = await house.begin(house.task(wrapped_key="wrapped-2", created_at=1), host=house.host())
    assert second == first
    with pytest.raises(Problem, match="idempotency_mismatch"):
        await house.begin(house.task(fingerprint="f2"))


async def test_a_task_is_listed_once_however_often_its_beginning_is_repeated(house):
    await house.begin()
    for seconds in (1, 1, 86_400):
        house.clock.advance(seconds)
        await house.begin(house.task(), host=house.host())
    assert await house.listed() == ["t"]


@pytest.mark.parametrize("faults", [(Dies(0),), (Dies(1),), (None, Dies(0)), (None, Dies(1))])
async def test_a_beginning_that_crashed_early_is_listed_once(faults):
    house = House(transactional=False)
    house.state.meet(*faults)
    with pytest.raises(Crash):
        await house.begin()
    house.clock.advance(86_400)
    await house.begin(host=house.host())
    assert await house.listed() == ["t"]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_beginning_that_broke_off_is_taken_up_with_what_stands(after):
    house = House(transactional=False)
    house.state.meet(None, None, Dies(after))
    with pytest.raises(Crash):
        await house.begin(calls=5)
    house.clock.advance(86_400)
    host = house.host()
    begun = await house.begin(house.task(wrapped_key="wrapped-2", revision="r2"), host=host, calls=9, tokens=7)
    stored = (await house.host().look("t")).task
    assert begun == stored == (await host.look("t")).task
    assert (stored.wrapped_key, stored.revision) == ("wrapped-1" if after > 0 else "wrapped-2", "r1")
    assert await house.listed() == ["t"], "it is listed once, under the day of its first beginning"
    assert house.head["limits"] == house.items["rec:e0"]["limits"]
    assert house.head["limits"] == ({"calls": 5} if after > 1 else {"calls": 9, "tokens": 7})
    assert house.head["available"]["calls"] == house.head["limits"]["calls"]
    assert house.head["available"]["tokens"] == house.head["limits"].get("tokens", 2**53 - 1)


async def test_a_broken_beginning_of_another_request_is_not_taken_up():
    house = House(transactional=False)
    house.state.meet(None, Dies(2))
    with pytest.raises(Crash):
        await house.begin()
    with pytest.raises(Problem, match="idempotency_mismatch"):
        await house.begin(house.task(fingerprint="f2"))
    assert "head" not in house.items


@pytest.mark.parametrize("fault", [Lost(3), Late(0)])
async def test_a_beginning_whose_answer_was_lost_is_begun(house, fault):
    house.state.meet(None, fault)
    assert await house.begin() == house.task()
    house.state.deliver()
    assert house.head["entries"] == 1


async def test_a_store_that_is_away_is_said(house):
    house.state.meet(Down())
    with pytest.raises(Problem, match="state_unavailable"):
        await house.begin()
    house.state.meet(None, *[Late()] * 3)
    with pytest.raises(Problem, match="state_unavailable"):
        await house.begin()
    house.state.down = True
    for call in (house.tasks.look("t"), house.tasks.listing("", 5, 1)):
        with pytest.raises(Problem, match="state_unavailable"):
            await call


# ── look and copies ──


async def test_a_host_reads_a_task_once_and_then_keeps_its_copy(house):
    await house.begin()
    host, count = house.host(), house.state.count
    count.reset()
    assert (await host.view("t")).fresh
    assert count.reads == 3
    assert not (await host.view("t")).fresh
    assert count.reads == 3
    await host.look("t")  # the facts never change: only the head is read again
    assert count.reads == 4


async def test_an_older_head_does_not_take_the_place_of_a_newer_one(house):
    await house.begin()
    head = dict(house.head)
    house.tasks.saw("t", {**head, "version": 5})
    house.tasks.saw("t", {**head, "version": 4})
    house.tasks.saw("t", {"not": "a head"})
    house.tasks.saw("unknown", head)
    assert house.tasks.seen("t").head["version"] == 5
    assert house.tasks.seen("unknown") is None


async def test_a_host_keeps_as_many_copies_as_it_says(house):
    await house.begin()
    view = house.tasks.seen("t")
    for n in range(COPIES):
        house.tasks._keep(replace(view, task=replace(view.task, id=f"x{n}")))
    assert house.tasks.seen("t") is None
    assert house.tasks.seen("x0") is not None


async def test_what_is_not_there_is_not_found(house):
    for call in (
        house.tasks.look("t"),
        house.tasks.change("t", "kill", RECORD),
        house.tasks.note("t", "a", RECORD, 1),
        house.tasks.point("t", 1, "e", None),
    ):
        with pytest.raises(Problem, match="not_found"):
            await call


async def test_a_long_gap_is_looked_through_in_parts(house):
    await house.begin()
    house.clock.advance(86_400 * 250)
    found, after, looks = [], "", 0
    while after is not None:
        page, after = await house.tasks.listing(after, 5, 400)
        found, looks = found + page, looks + 1
    assert ([task for task, _ in found], looks) == (["t"], 4)


async def test_a_listing_goes_back_day_by_day_newest_first(house):
    for day in range(3):
        for n in range(2):
            await house.begin(house.task(f"t{day}{n}"))
            house.clock.advance(1)
        house.clock.advance(86_400)
    found, after = [], ""
    while after is not None:
        page, after = await house.tasks.listing(after, 2 if not found else 3, 10)
        found += [task for task, _ in page]
    assert found == ["t21", "t20", "t11", "t10", "t01", "t00"]
    page, after = await house.tasks.listing("", 10, 3)
    assert [task for task, _ in page] == ["t21", "t20"]  # as far back as was asked
    assert after is None
    assert await house.tasks.listing(page[-1][1], 10, 3) == ([], None), "a page further on looks no further back"


# ── change ──


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", STATUSES)
async def test_every_pair_of_status_and_verb(house, status, verb):
    await house.begin()
    house.head["status"] = status
    after = TRANSITIONS.get((status, verb))
    done = {"suspend": "suspended", "complete": "completed", "kill": "killed", "expire": "expired"}.get(verb)
    if status == done:
        assert await house.tasks.change("t", verb, RECORD) == house.head
        assert house.events == ["rec:e0"]
    elif after is None:
        code = {"killed": "task_killed", "expired": "task_expired"}.get(status, "task_not_open")
        with pytest.raises(Problem, match=code):
            await house.tasks.change("t", verb, RECORD)
        assert (house.head["status"], house.events) == (status, ["rec:e0"])
    else:
        head = await house.tasks.change("t", verb, RECORD)
        assert head == house.head == house.tasks.seen("t").head
        assert (head["status"], head["fence"], head["entries"]) == (after, 1 + (verb == "resume"), 2)
        assert house.journal.genuine("t", house.events[1], house.items[house.events[1]])


def test_the_table_is_what_the_architecture_draws():
    ends = {"completed", "killed", "expired"}
    assert not any(status in ends for status, _ in TRANSITIONS)
    assert set(TRANSITIONS.values()) == {"open", "suspended", *ends}
    assert len(TRANSITIONS) == 9


async def test_an_old_fence_changes_nothing(house):
    await house.begin()
    await house.tasks.change("t", "resume", RECORD)
    with pytest.raises(Problem, match="fenced"):
        await house.tasks.change("t", "complete", RECORD, fence=1)
    assert (await house.tasks.change("t", "complete", RECORD, fence=2))["status"] == "completed"


@pytest.mark.parametrize("fault", [Lost(0), Lost(1), Late(0), Late(1)])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_change_whose_answer_was_lost_happens_once(house, verb, fault):
    await house.begin()
    house.state.meet(fault)
    head = await house.tasks.change("t", verb, RECORD)
    house.state.deliver()
    assert head == house.head
    assert head["fence"] == 1 + (verb == "resume")
    assert head["entries"] <= len(house.events) == 2


async def test_a_change_whose_answer_was_lost_before_anothers_is_not_counted_twice(house):
    await house.begin()
    apply, lost = house.state.apply, []

    async def raced(partition, operations):
        if not lost:
            lost.append(1)
            await apply(partition, operations)
            await house.host().change("t", "resume", RECORD)
            raise OutcomeUnknown
        return await apply(partition, operations)

    house.state.apply = raced
    await house.tasks.change("t", "resume", RECORD)
    assert house.head["entries"] <= len(house.events) == 3


async def test_a_change_meets_anothers_and_judges_anew(house):
    await house.begin()
    look, other = house.tasks.look, house.host()

    async def raced(task):
        view = await look(task)
        await other.change("t", "kill", RECORD)
        return view

    house.tasks.look = raced
    with pytest.raises(Problem, match="task_killed"):
        await house.tasks.change("t", "complete", RECORD)
    assert house.head["status"] == "killed"
    assert house.head["entries"] <= len(house.events)


async def test_a_change_that_always_comes_too_late_is_a_conflict(house):
    await house.begin()
    apply = house.state.apply

    async def raced(partition, operations):
        house.head["fence"] += 1
        return await apply(partition, operations)

    house.state.apply = raced
    for call in (
        house.tasks.change("t", "kill", RECORD),
        house.tasks.change("t", "resume", RECORD),
    ):
        with pytest.raises(Problem, match="conflict"):
            await call


# ── notes ──


async def test_a_note_is_a_record_that_is_counted(house):
    await house.begin()
    await house.tasks.note("t", "t1", {"kind": "thought", "at": 1}, 1)
    assert (house.events, house.head["entries"]) == (["rec:e0", "rec:t1"], 2)
    with pytest.raises(Problem, match="fenced"):
        await house.tasks.note("t", "t2", {"kind": "thought", "at": 1}, 0)


@pytest.mark.parametrize("fault", [Lost(0), Lost(1), Late(0), Late(1)])
async def test_a_note_whose_answer_was_lost_is_there_once_and_never_counted_twice(house, fault):
    await house.begin()
    house.state.meet(fault)
    await house.tasks.note("t", "t1", {"kind": "thought", "at": 1}, 1)
    house.state.deliver()
    assert house.events == ["rec:e0", "rec:t1"]
    assert house.head["entries"] <= 2


async def test_calls_that_settle_meanwhile_do_not_hinder_a_note(house):
    await house.begin()
    apply = house.state.apply

    async def busy(partition, operations):
        house.head["version"] += 1
        house.head["entries"] += 1
        return await apply(partition, operations)

    house.state.apply = busy
    await house.tasks.note("t", "t1", {"kind": "thought", "at": 1}, 1)
    assert "rec:t1" in house.items


async def test_parallel_notes_do_not_refuse_each_other(house):
    await house.begin()
    hosts = [house.host() for _ in range(4)]
    apply = house.state.apply

    async def slow(partition, operations):
        await asyncio.sleep(0)
        return await apply(partition, operations)

    house.state.apply = slow
    notes = (hosts[n % 4].note("t", f"t{n}", {"kind": "thought", "at": 1}, 1) for n in range(200))
    await asyncio.gather(*notes)
    assert house.head["entries"] == len(house.events) == 201
    assert len(house.head["notes"]) <= 32


async def test_a_task_takes_a_thousand_notes(house):
    await house.begin()
    house.head["thoughts"] = 2
    for n in range(2):
        head = await house.tasks.note("t", f"t{n}", {"kind": "thought", "at": 1}, 1)
    assert head["entries"] == 3
    with pytest.raises(Problem, match="call_limit") as refused:
        await house.tasks.note("t", "t3", {"kind": "thought", "at": 1}, 1)
    assert refused.value.extra == {"limit": 1000}


@pytest.mark.parametrize(
    "work",
    [
        lambda tasks: tasks.note("t", "t1", {"kind": "thought", "at": 1}, 1),
        lambda tasks: tasks.point("t", 1, "e1", None),
    ],
    ids=["note", "checkpoint"],
)
async def test_a_worker_whose_task_is_resumed_meanwhile_changes_nothing_of_it(house, work):
    await house.begin()
    apply = house.state.apply

    async def overtaken(partition, operations):
        house.state.apply = apply
        house.head["fence"] += 1
        return await apply(partition, operations)

    before = {**house.head, "fence": 2}
    house.state.apply = overtaken
    with pytest.raises(Problem, match="fenced"):
        await work(house.tasks)
    assert house.head == before


async def test_notes_at_once_are_no_more_than_are_left(house):
    await house.begin()
    house.head["thoughts"] = 2
    hosts = [house.host() for _ in range(6)]
    for host in hosts:
        await host.look("t")
    notes = (host.note("t", f"t{n}", {"kind": "thought", "at": 1}, 1) for n, host in enumerate(hosts))
    found = await asyncio.gather(*notes, return_exceptions=True)
    refused = [each.code for each in found if isinstance(each, Problem)]
    assert (len(refused), set(refused), house.head["thoughts"]) == (4, {"call_limit"}, 0)


# ── keys ──


async def test_an_erased_key_is_noticed_by_every_host_within_a_minute(house):
    await house.begin()
    there = house.host()
    assert (await there.look("t")).task.wrapped_key == "wrapped-1"
    del house.items["key"]
    house.clock.advance(60.001)
    for host in (house.tasks, there):
        assert (await host.view("t")).task.wrapped_key is None
        assert host.seen("t").task.wrapped_key is None
    assert (await there.look("t")).task.wrapped_key is None


async def test_a_key_is_asked_for_once_a_minute(house):
    await house.begin()
    reads = []
    read = house.state.read

    async def counted(partition, key):
        reads.append(key)
        return await read(partition, key)

    house.state.read = counted
    for _ in range(3):
        house.clock.advance(61)
        for _ in range(5):
            await house.tasks.view("t")
    assert reads == ["key"] * 3
    await house.tasks.look("t")
    assert reads == ["key"] * 3 + ["head"]


# ── checkpoint ──


async def test_the_head_points_at_the_newest_checkpoint(house):
    await house.begin()
    assert await house.tasks.point("t", 1, "e1", {""}) is None
    assert await house.tasks.point("t", 1, "e2", {"e1", "e7"}) == "e1"
    assert await house.tasks.point("t", 1, "e3", None) == "e2"
    for expected in ({""}, {"e1"}, set()):
        with pytest.raises(Problem, match="precondition_failed"):
            await house.tasks.point("t", 1, "e4", expected)
    with pytest.raises(Problem, match="fenced"):
        await house.tasks.point("t", 0, "e4", None)
    assert house.head["checkpoint"] == "e3"


@pytest.mark.parametrize("expected", [{"e1"}, None])
async def test_a_checkpoint_whose_answer_was_lost_gives_the_one_before(house, expected):
    await house.begin()
    await house.tasks.point("t", 1, "e1", {""})
    house.state.meet(Lost())
    assert await house.tasks.point("t", 1, "e2", expected) == "e1"
    assert house.head["checkpoint"] == "e2"
