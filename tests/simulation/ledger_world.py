"""Many hosts on one store in simulated time: what happens to a task when everything that can fail does.

Owns the world of one task: processes that die, and what must hold after every step that changes something. Refuses to
know the protocol: it drives the real ledger. Time: `virtual`; stores and their faults: `wires`; domains: `domain_world`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import laws
from virtual import START, LoopClock, VirtualLoop
from wires import Store, Wire

from buspass.errors import Problem
from buspass.journal import Journal, Sealer
from buspass.journal.audit import verify
from buspass.journal.seals import read_all
from buspass.ledger import Claim, Finished, Held, Ledger, Outcome, balance, new_head
from buspass.model import ACCOUNTS, SLOTS, UNLIMITED, Principal
from buspass.ports.state import Unavailable
from buspass.tasks import Grant, Task, Tasks
from buspass.testing.state_memory import Crash

TASK = "t"
LIMITS = {"tokens": 600, "cost": 2_500, "calls": 40}
PAYMENTS = 5
CALLS = (2, 5, 12, 30, 60)
"""Sizes of a world: how many calls are made in it. The last one is the whole, the others shorten a failure."""


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
        self.tasks = Tasks(self.wire, world.clock, world.journal.stamp, world.journal.genuine)
        self.sealer = Sealer(self.wire, world.signer, world.clock)
        self.running = {}  # in the order they began: a seed must always come to the same

    def start(self, work, *about):
        task = asyncio.get_running_loop().create_task(self._live(work, *about))
        self.running[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task):
        self.running.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self.world.met_with(task.exception())

    async def _live(self, work, *about):
        try:
            await work(self, *about)
        except Problem as problem:
            if problem.code not in {"state_unavailable", "task_not_open", "conflict", "fenced"}:
                raise
        except Unavailable:  # a room had nothing to add to it: its callers answer 503
            pass
        except Crash:
            self.die()

    def die(self):
        self.dead = True
        for task in tuple(self.running):
            if task is not asyncio.current_task():
                task.cancel()


class World(laws.World):
    """One task, its hosts, an upstream that bills, and the laws."""

    def __init__(self, seed, size, *, driver_retries=False, **less):
        super().__init__(seed, size, **less)
        self.driver_retries = driver_retries
        self.delays = (0.0, 0.001, 0.003, 0.02)
        self.clock = LoopClock(self.random)
        self.pause = asyncio.get_running_loop().pause
        self.journal, self.signer = Journal(b"k" * 32), Signer()
        self.billed = dict.fromkeys(ACCOUNTS, 0)
        self.executed, self.settled = Counter(), {}
        self.paid = 0
        self.posted = 0
        self.books = Books()
        self.store = Store(self, "")
        self.stores = {"": self.store}

    # ── what happens ──

    async def live(self):
        await self._begin()
        hosts = [Process(self) for _ in range(2)]
        for number in range(self.size):
            hosts = [Process(self) if host.dead else host for host in hosts]
            host = self.random.choice(hosts)
            host.start(self._call, number)
            if self.random.random() < 0.25:
                host.start(self._chore)
            await self.pause(self.random.choice((0.0, 0.005, 0.02, 0.05, 8.0)))
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
        self.calm = True
        await Tasks(self.store, self.clock, self.journal.stamp, self.journal.genuine).begin(task, head, opening)
        self.store.trouble, self.calm = trouble, False

    async def _call(self, host, number):
        claim = self._claim(number)
        if claim.keyed and await host.wire.read(TASK, f"rec:{claim.call}") is not None:
            return
        await self.pause(self.random.choice((0.0, 0.01, 0.3)))  # so that a twin may come and go
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
        await self.pause(self.random.choice((0.0, 0.0, 0.01, 6.0)))
        outcome = await self._dispatch(host, held)
        try:
            await host.ledger.settle(held, outcome, self._record(held))
        except Problem as problem:
            self.law(problem.code == "state_unavailable", f"a settle was refused: {problem.code}")
            raise
        if outcome.sent:
            self.settled[held.claim.call] = outcome.use

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
        for name, amount in use.items():
            self.billed[name] += amount
            self.law(self.billed[name] <= LIMITS.get(name, UNLIMITED), "billed above the limit")
        self.executed[claim.call] += 1
        self.law(self.executed[claim.call] == 1, "a key was executed twice")
        self.paid += claim.name == "pay"
        self.law(self.paid <= PAYMENTS, "a cap was passed")
        await self.pause(self.random.choice((0.0, 0.01, 0.3, 3.0, 50.0)))
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
        await self.pause(200)
        if self.random.random() < 0.5:
            self.store.deliver()
        self.store.late.clear()
        self.check_whole()
        while running := [task for host in hosts for task in host.running]:
            await asyncio.wait(running)
        await self.pause(60)
        last = Process(self)
        await last.ledger.sweep(TASK)
        for _ in range(2):  # a seal between: what it covers must have been posted
            await last.sealer.seal(TASK)
            journal = await read_all(last.wire, TASK)
            await last.ledger.finish_credits(TASK, await last.wire.read(TASK, "head"), journal.covered)
        self.check_whole()
        await self._audit()

    async def _audit(self):
        head = await self.store.read(TASK, "head")
        money = balance(head)
        self.law(not head["open"], "a hold is left")
        self.law(head["slots"] == SLOTS, "slots are lost")
        self.law(not any(head["running"].values()), "something runs for ever")
        found = await verify(self.journal, TASK, head, money.spent, await read_all(self.store, TASK), self.signer.check)
        self.law(not found.problems, found.problems)
        self.law(all(self.billed[name] <= money.spent[name] for name in ACCOUNTS), "billed and not charged")
        items = self.store._items[TASK]
        for call, use in self.settled.items():
            charged = Counter(items[f"rec:{call}"]["use"])
            charged.update(items.get(f"credit:{call}", {}).get("use", {}))
            self.law(all(charged[name] == use.get(name, 0) for name in charged), f"{call}: settled, charged otherwise")
        self.seen["executed"] += sum(self.executed.values())
        self.seen["credit"] += len(head["late"])

    # ── what must hold, after every step that changes something ──

    def watch(self, _, partition, operations):
        if partition != TASK:
            return
        items = self.store._items[TASK]
        if (head := items.get("head")) is None:
            return
        books = self.books
        books.follow(items, operations)
        self.posted = len(head["late"])
        money = balance(head)
        for name in ACCOUNTS:
            spent = money.spent[name]
            if spent != books.summed[name]:
                self.broken.append(f"{name}: {spent} spent, records {books.summed[name]}")
            if self.billed[name] > spent + money.held[name]:
                self.broken.append(f"{name}: billed and not held")
        if min(money.available.values()) < 0:
            self.broken.append("overspent")
        self.law(head["slots"] + len(head["open"]) == SLOTS, "slots")
        self.law(head["entries"] <= len(books.records) - books.unposted, "more counted than written")

    def check_whole(self):
        """Sum everything anew: what was followed step by step must be the same."""
        books = Books(self.books.posted)
        books.follow(self.store._items[TASK], None)
        self.law(books.summed == self.books.summed, "the steps don't add up to the whole")
        self.law(books.unposted == self.books.unposted, "credits that were not followed")

    def _really_gone(self, claim, account):
        money = balance(self.store._items[TASK]["head"])
        left = money.limits.get(account, 0) - money.spent[account]
        self.law(left < claim.amounts[account], f"402 though {left} {account} could come back")


class Books:
    """The records of one task that count as spent, followed change by change; a whole sum at each step is too slow.

    A record counts unless its attempt is still in `open`, a credit where `late` has it.
    """

    def __init__(self, posted=()):
        self.summed = dict.fromkeys(ACCOUNTS, 0)
        self.records, self.unposted = {}, 0
        self._open, self.posted = {}, set(posted)

    def follow(self, items, operations):
        """Take in what these operations changed; None: all there is."""
        head = items["head"]
        opened, late = head["open"], head["late"]
        if operations is None:
            touched = {key for key in items if key.startswith(("rec:", "credit:"))}
        else:
            touched = {operation.key for operation in operations if operation.key.startswith(("rec:", "credit:"))}
        if opened is not self._open:
            touched.update(f"rec:{call}" for call in opened.keys() ^ self._open.keys())
            touched.update(f"rec:{call}" for call, entry in opened.items() if self._open.get(call) is not entry)
            self._open = opened
        if late is not self.posted:
            fresh = late.keys() - self.posted
            touched.update(f"credit:{call}" for call in fresh)
            self.posted |= fresh  # a marker is dropped one day
        for key in touched:
            if (record := items.get(key)) is not None:
                self._take(key, record, opened)

    def _take(self, key, record, opened):
        kind, _, call = key.partition(":")
        if kind == "credit":
            counts = call in self.posted
            self.unposted += (not counts) - (key in self.records and not self.records[key][1])
        else:
            entry = opened.get(call)
            counts = entry is None or entry["attempt"] != record.get("attempt")
        before, counted = self.records.get(key, ({}, False))
        use = record.get("use", {})
        if counted:
            for name, amount in before.items():
                self.summed[name] -= amount
        if counts:
            for name, amount in use.items():
                self.summed[name] += amount
        self.records[key] = (use, counts)


def run(seed, size=CALLS[-1], **less):
    """Live one seed's world to its end; give it with the laws it broke."""
    loop = VirtualLoop()
    world = None

    async def live():
        nonlocal world
        world = World(seed, size, **less)
        await world.live()

    loop.run(live())
    return world
