"""Two gateways as processes over one SQLite file and one task: nothing is overspent, nothing is lost when one is killed.

Owns the upstream, which counts for itself what it billed, and the pressure. The gateways are `buspass up`.
"""

import asyncio
import contextlib
from random import Random

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.identity.domain import DomainKey
from buspass.journal import Journal
from buspass.ledger import Ledger, balance
from buspass.ports.clock import SystemClock
from buspass.testing.serve import serving
from buspass.testing.up import up
from buspass_onprem import sqlite

CALLS = 200
AT_ONCE = 40
HOSTS = ("left", "right")
DOMAIN_KEY = "5a" * 32
CONFIG = """
version: 1
issuer: http://127.0.0.1:8700
domain_key: {{secret: BUSPASS_DOMAIN_KEY}}
hosts:
  left:  {{url: http://127.0.0.1:8701, cloud: onprem, region: here}}
  right: {{url: http://127.0.0.1:8702, cloud: onprem, region: here}}
state: sqlite:///{folder}/state.db?durability=process
blobs: file:///{folder}/blobs
providers:
  sim: {{api: openai, base_url: '{upstream}/v1', auth: none}}
models:
  plan: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}
workflows:
  work: {{loops: off, models: [plan], budget: {{tokens: 10000000, wall: 2h, wait: 60s}}}}
"""


class Upstream:
    """A slow model that uses what it is told to, and keeps its own bill."""

    def __init__(self):
        self.random, self.use, self.billed, self.now, self.most = Random(7), 10, 0, 0, 0
        self.together, self.come = 0, asyncio.Event()
        """So many calls are let wait for each other, the first ones."""
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, request):
        self.billed += self.use
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self.together:
            self.come.set()
        try:
            await asyncio.wait_for(self.come.wait(), 50)
            await asyncio.sleep(self.random.uniform(0.02, 0.2))
        finally:
            self.now -= 1
        usage = {"prompt_tokens": self.use - 1, "completion_tokens": 1, "total_tokens": self.use}
        message = {"role": "assistant", "content": "yes"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "planner-1"}
        return JSONResponse({**head, "choices": [choice], "usage": usage})


class Ahead(SystemClock):
    """A clock of twenty minutes later: what is overdue then is overdue for it now."""

    def now(self):
        return super().now() + 1_200_000


class Gateways:
    """Two processes, a client, and a look into their store."""

    def __init__(self, folder, upstream, url):
        self.folder, self.upstream = folder, upstream
        self.config = folder / "buspass.yaml"
        self.config.write_text(CONFIG.format(folder=folder, upstream=url))
        self.running, self.stacks = {}, {}
        self.client = httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=None))
        self.state = None
        self.journal = Journal(DomainKey.from_text(DOMAIN_KEY).derive("journal-mac"))

    async def __aenter__(self):
        started = await asyncio.gather(*(self.start(host) for host in HOSTS), return_exceptions=True)
        for failure in filter(None, started):
            await self.__aexit__()
            raise failure
        self.state = await sqlite.open(f"sqlite:///{self.folder}/state.db?durability=process")
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()
        await asyncio.gather(*(asyncio.to_thread(stack.close) for stack in self.stacks.values()))
        if self.state is not None:
            await self.state.close()

    async def start(self, host):
        environ = {"BUSPASS_HOST": host, "BUSPASS_DOMAIN_KEY": DOMAIN_KEY}
        stack = self.stacks[host] = contextlib.ExitStack()
        gateway = up(
            "--config", str(self.config), data=self.folder / host, environ=environ,
            until="export BUSPASS_WORKLOAD_TOKEN",
        )  # fmt: skip
        self.running[host] = await asyncio.to_thread(stack.enter_context, gateway)

    async def kill(self, host):
        """kill -9, and another process in its place."""
        self.running[host].process.kill()
        await asyncio.to_thread(self.stacks[host].close)
        await self.start(host)

    async def task(self, **budget):
        gateway = self.running["left"]
        headers = {"authorization": f"Bearer {gateway.environ['BUSPASS_WORKLOAD_TOKEN']}"}
        body = {"workflow": "work", "budget": budget}
        answer = await self.client.post(f"{gateway.url}/v1/tasks", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["task"]["id"], {"authorization": f"Bearer {answer.json()['token']}"}

    async def chat(self, host, headers, n=0):
        body = {"model": "plan", "messages": [{"role": "user", "content": f"Call {n:03}."}]}
        return await self.client.post(f"{self.running[host].url}/v1/chat/completions", json=body, headers=headers)

    async def hold_size(self):
        _, headers = await self.task(tokens=1)
        refused = (await self.chat("left", headers)).json()
        assert refused["error"]["code"] == "budget_exhausted", refused
        return int(refused["error"]["needed"])

    async def watched(self, task, headers, limit, over, refusals=None):
        """Read the task by every way there is until `over`; each time the books must be right."""
        await asyncio.gather(self._read(task, over, refusals), self._shown(task, headers, limit, over))

    async def _read(self, task, over, refusals):
        looks = 0
        while not over.is_set():
            refused, billed = bool(refusals), self.upstream.billed
            money = balance(await self.state.read(task, "head"))
            assert billed <= money.spent["tokens"] + money.held["tokens"]
            if refused:
                assert money.available["tokens"] + money.held["tokens"] < refusals[0]
            looks += 1
            await asyncio.sleep(0.002)
        assert looks > 20

    async def _shown(self, task, headers, limit, over):
        looks = 0
        while not over.is_set():
            looks += 1
            host = HOSTS[looks % 2]
            with contextlib.suppress(httpx.TransportError):  # this one is just being killed
                shown = await self.client.get(f"{self.running[host].url}/v1/tasks/{task}", headers=headers)
                budget = {name: row.get("tokens", 0) for name, row in shown.json()["budget"].items()}
                parts = [budget[name] for name in ("available", "held", "spent", "allocated")]
                assert sum(parts) == budget["limits"] == limit
                assert min(parts) >= 0
            await asyncio.sleep(0.002)
        assert looks > 1

    async def swept(self, task):
        ledger = Ledger(self.state, Ahead(), self.journal.stamp)
        await ledger.sweep(task)
        head = await self.state.read(task, "head")
        assert not head["open"]
        return balance(head)

    async def whole(self, task, headers):
        """Each process proves for itself that the head is the sum of its records."""
        for host in HOSTS:
            verdict = await self.client.get(f"{self.running[host].url}/v1/tasks/{task}/trace/verify", headers=headers)
            assert verdict.json()["ok"], verdict.text


@pytest.fixture
async def gateways(tmp_path):
    upstream = Upstream()
    async with serving(upstream.app) as url, Gateways(tmp_path, upstream, url) as running:
        yield running


async def pressed(gateways, task, headers, limit, refusals=None):
    """Two hundred calls at once, half of them at each process, under watch."""
    over = asyncio.Event()
    watch = asyncio.create_task(gateways.watched(task, headers, limit, over, refusals))

    async def call(n):
        answer = await gateways.chat(HOSTS[n % 2], headers, n)
        if answer.status_code == 402 and refusals is not None:
            refusals.append(answer.json()["error"]["needed"])
        return answer

    answers = await asyncio.gather(*(call(n) for n in range(CALLS)))
    over.set()
    await watch
    return answers


async def test_two_hundred_calls_on_a_budget_for_forty_at_a_time_all_get_their_turn(gateways):
    size = await gateways.hold_size()
    limit = size * AT_ONCE
    task, headers = await gateways.task(tokens=limit)
    gateways.upstream.use = size // 10  # in all half of the budget: nobody may be told that it is gone
    gateways.upstream.together = AT_ONCE // 2 + 1  # a busy machine brings them one by one
    answers = await pressed(gateways, task, headers, limit)
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.status_code != 200][:3]
    assert AT_ONCE / 2 < gateways.upstream.most <= AT_ONCE
    money = balance(await gateways.state.read(task, "head"))
    assert money.spent["tokens"] == gateways.upstream.billed == CALLS * (size // 10)
    await gateways.whole(task, headers)


@pytest.mark.verify
async def test_when_money_runs_out_it_is_said_once_none_can_come_back_and_the_limit_holds(gateways):
    size = await gateways.hold_size()
    limit = size * AT_ONCE
    task, headers = await gateways.task(tokens=limit)
    gateways.upstream.use = size // 2  # in all two and a half times the budget
    answers = await pressed(gateways, task, headers, limit, refusals=[])
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 402}
    money = balance(await gateways.state.read(task, "head"))
    assert gateways.upstream.billed == money.spent["tokens"] == codes.count(200) * (size // 2) <= limit
    assert money.available["tokens"] < size  # not a single one more could have been held
    await gateways.whole(task, headers)


@pytest.mark.verify
async def test_a_process_killed_at_any_moment_leaves_books_that_the_sweep_makes_right(gateways):
    size = await gateways.hold_size()
    limit = size * CALLS * 2
    task, headers = await gateways.task(tokens=limit)
    gateways.upstream.use = size // 3
    over, random = asyncio.Event(), Random(11)
    watch = asyncio.create_task(gateways.watched(task, headers, limit, over))
    lost = 0
    for host in ("left", "right", "left"):
        calls = [asyncio.create_task(gateways.chat(HOSTS[n % 2], headers, n)) for n in range(60)]
        await asyncio.sleep(random.uniform(0.05, 0.3))
        await gateways.kill(host)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        lost += sum(isinstance(answer, httpx.TransportError) for answer in answers)
        assert all(isinstance(a, httpx.TransportError) or a.status_code == 200 for a in answers), answers
    over.set()
    await watch
    assert lost > 5  # or nothing was in flight, and nothing proven
    money = await gateways.swept(task)
    assert gateways.upstream.billed <= money.spent["tokens"] <= limit
    assert not any(money.held.values())
    await gateways.whole(task, headers)
