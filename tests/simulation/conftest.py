"""Many hosts on one store in simulated time: what happens to a task when everything that can fail does.

Owns the world of one task: processes that die, and what must hold after every single operation. Refuses to know the
protocol: it drives the real ledger. Time and the way to the store: `wires`; whole domains: `domain_world`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from buspass.errors import Problem
from buspass.journal import Journal, Sealer, verify
from buspass.journal.seals import read_all
from buspass.ledger import Claim, Finished, Held, Ledger, Outcome, balance, new_head
from buspass.model import ACCOUNTS, SLOTS, Principal
from buspass.tasks import Grant, Task, Tasks
from buspass.testing.state_memory import Crash, MemoryState

sys.path.insert(0, str(Path(__file__).parent))

from wires import START, LoopClock, VirtualLoop, Wire

TASK = "t"
LIMITS = {"tokens": 600, "cost": 2_500, "calls": 40}
PAYMENTS = 5


class Signer:
    """Stands for the domain's key: what it signed, it knows again."""

    algorithm = "ES256"

    def __init__(self):
        self.jwk = {"kid": "k1"}
        self.signed = set()

    async def sign(self, data):
        self.signed.add(data)
        return b"signature"

    async def check(self, kid, data, signature):
        return kid == "k1" and data in self.signed


class Process:
    """One host: its own ledger, sealer and copies of heads. When it dies, all its callers do."""

    def __init__(self, world):
        self.world, self.dead, self.ready, self.host = world, False, True, ""
        self.wire = Wire(world, self, "")
        self.ledger = Ledger(self.wire, world.clock, world.journal.stamp)
        self.tasks = Tasks(self.wire, world.clock, world.journal.stamp)
        self.sealer = Sealer(self.wire, world.signer, world.clock)
        self.running = set()

    def start(self, work, *about):
        task = asyncio.get_running_loop().create_task(self._live(work, *about))
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task):
        self.running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world.broken.append(repr(task.exception()))

    async def _live(self, work, *about):
        try:
            await work(self, *about)
        except Problem as problem:
            if problem.code not in {"state_unavailable", "task_not_open", "conflict", "fenced"}:
                raise
        except Crash:
            self.die()

    def die(self):
        self.dead = True
        for task in self.running:
            if task is not asyncio.current_task():
                task.cancel()


class World:
    """One task, its hosts, an upstream that bills, and the laws."""

    def __init__(self, seed, *, driver_retries=False):
        self.random = Random(seed)
        self.transactional, self.driver_retries = seed % 2 == 0, driver_retries
        self.calm, self.cuts, self.delays = False, frozenset(), (0.0, 0.001, 0.003, 0.02)
        self.faults = Counter()
        self.store = MemoryState(
            transactional=self.transactional,
            trouble=self.random.choice((0.0, 0.05, 0.15, 0.3)),
            random=self.random,
            copies=False,
        )
        self.stores = {"": self.store}
        self.mortality = self.random.choice((0.0, 0.002, 0.01, 0.02))
        self.clock = LoopClock(self.random)
        self.journal, self.signer = Journal(b"k" * 32), Signer()
        self.billed = Counter()
        self.executed = Counter()
        self.paid = 0
        self.posted = 0
        self.broken = []
        self.seen = Counter()

    # ── what happens ──

    async def live(self):
        await self._begin()
        hosts = [Process(self) for _ in range(2)]
        for number in range(60):
            hosts = [Process(self) if host.dead else host for host in hosts]
            host = self.random.choice(hosts)
            host.start(self._call, number)
            if self.random.random() < 0.25:
                host.start(self._chore)
            await asyncio.sleep(self.random.choice((0.0, 0.005, 0.02, 0.05, 8.0)))
        await self._end(hosts)

    async def _begin(self):
        task = Task(
            id=TASK, workflow="w", revision="r", host="h", principal=Principal(identity="i", issuer="j", agent="a"),
            subject=None, metadata={}, grant=Grant(models=("m",), tools=("look", "pay")), wall=9_000, depth=0,
            created_at=self.clock.now(), deadline=START + 9_000_000, payloads="none", wrapped_key="x",
        )  # fmt: skip
        head = new_head(limits=LIMITS, expires_at=task.deadline, max_calls={"pay": PAYMENTS})
        opening = {"kind": "lifecycle", "at": self.clock.now(), "host": "h"}
        trouble, self.store.trouble = self.store.trouble, 0.0
        await Tasks(self.store, self.clock, self.journal.stamp).begin(task, head, opening)
        self.store.trouble = trouble

    async def _call(self, host, number):
        claim = self._claim(number)
        if claim.keyed and await host.wire.read(TASK, f"rec:{claim.call}") is not None:
            return
        await asyncio.sleep(self.random.choice((0.0, 0.01, 0.3)))  # so that a twin may come and go
        posted = self.posted
        try:
            held = await host.ledger.hold(claim, self.random.choice((0.0, 0.2, 5.0)))
        except Problem as problem:
            self.seen[problem.code] += 1
            if problem.code == "budget_exhausted" and posted == self.posted:
                self._really_gone(claim, problem.extra["limit"])
            await host.ledger.refuse(TASK, problem.code, problem.status, {"at": self.clock.now(), "host": "h"})
            return
        if not isinstance(held, Held):
            self.seen["replayed" if isinstance(held, Finished) else "stale"] += 1
            return
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.01, 6.0)))
        await host.ledger.settle(held, await self._dispatch(host, held), self._record(held))

    def _claim(self, number):
        random = self.random
        keyed = random.random() < 0.7
        name = random.choice(("m", "m", "look", "pay"))
        most = {"tokens": random.choice((10, 60, 150)), "cost": random.choice((0, 100, 400)), "calls": 1}
        call = f"k{name}{number // 12}" if keyed else f"u{number}"
        return Claim(
            task=TASK, call=call, kind="inference" if name == "m" else "action", name=name,
            amounts=most if name == "m" else {"calls": 1, "tool_calls": 1},
            fence=self._fence() - (random.random() < 0.03), deadline=self.clock.now() + random.choice((6_000, 20_000)),
            host="h", capped=name == "pay", keyed=keyed,
        )  # fmt: skip

    def _fence(self):
        return self.store._items[TASK]["head"]["fence"]

    async def _dispatch(self, host, held):
        if host.dead:
            raise Crash
        claim = held.claim
        if self.clock.now() > held.at + 5_000:
            return Outcome(use={}, sent=False, last="failed" if claim.kind == "action" else "")
        use = {name: self.random.randint(min(1, most), most) for name, most in claim.amounts.items()}
        self.billed.update(use)
        self.executed[claim.call] += 1
        self.paid += claim.name == "pay"
        await asyncio.sleep(self.random.choice((0.0, 0.01, 0.3, 3.0, 50.0)))
        kept = '{"n":1}' if claim.name == "look" else ""
        return Outcome(use=use, last="succeeded" if claim.kind == "action" else "", kept=kept)

    def _record(self, held):
        return {"kind": held.claim.kind, "name": held.claim.name, "host": "h", "at": held.at, "ended": self.clock.now()}

    async def _chore(self, host):
        record = {"kind": "lifecycle", "at": self.clock.now(), "host": "h", "use": {}, "attempt": ""}
        chore = self.random.choice(
            ("sweep", "sweep", "seal", "seal", "note", "note", "note", "read", "resume", "suspend")
        )
        self.seen[chore] += 1
        match chore:
            case "sweep":
                await host.ledger.sweep(TASK)
            case "seal":
                await host.sealer.seal(TASK)
            case "note":
                await host.tasks.note(TASK, f"t{self.clock.random(4).hex()}", record, self._fence())
            case "read":
                journal = await read_all(host.wire, TASK)
                head = await host.wire.read(TASK, "head")
                await host.ledger.finish_credits(TASK, head, journal.covered)
            case verb:
                if verb == "suspend":
                    await host.tasks.change(TASK, "suspend", record)
                await host.tasks.change(TASK, "resume", record)

    async def _end(self, hosts):
        """Nothing fails any more, everybody finishes, the sweep comes: the books must be right."""
        self.calm, self.store.trouble = True, 0.0
        await asyncio.sleep(200)
        if self.random.random() < 0.5:
            self.store.deliver()
        self.store.late.clear()
        self.check()
        while running := [task for host in hosts for task in host.running]:
            await asyncio.wait(running)
        await asyncio.sleep(60)
        last = Process(self)
        await last.ledger.sweep(TASK)
        for _ in range(2):  # a seal between: what it covers must have been posted
            await last.sealer.seal(TASK)
            journal = await read_all(last.wire, TASK)
            await last.ledger.finish_credits(TASK, await last.wire.read(TASK, "head"), journal.covered)
        self.check()
        await self._audit()

    async def _audit(self):
        head = await self.store.read(TASK, "head")
        money = balance(head)
        self._law(not head["open"], "a hold is left")
        self._law(head["slots"] == SLOTS, "slots are lost")
        self._law(not any(head["running"].values()), "something runs for ever")
        found = await verify(self.journal, TASK, head, money.spent, await read_all(self.store, TASK), self.signer.check)
        self._law(not found.problems, found.problems)
        self._law(all(self.billed[name] <= money.spent[name] for name in ACCOUNTS), "billed and not charged")
        self.seen["executed"] += sum(self.executed.values())
        self.seen["credit"] += len(head["late"])

    def fault(self, kind):
        self.faults[kind] += 1

    # ── what must hold, after every operation ──

    def check(self, *_):
        items = self.store._items[TASK]
        head, money = items["head"], balance(items["head"])
        records = {key: item for key, item in items.items() if key.startswith(("rec:", "credit:"))}
        credited = {key for key in records if key.startswith("credit:")}
        posted = {f"credit:{call}" for call in head["late"]}
        self.posted = len(posted)
        summed = Counter()
        for key, record in records.items():
            entry = head["open"].get(key.removeprefix("rec:"))
            if key not in credited - posted and (entry is None or entry["attempt"] != record.get("attempt")):
                summed.update(record.get("use", {}))
        for name in ACCOUNTS:
            self._law(money.spent[name] == summed[name], f"{name}: {money.spent[name]} spent, records {summed[name]}")
            self._law(self.billed[name] <= money.spent[name] + money.held[name], f"{name}: billed and not held")
        self._law(all(amount >= 0 for amount in money.available.values()), "overspent")
        self._law(all(self.billed[name] <= limit for name, limit in LIMITS.items()), "billed above the limit")
        self._law(all(times == 1 for times in self.executed.values()), "a key was executed twice")
        self._law(self.paid <= PAYMENTS, "a cap was passed")
        self._law(head["slots"] + len(head["open"]) == SLOTS, "slots")
        self._law(head["entries"] <= len(records) - len(credited - posted), "more counted than written")

    def _really_gone(self, claim, account):
        money = balance(self.store._items[TASK]["head"])
        left = money.limits.get(account, 0) - money.spent[account]
        self._law(left < claim.amounts[account], f"402 though {left} {account} could come back")

    def _law(self, kept, what):
        if not kept:
            self.broken.append(what)


def run(seed, **faults):
    """Live one seed's world to its end; give it with the laws it broke."""
    world = None

    async def live():
        nonlocal world
        world = World(seed, **faults)
        await world.live()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(live())
    return world


@pytest.fixture
def simulated():
    """A function: seed → the world after its end."""
    return run
