"""What the stores bill, and where a domain meets their limits at 10, a thousand and a million tasks a second.

    python bench/scale.py [--write]

Runs the application in this process and counts what it asks of the store: every row as DynamoDB measures it, every
write in its units. Then a rate that many hosts share, in simulated time. Prints the tables of docs/scale.md; `--write`
puts them there. Owns the counting and the arithmetic; the limits are the services' own, as published.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.ledger.accounts import new_head
from buspass.ledger.holds import Claim, taking
from buspass.ports.forms import changed
from buspass.ports.state import Applied, Item, Operation, Refused
from buspass.rates.pace import SECOND, Limit, Pace
from buspass.rates.rates import Rates
from buspass.testing.house import Agent, Domain
from buspass.testing.state_memory import MemoryState
from buspass_aws.dynamodb_expression import encoded
from buspass_aws.dynamodb_table import ITEM, KEY, PARTITION

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
CONFIG = ROOT / "tests" / "data" / "children" / "buspass.yaml"
KB = 1024

# As published; docs/scale.md says where.
DYNAMO_ITEM, DYNAMO_TABLE = 1_000, 40_000
"""Write units a second of one partition (and so of one item), and of a table by default."""
COSMOS_PARTITION, COSMOS_CONTAINER = 10_000, 1_000_000
"""RU a second of a physical partition, and of a container by default."""
COSMOS_WRITE = 6.0
"""RU of a write of up to 2 KB, as docs/stores.md computes it from Microsoft's table."""
RATES = (10, 1_000, 1_000_000)
CALLS = (10, 5)
"""Inferences and tool calls of the task that is reckoned with."""
NAMED = {
    "task inference": "an inference's record",
    "task action": "a tool call's record",
    "task task": "a task's facts",
    "task seal": "a seal over a few records",
    "pool head": "a pool's head that remembers 64 allocations",
    "pool alloc": "an allocation's record",
}
DEMAND = (
    "tasks a second",
    "calls a second",
    "DynamoDB: write units a second",
    "of a table's default quota",
    "partitions at least",
    "Cosmos: RU a second",
    "physical partitions at least",
    "accounts (shards) of one pool",
)


def size(value: Mapping[str, Any]) -> int:
    """Give the bytes of an attribute as DynamoDB counts: names, UTF-8, two digits a byte, three for a map or list."""
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(str(content).encode())
        case "N":
            return (len(str(content).lstrip("-")) + 1) // 2 + 1 + str(content).startswith("-")
        case "M":
            return 3 + sum(1 + len(name.encode()) + size(part) for name, part in content.items())
        case "L":
            return 3 + sum(1 + size(part) for part in content)
    return 1


def row(partition: str, key: str, item: Item) -> int:
    """Give the bytes of a row."""
    names = len(PARTITION) + len(KEY) + len(ITEM)
    return names + len(partition) + len(key) + size(encoded(dict(item)))


def units(size_: int) -> int:
    return max(1, -(-size_ // KB))


@dataclass
class Bill:
    """What was asked of the store; `hot` are write units by partition's kind and key."""

    writes: int = 0
    units: int = 0
    reads: int = 0
    read_units: int = 0
    index: int = 0
    hot: Counter[str] = field(default_factory=Counter)


class Metered(MemoryState):
    """A store that applies one operation after the other, and writes DynamoDB's bill."""

    def __init__(self) -> None:
        super().__init__(transactional=False)
        self.bill = Bill()
        self.sizes: dict[str, int] = {}

    async def read(self, partition: str, key: str) -> Item | None:
        item = await super().read(partition, key)
        self.bill.reads += 1
        self.bill.read_units += max(1, -(-row(partition, key, item or {}) // (4 * KB)))
        return item

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        before = {each.key: dict(self._items.get(partition, {}).get(each.key, {})) for each in operations}
        answer = await super().apply(partition, operations)
        done = operations[: answer.index + 1] if isinstance(answer, Refused) else operations
        for each in done:
            after = self._items.get(partition, {}).get(each.key, {})
            most = max(row(partition, each.key, item) for item in (before[each.key], after))
            cost, kind = units(most), _kind(partition, each.key, after)
            self.sizes[kind] = row(partition, each.key, after)
            self.bill.writes += 1
            self.bill.units += cost
            self.bill.index += len(getattr(each, "index", {}))
            self.bill.hot[kind] += cost
        return answer


def _kind(partition: str, key: str, item: Item) -> str:
    owner, what = partition.split(":", maxsplit=1)[0].split("_", maxsplit=1)[0], key.split(":", maxsplit=1)[0]
    return f"{'task' if owner == 't' else owner} {item.get('kind') if what == 'rec' else what}"


async def answered(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path})


async def billed(store: Metered, work: Awaitable[Any]) -> Bill:
    store.bill = bill = Bill()
    answer = await work
    store.bill = Bill()
    assert answer.status_code < 500, answer.text
    return bill


async def bills() -> tuple[dict[str, Bill], dict[str, int]]:
    """Give what each thing that an agent does is billed, and the bytes of each kind of item as it was last written."""
    services = {"127.0.0.1:9002": Starlette(routes=[Route("/{path:path}", answered, methods=["GET", "POST"])])}
    found, store = {}, Metered()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "buspass.yaml"
        config.write_text(CONFIG.read_text("utf-8").replace("cost: 5.00/day", "cost: 5000.00/day"), "utf-8")
        domain = Domain(config, Path(folder), services, state=store, states={"sqlite:////azure.db": MemoryState()})
        async with domain:
            client = await domain.host()
            await domain.agent()  # so that pool, keys and breakers are there
            token = await domain.apps["onprem"].mint_workload("me")
            begin = client.post("/v1/tasks", json={"workflow": "work"}, headers={"authorization": f"Bearer {token}"})
            found["a task begins, out of its pool"] = await billed(store, begin)
            agent = await domain.agent()
            for _ in range(2):
                await agent.chat()
                await agent.call("item", {"id": "1"})
            found["an inference"] = await billed(store, agent.chat())
            found["a tool call"] = await billed(store, agent.call("item", {"id": "1"}))
            keyed = agent.chat(headers={"idempotency-key": "k"})
            found["an inference with a key"] = await billed(store, keyed)
            again = agent.chat(headers={"idempotency-key": "k"})
            found["the same once more"] = await billed(store, again)
            refused = agent.call("nothing", {})
            found["a refusal"] = await billed(store, refused)
            budget = {"tokens": 20_000, "cost": 0.2, "calls": 5}
            born = client.post(f"/v1/tasks/{agent.task}/tasks", json={"budget": budget}, headers=agent.headers)
            found["a child begins"] = await billed(store, born)
            answer = await client.post(f"/v1/tasks/{agent.task}/tasks", json={"budget": budget}, headers=agent.headers)
            child = Agent(client=client, task=answer.json()["task"]["id"], token=answer.json()["token"], document={})
            found["a child ends, and gives back"] = await billed(store, child.post("complete"))
            other = await domain.agent()
            await other.chat()
            found["a task ends, and its pool gets the rest"] = await billed(store, other.post("complete"))
            for _ in range(66):  # the pool's head remembers the last 64
                await domain.agent()
    return found, store.sizes


def heads() -> list[tuple[int, int]]:
    """Give the bytes of a task's head with so many calls in flight."""
    limits = {"tokens": 100_000, "cost": 1_000_000, "calls": 100}
    head: Any = new_head(limits=limits, expires_at=1_790_000_600_000, max_calls={"pay": 2}, index=("plan", "item"))
    found = [(0, row("t_" + "x" * 24, "head", head))]
    for number in range(64):
        claim = Claim(
            task="t", call=f"i{number:022d}", kind="inference", name="plan", fence=1, deadline=1_790_000_020_000,
            amounts={"tokens": 400, "cost": 1_300, "calls": 1, "model_calls": 1}, host="onprem", cause="",
        )  # fmt: skip
        head = changed(taking(claim, "0123456789abcdef", 1_790_000_000_000), head)
        if number + 1 in {1, 8, 64}:
            found.append((number + 1, row("t_" + "x" * 24, "head", head)))
    return found


# ── a rate that hosts share ─────────────────────────────────────────────────────────────────────────────────────────


async def shared(hosts: int, calls: int, seconds: int) -> tuple[int, int, float]:
    """Let hosts take permits of one rate in simulated time; give permits, writes, and what 99 of 100 waited."""
    from virtual import LoopClock

    loop: Any = asyncio.get_running_loop()  # a `VirtualLoop`
    random = Random(1)
    store = MemoryState(transactional=True, copies=False)
    written = [0]

    class Far:
        async def read(self, partition: str, key: str) -> Any:
            await loop.pause(0.002)
            return await store.read(partition, key)

        async def apply(self, partition: str, operations: Any) -> Any:
            await loop.pause(random.uniform(0.002, 0.006))
            written[0] += 1
            return await store.apply(partition, operations)

    pace = Pace(name="model:x", shown="x", limits={"calls": Limit(amount=calls * 2, period=SECOND)})
    far: Any = Far()  # the two of a store's verbs that a rate needs
    rooms: Any = [Rates(far, LoopClock(random)) for _ in range(hosts)]
    waited: list[float] = []

    async def one(room: Any) -> None:
        began = loop.time()
        await room.take(pace, {"calls": 1}, 30.0)
        waited.append(loop.time() - began)

    tasks = []
    for _ in range(calls * seconds):
        tasks.append(loop.create_task(one(random.choice(rooms))))
        await loop.pause(random.expovariate(calls))
    await asyncio.wait(tasks)
    return len(waited), written[0], sorted(waited)[len(waited) * 99 // 100]


def rates() -> list[tuple[int, int, int, int, float]]:
    sys.path.insert(0, str(ROOT / "tests" / "simulation"))
    from virtual import VirtualLoop

    found = []
    for hosts, calls in ((2, 10), (4, 100), (4, 1_000), (16, 1_000)):
        found.append((hosts, calls, *VirtualLoop().run(shared(hosts, calls, 5))))
    return found


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(*names: str) -> tuple[str, str]:
    """Give the head of a table."""
    return row_of(*names), "|" + "---|" * len(names)


def row_of(*cells: object) -> str:
    """Give a row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def tables() -> dict[str, str]:
    """Give the page's tables by their names."""
    found, sizes = asyncio.run(bills())
    inference, tool = found["an inference"], found["a tool call"]
    ends = found["a task begins, out of its pool"], found["a task ends, and its pool gets the rest"]
    rows = [*columns("", "writes", "write units", "index entries", "reads", "read units")]
    for what, bill in found.items():
        counts = (bill.index or "", bill.reads or "", bill.read_units or "")
        rows.append(row_of(what, bill.writes, bill.units, *counts))
    items = [*columns("item", "bytes", "write units")]
    items += [row_of(f"a task's head, {n} calls in flight", f"{b:,}", units(b)) for n, b in heads()]
    items += [row_of(name, f"{sizes[kind]:,}", units(sizes[kind])) for kind, name in NAMED.items()]
    pool = 2 * units(sizes["pool head"])  # a task draws once and gives back once, when the head is full
    few = sum(end.hot["pool head"] for end in ends)
    begin, end = ends
    each = pool - few + begin.units + end.units + CALLS[0] * inference.units + CALLS[1] * tool.units
    writes = begin.writes + end.writes + CALLS[0] * inference.writes + CALLS[1] * tool.writes
    demand = [*columns(*DEMAND)]
    for rate in RATES:
        wcu, ru = rate * each, round(rate * writes * COSMOS_WRITE)
        partitions, shards = -(-wcu // DYNAMO_ITEM), -(-rate * pool // DYNAMO_ITEM)
        share = f"{wcu / DYNAMO_TABLE:,.2f} times"
        needed = [f"{n:,}" for n in (partitions, ru, -(-ru // COSMOS_PARTITION), shards)]
        demand.append(row_of(f"{rate:,}", f"{rate * sum(CALLS):,}", f"{wcu:,}", share, *needed))
    one, eight, most = (DYNAMO_ITEM // (2 * units(size_)) for _, size_ in heads()[1:])
    shared_pool = f"{64 * DYNAMO_ITEM // pool:,}"
    limits = [
        (
            "One task: a hold and a settle write its head twice, so on DynamoDB "
            f"{one} calls a second with one in flight, {eight} with eight, {most} with 64."
        ),
        (
            f"One pool's account: {DYNAMO_ITEM // pool} tasks a second begin and end; with 64 shards, the most "
            f"there are, {shared_pool}."
        ),
        (
            f"One task of {CALLS[0]} inferences and {CALLS[1]} tool calls: {writes} writes, {each} write units where "
            "its pool's head is full."
        ),
    ]
    leased = [
        *columns("hosts", "calls a second", "permits taken", "writes", "permits a write", "99 of 100 waited at most")
    ]
    for hosts, calls, permits, written, wait in rates():
        ratio, waited = f"{permits / written:.1f}", f"{1000 * wait:.0f} ms"
        leased.append(row_of(hosts, f"{calls:,}", f"{permits:,}", f"{written:,}", ratio, waited))
    return {
        "bills": "\n".join(rows), "items": "\n".join(items), "demand": "\n".join(demand),
        "limits": "\n".join(f"- {line}" for line in limits), "leased": "\n".join(leased),
    }  # fmt: skip


def page(text: str, made: Mapping[str, str]) -> str:
    """Give the page with these tables between their marks."""
    for name, table in made.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + table + "\n" + end + rest.partition(end)[2]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    made = tables()
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text("utf-8"), made), "utf-8")
    print("\n\n".join(made.values()))


if __name__ == "__main__":
    main()
