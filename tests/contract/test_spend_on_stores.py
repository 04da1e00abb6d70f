"""Ten thousand mixed calls on each store, hosts dying between: the report's sums equal the records' to the micro-dollar."""

import asyncio
from collections import Counter
from random import Random

import pytest
from redis_servers import Server

from buspass.errors import Problem
from buspass.journal import Journal, Sealer
from buspass.journal.seals import keys_of, read_all
from buspass.ledger import Claim, Held, Ledger, Outcome, new_head
from buspass.model import Principal
from buspass.ports.clock import SystemClock
from buspass.reporting import Folding
from buspass.reports import TAIL, Rollups, by_day, tail
from buspass.tasks import Grant, Task, Tasks
from buspass_onprem import redis, sqlite

CALLS, TASKS = 10_000, 50
KEY = b"k" * 32


class Signer:
    def __init__(self):
        self.jwk = {"kid": "k1"}

    async def sign(self, data):
        return b"signature"


class Died(BaseException):
    pass


class Mortal:
    """A store's way in of a host that dies now and then, before or after an apply."""

    def __init__(self, state, random):
        self._state, self._random = state, random

    def __getattr__(self, name):
        return getattr(self._state, name)

    async def apply(self, partition, operations):
        if self._random.random() < 0.004:
            raise Died
        answer = await self._state.apply(partition, operations)
        if self._random.random() < 0.004:
            raise Died
        return answer


class Aside(SystemClock):
    """The system's clock, moved on by `ahead` ms."""

    ahead = 0

    def now(self):
        return super().now() + self.ahead


@pytest.fixture
async def store(request, tmp_path):
    if request.param == "sqlite":
        state = await sqlite.open(f"sqlite:///{tmp_path}/state.db?durability=process")
        yield state
        await state.close()
        return
    with Server(tmp_path / "redis", "appendfsync no") as server:
        state = await redis.open(f"redis://127.0.0.1:{server.port}")
        yield state
        await state.close()


@pytest.mark.verify
@pytest.mark.parametrize("store", ["sqlite", "redis"], indirect=True)
async def test_spend_equals_the_records(store):
    random, clock, journal, rollups = Random(7), Aside(), Journal(KEY), Rollups(store)
    mortal = Mortal(store, random)
    ledger, sealer = (
        Ledger(mortal, clock, journal.stamp),
        Sealer(mortal, Signer(), clock, Folding(Rollups(mortal)).sealed),
    )
    tasks = Tasks(store, clock, journal.stamp, {TAIL: tail})
    names = [await begun(tasks, clock, number) for number in range(TASKS)]
    died = Counter()
    queue = iter([(random.choice(names), number) for number in range(CALLS)])

    async def worker():
        for task, number in queue:
            try:
                await one(ledger, sealer, clock, random, task, number)
            except Died:
                died["calls"] += 1
            except Problem as problem:
                died[problem.code] += 1

    await asyncio.gather(*(worker() for _ in range(32)))
    assert died["calls"] > 50
    Aside.ahead = 3_600_000  # what the dead left is overdue by now
    clean = Ledger(store, clock, journal.stamp)
    for name in names:
        await clean.sweep(name)
        await Sealer(store, Signer(), clock, Folding(rollups).sealed).seal(name)
    Aside.ahead = 0
    await equal(store, rollups, names)


async def begun(tasks, clock, number):
    task = Task(
        id=f"t{number}", workflow=f"w{number % 3}", revision="r", host="h", subject=None, metadata={"team": "abc"[number % 3]},
        principal=Principal(identity="i", issuer="j", agent="a"), grant=Grant(models=("m",), tools=("look",)),
        wall=9_000, depth=0, created_at=clock.now(), deadline=clock.now() + 9_000_000, payloads="none", wrapped_key="x",
    )  # fmt: skip
    head = new_head(limits={"cost": 10**12}, expires_at=task.deadline, max_calls={})
    await tasks.begin(task, head, {"kind": "lifecycle", "at": clock.now(), "host": "h"})
    return task.id


async def one(ledger, sealer, clock, random, task, number):
    kind = random.choice(("inference", "action"))
    most = {"calls": 1, "cost": random.randint(0, 9_999), "tokens": random.randint(0, 999)}
    claim = Claim(
        task=task,
        call=f"k{number}",
        kind=kind,
        name="m",
        amounts=most,
        fence=1,
        deadline=clock.now() + 60_000,
        host="h",
    )
    held = await ledger.hold(claim, 1.0)
    assert isinstance(held, Held)
    use = {name: random.randint(0, amount) for name, amount in most.items()} | {"calls": 1}
    record = {
        "kind": kind, "name": "m", "host": "h", "at": held.at, "ended": clock.now(), "status": "succeeded",
        "target": "p/m", "labels": f'{{"feature": "{random.choice("xyz")}"}}',
    }  # fmt: skip
    head = await ledger.settle(held, Outcome(use=use, last="succeeded" if kind == "action" else ""), record)
    if head["entries"] - head["sealed"] >= 64:
        await sealer.seal(task)


async def equal(store, rollups, names):
    """Rollups, and tails where a host died between seal and fold, against the records one by one."""
    wanted, found = Counter(), Counter()
    tables = {}
    for name in names:
        journal, facts = await read_all(store, name), await store.read(name, "task")
        for record in journal.records.values():
            wanted.update(record.get("use", {}))
        parts = {f"{name}.{number:08d}": keys_of(seal) for number, seal in enumerate(journal.seals)}
        for part, keys in (parts | {"": journal.records.keys() - journal.covered}).items():
            tables |= {(day, part, name): table for day, table in by_day(facts, journal.records, keys).items()}
    days = {day: await rollups.day(day) for day, *_ in tables}
    missing = [table for (day, part, _), table in tables.items() if part not in days[day].seals]
    for table in (*missing, *(day.table for day in days.values())):
        for row in table.values():
            found.update(row.use)
    assert +found == +wanted
    assert wanted["cost"] > 10**7
