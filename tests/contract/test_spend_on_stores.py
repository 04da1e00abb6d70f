"""Mixed calls on each store, hosts dying between them: the report's sums equal the records' to the micro-dollar.

Ten thousand on SQLite and on Redis. What stands in for DynamoDB and Cosmos here is slow, not the adapter: they get as
many as fit about a minute, and more where somebody asks for it:

    SPEND_CALLS=10000 python -m pytest tests/contract/test_spend_on_stores.py -k 'dynamodb or cosmos'
"""

import asyncio
import contextlib
import os
from collections import Counter
from datetime import UTC, datetime
from random import Random

import pytest
from aws_servers import KEYS, Ministack, create_table
from redis_servers import Server

from buspass.errors import Problem
from buspass.journal import Journal, Sealer
from buspass.journal.seals import keys_of, read_all
from buspass.ledger import Claim, Held, Ledger, Outcome, new_head
from buspass.model import Principal
from buspass.ports.clock import SystemClock
from buspass.ports.state import Unavailable
from buspass.reporting import Folding
from buspass.reports import TAIL, Rollups, by_day, tail
from buspass.tasks import Grant, Task, Tasks
from buspass.testing.cosmos_server import CosmosServer, serving_cosmos
from buspass_aws import dynamodb
from buspass_azure import cosmos, cosmos_account
from buspass_onprem import redis, sqlite

CALLS = {"sqlite": 10_000, "redis": 10_000, "dynamodb": 2_000, "cosmos": 2_000}
TASKS = 50
DEATHS = 80
"""At an apply, at least half as many: before it, after it, or in between."""
KEY = b"k" * 32


class Signer:
    def __init__(self):
        self.jwk = {"kid": "k1"}

    async def sign(self, data):
        return b"signature"


class Died(BaseException):
    pass


class Mortal:
    """A store's way in of a host that dies now and then: before an apply, after it, or with all but its last stored."""

    def __init__(self, state, random, chance):
        self._state, self._random, self._chance = state, random, chance / 2

    def __getattr__(self, name):
        return getattr(self._state, name)

    async def apply(self, partition, operations):
        if self._random.random() < self._chance:
            if len(operations) > 1 and self._random.random() < 0.5:
                await self._state.apply(partition, operations[:-1])
            raise Died
        answer = await self._state.apply(partition, operations)
        if self._random.random() < self._chance:
            raise Died
        return answer


class Aside(SystemClock):
    """The system's clock, moved on by `ahead` ms."""

    ahead = 0

    def now(self):
        return super().now() + self.ahead


@contextlib.asynccontextmanager
async def on_sqlite(folder, monkeypatch):
    yield await sqlite.open(f"sqlite:///{folder}/state.db?durability=process")


@contextlib.asynccontextmanager
async def on_redis(folder, monkeypatch):
    with Server(folder / "redis", "appendfsync no") as server:
        yield await redis.open(f"redis://127.0.0.1:{server.port}")


@contextlib.asynccontextmanager
async def on_dynamodb(folder, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("WRITE", "READ"):  # seconds: a machine with more to do must not look like a service that is away
        monkeypatch.setattr(dynamodb, name, 60.0)
    with Ministack(folder) as aws:
        await create_table(aws.url, "spend")
        yield await dynamodb.open(f"dynamodb://spend?region=eu-central-1&endpoint={aws.url}")


@contextlib.asynccontextmanager
async def on_cosmos(folder, monkeypatch):
    for seconds in ("CONNECT_SECONDS", "ANSWER_SECONDS"):  # the service shares this process: it may be slow
        monkeypatch.setattr(cosmos_account, seconds, 120)
    monkeypatch.setattr(cosmos, "PATIENCE", 120.0)
    server = CosmosServer()
    server.add("db", "buspass")
    monkeypatch.setenv("COSMOS_KEY", server.key)
    async with serving_cosmos(server):
        yield await cosmos.open(f"cosmos://loopback/db?endpoint={server.url}&key=COSMOS_KEY")


STORES = {"sqlite": on_sqlite, "redis": on_redis, "dynamodb": on_dynamodb, "cosmos": on_cosmos}


@pytest.mark.verify
@pytest.mark.parametrize("name", STORES)
async def test_spend_equals_the_records(name, tmp_path, monkeypatch):
    monkeypatch.setattr("buspass.reports.rollups.COMPACT", 5)  # often, as in a long day
    async with STORES[name](tmp_path, monkeypatch) as store:
        try:
            await spent(store, int(os.environ.get("SPEND_CALLS", CALLS[name])))
        finally:
            await store.close()


async def spent(store, calls):
    random, clock, journal, rollups = Random(7), Aside(), Journal(KEY), Rollups(store)
    mortal = Mortal(store, random, DEATHS / calls)
    ledger, sealer = (
        Ledger(mortal, clock, journal.stamp),
        Sealer(mortal, Signer(), clock, Folding(Rollups(mortal)).sealed),
    )
    tasks = Tasks(store, clock, journal.stamp, journal.genuine, {TAIL: tail})
    names = [await begun(tasks, clock, number) for number in range(TASKS)]
    died, today = Counter(), f"{datetime.now(UTC):%Y-%m-%d}"
    queue = iter([(random.choice(names), number) for number in range(calls)])

    async def worker():
        for task, number in queue:
            try:
                await one(ledger, sealer, clock, random, task, number)
                if number % 200 == 0:  # a report, which compacts what has come together
                    await Rollups(mortal).day(today)
            except Died:
                died["calls"] += 1
            except Problem as problem:
                died[problem.code] += 1
            except Unavailable:  # a report that could not be had
                died["unavailable"] += 1

    await asyncio.gather(*(worker() for _ in range(32)))
    assert died["calls"] > DEATHS / 2
    Aside.ahead = 3_600_000  # what the dead left is overdue by now
    clean, last = Ledger(store, clock, journal.stamp), Sealer(store, Signer(), clock, Folding(rollups).sealed)

    few = asyncio.Semaphore(4)

    async def ended(name):
        async with few:
            for _ in range(10):  # as timers do: what could not be done now stays due
                with contextlib.suppress(Problem):
                    await clean.sweep(name)
                    await last.seal(name)
                    return
        raise AssertionError(f"{name} could not be sealed")

    await asyncio.gather(*(ended(name) for name in names))
    for name in names:
        assert not (await store.read(name, "head"))["open"]
    Aside.ahead = 0
    await equal(store, rollups, names, at_least=1_000 * calls)


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


async def equal(store, rollups, names, at_least):
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
    days = {day: await rollups.day(day) for day in {day for day, *_ in tables}}
    missing = [table for (day, part, _), table in tables.items() if part not in days[day].seals]
    for table in (*missing, *(day.table for day in days.values())):
        for row in table.values():
            found.update(row.use)
    assert +found == +wanted
    assert wanted["cost"] > at_least
