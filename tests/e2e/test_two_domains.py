"""Two trust domains as processes, each with its own keys and store: a budget goes over, is spent there, and comes back.

Owns the model, which keeps its own bill. The gateways are `buspass up`, which find each other by the file alone.
"""

import asyncio
import contextlib
import sqlite3

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.testing.serve import free_port, serving
from buspass.testing.up import up

pytestmark = pytest.mark.verify

HOME = """
version: 1
issuer: {home}
hosts: {{home: {{url: '{home}', cloud: onprem, region: here}}}}
providers: {{sim: {{api: openai, base_url: '{model}/v1', auth: none}}}}
models: {{plan: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}}}
prices: {{sim/planner-1: {{input: 1.00, output: 10.00}}}}
peers: {{partner: {{url: '{partner}', issuer: '{partner}'}}}}
workflows:
  order: {{loops: off, models: [plan], budget: {{cost: 1.00, depth: 1, wall: 10m}}}}
"""
PARTNER = """
version: 1
issuer: {partner}
hosts: {{partner: {{url: '{partner}', cloud: onprem, region: there}}}}
providers: {{sim: {{api: openai, base_url: '{model}/v1', auth: none}}}}
models: {{plan: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}}}
prices: {{sim/planner-1: {{input: 1.00, output: 10.00}}}}
peers: {{home: {{url: '{home}', issuer: '{home}'}}}}
pools: {{guests: {{cost: 5.00/day}}}}
workflows:
  supply:
    loops: off
    agents: [{{identity: home, agent: 'local:*'}}]
    models: [plan]
    budget: {{cost: 0.50, wall: 10m}}
    pool: guests
"""


class Model:
    """It costs a hundredth of a cent and more, and writes a bill of its own (micro-dollars)."""

    def __init__(self):
        self.billed = 0
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, request):
        await request.body()
        self.billed += 20 + 10 * 9
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "planner-1"}
        return JSONResponse({**head, "choices": [choice], "usage": usage})


class Domain:
    """One gateway: its folder holds its keys and its store."""

    def __init__(self, folder, port, text):
        self.folder, self.port = folder, port
        self.config = folder / "buspass.yaml"
        self.config.write_text(text)
        self.stack = None

    async def start(self):
        self.stack = contextlib.ExitStack()
        gateway = up(
            "--config", str(self.config), "--port", str(self.port), data=self.folder / "data",
            until="export BUSPASS_WORKLOAD_TOKEN",
        )  # fmt: skip
        self.running = await asyncio.to_thread(self.stack.enter_context, gateway)

    async def stop(self):
        await asyncio.to_thread(self.stack.close)

    async def die(self):
        self.running.process.kill()
        await self.stop()

    @property
    def url(self):
        return self.running.url

    def holds(self, text):
        """Whether anything in the store names it."""
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "state.db")) as database:
            return text in "\n".join(database.iterdump())


@pytest.fixture
async def domains(tmp_path):
    model, ports = Model(), {"home": free_port(), "partner": free_port()}
    async with serving(model.app) as url:
        names = {"model": url, **{name: f"http://127.0.0.1:{port}" for name, port in ports.items()}}
        made = []
        for name, text in (("home", HOME), ("partner", PARTNER)):
            (tmp_path / name / "data").mkdir(parents=True)
            made.append(Domain(tmp_path / name, ports[name], text.format(**names)))
        async with contextlib.AsyncExitStack() as stack:
            for domain in made:
                await domain.start()
                stack.push_async_callback(domain.stop)
            async with httpx.AsyncClient(timeout=60) as client:
                yield client, model, *made


async def begun(client, home):
    headers = {"authorization": f"Bearer {home.running.environ['BUSPASS_WORKLOAD_TOKEN']}"}
    answer = await client.post(f"{home.url}/v1/tasks", json={"workflow": "order"}, headers=headers)
    assert answer.status_code == 201, answer.text
    started = answer.json()
    return f"{home.url}/v1/tasks/{started['task']['id']}", {"authorization": f"Bearer {started['token']}"}


async def handed(client, task, headers, key):
    wish = {"peer": "partner", "workflow": "supply", "budget": {"cost": 0.20}}
    return await client.post(f"{task}/tasks", json=wish, headers={**headers, "idempotency-key": key})


async def test_a_budget_goes_to_another_domain_is_spent_there_and_comes_back(domains):
    client, model, home, partner = domains
    assert (home.folder / "data" / "keys").is_dir()
    keys = [{path.read_bytes() for path in (each.folder / "data" / "keys").iterdir()} for each in (home, partner)]
    assert not keys[0] & keys[1], "nothing is shared"
    task, headers = await begun(client, home)
    answer = await handed(client, task, headers, "k")
    assert answer.status_code == 201, answer.text
    child, token = answer.json(), {"authorization": f"Bearer {answer.json()['token']}"}
    assert child["base_url"] == f"{partner.url}/v1"
    assert child["task"]["principal"]["identity"] == "home"
    body = {"model": "plan", "messages": [{"role": "user", "content": "Have you any?"}]}
    for _ in range(3):
        reply = await client.post(f"{child['base_url']}/chat/completions", json=body, headers=token)
        assert reply.status_code == 200, reply.text
    there = f"{partner.url}/v1/tasks/{child['task']['id']}"
    assert (await client.get(task, headers=headers)).json()["budget"]["allocated"]["cost"] == 0.2
    assert (await client.post(f"{there}/complete", json={}, headers=token)).status_code == 200
    shown = (await client.get(task, headers=headers)).json()
    assert shown["children"] == []
    assert round(shown["budget"]["spent"]["cost"] * 10**6) == model.billed == 330
    assert (await client.get(f"{task}/trace/verify", headers=headers)).json()["ok"]
    assert not home.holds("Have you any?")
    assert not partner.holds(headers["authorization"].removeprefix("Bearer "))


async def test_a_peer_that_dies_keeps_what_it_has_until_it_is_back(domains):
    client, model, home, partner = domains
    task, headers = await begun(client, home)
    first = await handed(client, task, headers, "k")
    assert first.status_code == 201, first.text
    await partner.die()
    refused = await handed(client, task, headers, "other")
    assert (refused.status_code, refused.json()["code"]) == (503, "peer_unavailable")
    assert (await client.get(task, headers=headers)).json()["budget"]["allocated"]["cost"] == 0.4
    await partner.start()
    for _ in range(30):  # a peer that did not answer is left alone for ten seconds
        again = await handed(client, task, headers, "other")
        if again.status_code == 201:
            break
        await asyncio.sleep(1)
    assert again.status_code == 201, again.text
    same = await handed(client, task, headers, "k")
    assert same.json()["task"]["id"] == first.json()["task"]["id"]
    killed = (await client.post(f"{task}/kill", json={}, headers=headers)).json()
    assert (killed["status"], killed["children"], killed["in_flight"]) == ("killed", [], 0)
    token = {"authorization": f"Bearer {same.json()['token']}"}
    body = {"model": "plan", "messages": [{"role": "user", "content": "Still there?"}]}
    dead = await client.post(f"{same.json()['base_url']}/chat/completions", json=body, headers=token)
    assert (dead.status_code, dead.json()["error"]["code"]) == (403, "task_killed")
    assert model.billed == 0
