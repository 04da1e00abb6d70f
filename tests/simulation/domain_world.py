"""Three trust domains of five hosts on four stores in simulated time: pools, tasks, children, and all that can fail.

Owns the world: agents that start tasks, think, pay, delegate, end or are forgotten; processes that die and come back;
cut links, skewed clocks, lost, late and repeated messages; and the laws that must hold after every step at a store.
Refuses to know the protocols: it drives the product's own rooms, from the gateway's stations to the pools' timer.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import Counter
from typing import ClassVar

import laws
import letters
from letters import DOMAIN, DOMAINS, HOSTS
from outside import Outside, acting
from virtual import START, LoopClock, VirtualLoop
from wires import Store, Wire

from buspass.abroad import hand_over
from buspass.callers import OperatorCaller, TaskCaller
from buspass.calls.call import Incoming
from buspass.closing import LEASE
from buspass.delegation import begin_child
from buspass.errors import Problem
from buspass.gateway import Gateway
from buspass.http import compose
from buspass.http.stores import Stores
from buspass.identity.domain import DomainKey
from buspass.identity.keyring import Keyring
from buspass.journal.audit import verify
from buspass.journal.seals import read_all
from buspass.ledger import balance
from buspass.lifecycle import Lifecycle
from buspass.model import Limits
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.state_memory import Crash
from buspass.timer import tick
from buspass_onprem.secrets import HostSecrets

STORES = ("onprem", "azure", "edge", "yard")
"""Hosts whose stores are all that there are."""
SKEW = 2_000
"""Milliseconds that a host's clock is before or behind the true time at most."""
SIZES = (1, 2, 3, 4, 5, 6)
"""Agents that begin in a world. The last is the whole, the others shorten a failure."""
LIMITS = Limits(request_bytes=10**6, response_bytes=10**6, first_byte=60, total=60)
TIRED = {
    "state_unavailable",
    "conflict",
    "identity_unavailable",
    "budget_held",
    "too_many_in_flight",
    "outcome_unknown",
    "peer_unavailable",
}


class Process:
    """One host, composed as the product composes it, over wires that fail. When it dies, all its callers do."""

    def __init__(self, world, host):
        self.world, self.host, self.dead, self.ready = world, host, False, False
        self.running = {}  # in the order they began: a seed must always come to the same
        random = world.random
        domain = DOMAIN[host]
        settings, self.clock = world.settings[domain], LoopClock(random, random.randint(-SKEW, SKEW))
        signer, key = world.signers[host], DomainKey.from_text(letters.KEYS[domain])
        self._wires = {each.state: Wire(world, self, each.state) for each in settings.hosts.values()}

        def ringing(state):
            return Keyring(state, signer, host, key, self.clock)

        stores = Stores(settings.hosts, self._open, ringing)
        state = self._wires[settings.hosts[host].state]
        self.keyring = ringing(state)
        outbound = Outside(world, self)
        parts = compose.Parts(
            settings=settings, host=settings.hosts[host], limits=LIMITS, clock=self.clock, blobs=world.blobs[domain],
            secrets=HostSecrets({}), signer=signer, keyring=self.keyring, domain_key=key, outbound=outbound,
            discovery=outbound, operator=None, beside=stores.beside,
        )  # fmt: skip
        self.house = stores.begin(host, state, self.keyring, compose._builder(parts))
        self.gateway, self.lifecycle = Gateway(self.house), Lifecycle(self.house)
        self._stores = stores

    async def up(self):
        while True:
            try:
                await self.keyring.publish()
                for host in self.house.settings.hosts:
                    await self._stores.beside(host)
            except Problem:
                await self.world.pause(0.1)
            else:
                self.ready = True
                return self

    async def _open(self, url):
        return self._wires[url]

    def die(self):
        self.dead = True
        for task in tuple(self.running):
            if task is not asyncio.current_task():
                task.cancel()


class World(laws.World):
    """The domains and their laws. `settings` by domain, `signers` by host; `size`: how many agents begin."""

    RATES: ClassVar = {
        "trouble": (0.0, 0.1, 0.25, 0.4),
        "throttle": (0.0, 0.01, 0.04),
        "mortality": (0.0, 0.002, 0.006),
        "slow": (0.0, 0.01, 0.03),
        "arrival": (0.3, 0.03, 0.003),
    }

    def __init__(self, settings, signers, seed, size, **less):
        super().__init__(seed, size, **less)
        self.settings, self.signers = settings, signers
        self.pause = asyncio.get_running_loop().pause
        hosts = [host for domain in settings.values() for host in domain.hosts.values()]
        self.stores = {host.state: Store(self, host.state) for host in hosts}
        self.store_of = {host.name: self.stores[host.state] for host in hosts}
        self.blobs = {domain: MemoryBlobs() for domain in settings}
        self.calm, self.cuts, self.delays = True, set(), (0.0, 0.0, 0.001, 0.02)
        self.paid, self.billed = Counter(), Counter()
        self.killed, self.killed_at, self.posted = {}, {}, set()
        self.roots, self.ending = set(), set()
        self.home = {}

    # ── what happens ──

    async def live(self):
        self.processes = [await Process(self, host).up() for host in HOSTS for _ in range(2)]
        self.calm = False
        chores = asyncio.create_task(self._chores())
        agents = [asyncio.create_task(self._root(number)) for number in range(self.size)]
        await asyncio.wait(agents)
        for agent in agents:
            if agent.exception() is not None:
                self.met_with(agent.exception())
        chores.cancel()
        await asyncio.wait([chores])
        await self._rest()

    async def _chores(self):
        """Hosts come back, links are cut and mended, clocks tick timers, late writes arrive."""
        while True:
            await self.pause(self.random.choice((0.5, 3.0, 20.0)))
            for number, process in enumerate(self.processes):
                if process.dead:
                    self.processes[number] = await Process(self, process.host).up()
            if self.random.random() < 0.3:
                self.cuts = {(self.random.choice(HOSTS), self.random.choice([*self.stores, *DOMAINS]))}
            elif self.random.random() < 0.5:
                self.cuts = set()
            for _ in range(2):
                await self.on(self.process(), lambda process: tick(process.house, limit=20))
            if self.home:  # somebody looks at a task, whoever its is
                task = self.random.choice(list(self.home))
                await self.on(self.process(self.home[task]), lambda process, task=task: self._look(process, task))
            if self.random.random() < 0.1 and self.roots:
                await self._kill(self.random.choice(sorted(self.roots)))

    async def _look(self, process, task):
        return await process.lifecycle.settle_overdue(await process.house.tasks.look(task))

    async def _kill(self, task):
        """An operator ends a task in the middle of its work."""

        async def kill(process):
            head = await process.lifecycle.change(OperatorCaller(name="o"), task, "kill", "enough")
            self._acknowledged(task)
            return head

        await self.on(self.process(self.home[task]), kill)

    def process(self, host=None):
        """A living process, of one host or of any."""
        living = [each for each in self.processes if not each.dead and host in (None, each.host)]
        return self.random.choice(living) if living else None

    async def on(self, process, work):
        """Do it on a process; None where it died of it, or says that it can't now."""
        if process is None:
            await self.pause(1)
            return None
        task = asyncio.get_running_loop().create_task(self._guarded(process, work))
        process.running[task] = None
        task.add_done_callback(lambda done: process.running.pop(done, None))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and process.dead:
                return None
            raise

    async def _guarded(self, process, work):
        try:
            return await work(process)
        except Crash:
            process.die()
            return None
        except Problem as problem:
            self.seen[problem.code] += 1
            return problem

    async def _root(self, number):
        await self.pause(self.random.choice((0.0, 1.0, 30.0, 200.0)))
        host = self.random.choice(letters.GATES["home"])
        key = f"start-{number}"

        async def start(process):
            token = await self._workload(process)
            return await process.lifecycle.start(token, {"workflow": "work"}, key)

        started = await self._until(lambda: self.process(host), start)
        if started is not None:
            task = started.view.task.id
            self.roots.add(task)
            self.home[task] = host
            await self._agent(task, started.token, host, depth=2)

    async def _workload(self, process):
        from buspass.identity.local import LocalIssuer  # noqa: PLC0415 - an agent's own affair

        house = process.house
        issuer = LocalIssuer(house.settings.issuer, house.signer, house.keyring, house.clock)
        return await issuer.mint_workload("me")

    async def _until(self, where, work, tries=4):
        """Ask, and ask again with the same key where waiting or another host may help; None: given up."""
        for _ in range(tries):
            found = await self.on(where(), work)
            if found is not None and not isinstance(found, Problem):
                return found
            if isinstance(found, Problem) and found.code not in TIRED:
                return None
            await self.pause(700.0 if self.random.random() < 0.03 else self.random.choice((0.1, 1.0, 5.0)))
        return None

    async def _agent(self, task, token, host, depth):
        """Work on a task: think, pay, hand parts of it on, and end it, or be restarted and begin again."""
        acting.set(task)
        hosts = letters.GATES["home"] if host in letters.GATES["home"] else (host,)

        def where():
            return self.process(self.random.choice(hosts))

        below, most, pauses = [], 6, (0.0, 0.2, 5.0, 60.0)
        if depth < 2:  # who was handed a part is busy with it
            most, pauses = 8, (0.0, 0.2, 1.0, 1.0, 20.0)
        while True:
            for step in range(self.random.randint(1, most)):
                await self._step(task, token, where, depth, step, below)
                await self.pause(self.random.choice(pauses))
            if below and self.random.random() < 0.6:
                await asyncio.wait(below)
            if await self._end(task, token, where, depth, below) != "suspend" or self.random.random() < 0.5:
                break
            resumed = await self._until(where, lambda process: self._resume(process, task))
            if resumed is None:
                break
            token = resumed.token
        while below:
            each = below.pop()
            await asyncio.wait([each])
            if each.exception() is not None:
                raise each.exception()

    async def _step(self, task, token, where, depth, step, below):
        kind = self.random.random()
        if kind < 0.3:
            await self._until(where, lambda process: self._think(process, token, step), 2)
        elif kind < 0.42:
            await self._until(where, lambda process: self._pay(process, token, step), 3)
        elif kind < 0.5:
            at_once = [self.on(where(), lambda process: self._think(process, token, None)) for _ in range(3)]
            await asyncio.gather(*at_once)
        elif kind < 0.6:  # it does not wait for the answer
            self._beside(below, self.on(where(), lambda process: self._think(process, token, None)))
        elif depth and kind < 0.85:  # one after the other: the next one takes its place
            for number in range(self.random.choice((1, 1, 3))):
                child = await self._born(task, token, where, f"child-{step}-{number}")
                if child is not None:
                    work = self._beside(below, self._agent(*child, depth - 1))
                    if self.random.random() < 0.7:
                        await asyncio.wait([work])
        elif depth:  # more than there is, and calls as well
            for _ in range(2):
                self._beside(below, self.on(where(), lambda process: self._think(process, token, None)))
            names = [f"child-{step}-{number}" for number in range(3)]
            born = await asyncio.gather(*(self._born(task, token, where, name, few=False) for name in names))
            for child in born:
                if child is not None:
                    self._beside(below, self._agent(*child, depth - 1))

    def _beside(self, below, work):
        below.append(asyncio.get_running_loop().create_task(work, context=contextvars.copy_context()))
        return below[-1]

    async def _born(self, task, token, where, name, *, few=True):
        """Begin a child at some host of the domain, or at a peer; give its id, its token and its host."""
        domain = DOMAIN[self.home[task]]
        there = self.random.choice([*DOMAINS[domain], *(each for each in DOMAINS if each != domain)])
        ask = self._peers_child if there in DOMAINS else self._child
        child = await self._until(where, lambda process: ask(process, task, token, name, there, few=few))
        if child is None:
            return None
        born, host = child[0], letters.GATES[there][0] if there in DOMAINS else there
        self.home[born] = host
        return *child, host

    def _incoming(self, token, body, **more):
        return Incoming(token=token, body=json.dumps(body).encode(), seconds=20, flowing=20, **more)

    async def _think(self, process, token, step):
        key = f"think-{step}" if step is not None and step % 2 else None
        body = {"model": "plan", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 100}
        reply = await process.gateway.infer(self._incoming(token, body, key=key))
        self.seen["thought"] += 1
        return reply

    async def _pay(self, process, token, step):
        reply = await process.gateway.act(
            self._incoming(token, {"arguments": {"n": step}}, name="pay", key=f"pay-{step}")
        )
        self.seen["paid"] += 1
        return reply

    async def _child(self, process, parent, token, name, host, *, few):
        claims = await process.house.tokens.verify(token)
        budget = {"tokens": 3000, "cost": 0.0015, "calls": 3} if few else {}  # three times all of it is too much
        body = {"workflow": "help", "budget": budget, "host": host}
        child = await begin_child(process.house, TaskCaller(claims=claims), parent, body, name)
        self.seen["child"] += 1
        return child.view.task.id, child.token

    async def _peers_child(self, process, parent, token, name, peer, *, few):
        claims = await process.house.tokens.verify(token)
        some, much = {"tokens": 4000, "cost": 0.002, "calls": 4}, {"tokens": 8000, "cost": 0.004, "calls": 6}
        budget, workflow = (some, "help") if name.endswith("1") else (some if few else much, "guest")
        body = {"workflow": workflow, "budget": budget, "peer": peer}
        child = await hand_over(process.house, TaskCaller(claims=claims), parent, body, name)
        self.seen["child at a peer"] += 1
        return child.document["id"], child.token

    async def _resume(self, process, task):
        started = await process.lifecycle.resume(await self._workload(process), task, "")
        self.seen["resumed"] += 1
        return started

    async def _end(self, task, token, where, depth, below):
        """End it, now and then while a child is being born; give the verb where it was done."""
        verb = self.random.choice(("complete", "complete", "kill", "suspend", None))
        if depth and self.random.random() < 0.2:
            self._beside(below, self._born(task, token, where, "child-last"))
            await self.pause(self.random.choice((0.0, 0.01, 0.05)))
        if self.random.random() < 0.3:  # or while a call is on its way
            self.ending.add(task)
            self._beside(below, self.on(where(), lambda process: self._think(process, token, None)))
            await self.pause(self.random.choice((0.05, 0.2)))
        if verb is None:
            return None  # forgotten: its time ends it

        async def change(process):
            head = await process.lifecycle.change(OperatorCaller(name="o"), task, verb, "over")
            if verb == "kill":
                self._acknowledged(task)
            return head

        if await self._until(where, change) is None:
            return None
        self.seen[verb] += 1
        return verb

    def _acknowledged(self, task):
        """A kill was answered: from now on nothing of it may commit, nor of those below it in its store."""
        if (head := self._head(task)) is not None:
            self.killed.setdefault(task, set(head["open"]))
            self.killed_at.setdefault(task, START + round(asyncio.get_running_loop().time() * 1000))
            for entry in head["children"].values():
                if not entry["host"] and "peer" not in entry:
                    self._acknowledged(entry["task"])

    def _head(self, task):
        for store in self.stores.values():
            if (items := store._items.get(task)) and "head" in items:
                return items["head"]
        return None

    # ── the end ──

    async def _rest(self):
        """Nothing fails any more; three days go by with the timers at work: the books must be right."""
        for process in self.processes:
            while process.running:
                await asyncio.wait(process.running)
        for store in self.stores.values():
            store.trouble = 0.0
            if self.random.random() < 0.5:
                store.deliver()
            store.late.clear()
        self.calm, self.cuts, self.delays = True, set(), (0.0, 0.0, 0.0, 0.0)
        hosts = self.processes = [await Process(self, host).up() for host in STORES]
        for pause in (60, 700, 700, 700, 700, 90_000, 300, 90_000, 300, 300):
            await self.pause(pause)
            for host in hosts:
                for _ in range(6):
                    if not await tick(host.house, limit=500, seconds=10**6):
                        break
        await self._audit(hosts)

    async def _audit(self, hosts):
        drawn = Counter()
        for host in hosts:
            store = host.house.state.store
            for task, items in sorted(store._items.items()):
                if not task.startswith("t_") or "head" not in items:
                    continue
                head = items["head"]
                self.law(head["status"] not in {"open", "suspended"}, f"{task} lives for ever")
                self.law(not head["open"], f"{task}: a hold is left")
                self.law(not head["children"], f"{task}: a child's money is left")
                money = balance(head)
                if "pool" in head:
                    drawn[DOMAIN[host.host]] += money.spent["cost"]
                if not head.get("tombstone"):
                    if "parent" in head:
                        self._handed_back(task, head, money)
                    journal = await read_all(host.house.state, task)
                    found = await verify(host.house.journal, task, head, money.spent, journal, host.house.keyring.check)
                    self.law(not found.problems, f"{task}: {found.problems}")
        for host in ("onprem", "edge", "yard"):
            self._pools(host, drawn[DOMAIN[host]])
        self.law(all(times == 1 for times in self.paid.values()), f"paid twice: {self.paid.most_common(1)}")

    def _handed_back(self, task, head, money):
        """What a child spent is what its parent's journal says it did."""
        link = head["parent"]
        items = self.store_of[link["host"]]._items[link["task"]]
        above = Counter()
        for key, record in items.items():
            if key == f"rec:{task}" or key.startswith(f"credit:{task}."):
                above.update(record["use"])
        spent = {name: amount for name, amount in money.spent.items() if amount}
        if "peer" in link:  # what was not handed over is not counted
            spent = {name: spent[name] for name in ("tokens", "cost", "calls") if name in spent}
            self.seen["late statement"] += f"credit:{task}.0" in items
        said = {name: amount for name, amount in above.items() if amount}
        self.law(spent == said, f"{task} spent {spent}, its parent's journal says {said}")

    def _pools(self, host, drawn):
        """What a domain's pools spent is what the tasks did that drew from them, a peer's children among them."""
        spent, accounts = Counter(), self.store_of[host]._items
        for partition, items in accounts.items():
            if partition.startswith("pool:") and "head" in items:
                head = items["head"]
                allocated = head["allocated"]["cost"]
                pool = partition.split(":")[1].split(".")[0].split("/")[0]
                spent[pool] += sum(head["drawn"].values()) - head["available"]["cost"] - allocated
                self.law(not allocated or "company" in partition, f"{partition}: {allocated} is allocated for ever")
        given = sum(amount for pool, amount in spent.items() if pool.startswith(("support", "guests")))
        self.law(given == drawn, f"the pools of {DOMAIN[host]} spent {given}, their tasks {drawn}")

    # ── what must hold, after every step at a store ──

    def watch(self, store, partition, operations):
        items = self.stores[store]._items.get(partition, {})
        head = items.get("head")
        if head is None:
            return
        if partition.startswith("pool:"):
            available, allocated = head["available"]["cost"], head["allocated"]["cost"]
            self.law(available >= 0, f"{partition} is overdrawn: {available}")
            self.law(allocated >= 0, f"{partition} allocated {allocated}")
            drawn = sum(head["drawn"].values())
            self.law(drawn - available - allocated >= 0, f"{partition} has more than it drew")
            self.law(drawn <= head["limits"]["cost"], f"{partition} drew more than its limit")
        elif partition.startswith("t_"):
            self._check_task(partition, items, head)

    def _check_task(self, task, items, head):
        money = balance(head)
        if not head.get("tombstone"):
            self._check_paid(task, head)
        unclosed = {(call, entry["attempt"]) for call, entry in head["open"].items()}
        unclosed |= {(entry["task"], entry["attempt"]) for entry in head["children"].values()}
        self.posted.update((task, call) for call in head["late"])  # its marker is dropped one day
        summed, below = Counter(), 0
        for key, record in items.items():
            kind, _, call = key.partition(":")
            if (kind == "rec" and (call, record.get("attempt")) not in unclosed) or (
                kind == "credit" and (task, call) in self.posted
            ):
                summed.update(record.get("use", {}))
                below += record.get("use", {}).get("cost", 0) if record.get("kind") == "child" else 0
            if "peer" in record:
                self._check_word(task, call, items, record)
        for name in ("tokens", "cost", "calls"):
            self.law(money.available.get(name, 0) >= 0, f"{task} overspent {name}")
            self.law(
                money.spent[name] == summed[name], f"{task} {name}: spent {money.spent[name]}, records {summed[name]}"
            )
        billed = self.billed[task]
        self.law(billed <= money.spent["cost"] - below + money.held["cost"], f"{task}: {billed} billed and not held")
        if task in self.killed:
            self.law(set(head["open"]) <= self.killed[task], f"{task}: a hold after its kill was acknowledged")
            self.killed[task] &= set(head["open"])
        if self.killed_at and head["open"]:
            self._check_cut_off(task, head, max(entry["at"] for entry in head["open"].values()))

    def _check_cut_off(self, task, head, newest):
        """Who is below a killed task, wherever they lie, holds nothing (`newest`: ms) once its lease must be over."""
        while (link := head.get("parent")) is not None:
            ends = self.killed_at.get(link["task"], newest) + LEASE + SKEW
            self.law(newest <= ends, f"{task} goes on {newest - ends} ms after a lease below {link['task']}, killed")
            head = self.store_of[link["host"]]._items[link["task"]]["head"]

    def _check_word(self, task, child, items, record):
        """What a peer said counts within what it was handed."""
        for name, most in record["amounts"].items():
            corrections = (item for key, item in items.items() if key.startswith(f"credit:{child}."))
            said = record["use"].get(name, 0) + sum(item["use"].get(name, 0) for item in corrections)
            self.law(0 <= said <= most, f"{task}: {child} at a peer used {said} of {most} {name}")

    def _place(self, task):
        return next(host for host in STORES if task in self.store_of[host]._items)

    def _check_paid(self, task, head):
        """Who lives, or has not given back, lives on money that was taken for it."""
        if (link := head.get("parent")) is not None:
            above = self.store_of[link["host"]]._items[link["task"]]
            mine = (task, link["attempt"])
            paid = any((entry["task"], entry["attempt"]) == mine for entry in above["head"]["children"].values())
            self.law(paid or f"rec:{task}" in above, f"{task} lives on credit of its parent")
        if (pool := head.get("pool")) is not None and head["status"] in {"open", "suspended"}:
            account = self.store_of[letters.GATES[DOMAIN[self._place(task)]][0]]._items[f"pool:{pool}"]
            entry = account["head"]["last"].get(task) or account.get(f"alloc:{task}")
            self.law(entry is not None and entry["state"] == "open", f"{task} lives on credit of its pool")


def run(settings, signers, seed, size=SIZES[-1], **less):
    """Live one seed's world to its end."""
    loop = VirtualLoop()
    world = None

    async def live():
        nonlocal world
        world = World(settings, signers, seed, size, **less)
        await world.live()

    loop.run(live())
    return world
