"""Observe, take the yaml that `buspass observed` prints, enforce: the same agent is refused nothing. Real processes."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.testing.provider import Provider
from buspass.testing.serve import serving
from buspass.testing.up import up

pytestmark = pytest.mark.verify  # half a minute

KEY = "provider-key"
SECONDS = 600
AGENT = """
import os, sys, httpx

client = httpx.Client(base_url=os.environ["BUSPASS_URL"], headers={"authorization": f"Bearer {os.environ['BUSPASS_TOKEN']}"})
def chat(model, text):
    return client.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}]})
def call(tool, **arguments):
    return client.post(f"/v1/tools/{tool}", json={"arguments": arguments})
answers = [chat("plan", "look the order up"), chat("spare", "and in other words"), call("pay", order="O-1", amount=5),
           call("check", order="O-2"), call("pay", order="O-1", amount=5), call("item", id="2"), call("extra", order="O-1")]
answers += [chat("plan", f"thought {n}") for n in range(6)]
for answer in answers:
    print(answer.status_code, answer.headers.get("buspass-observed", ""), answer.text[:200] if answer.is_error else "")
sys.exit(any(answer.is_error for answer in answers))
"""
CONFIG = """
version: 1
providers:
  sim: {{api: openai, base_url: {provider}/v1, auth: {{bearer: {{secret: SIM_KEY}}}}}}
models:
  plan: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}
  spare: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}
prices:
  sim/planner-1: {{input: 1.00, output: 10.00}}
tools:
  item: {{http: {{method: GET, url: '{service}/items/{{id}}'}}, input: &item {{type: object, properties: {{id: {{type: string}}}}, required: [id]}}}}
  check:
    http: {{method: POST, url: '{service}/checks'}}
    input: &order {{type: object, properties: {{order: {{type: string}}, amount: {{type: number}}}}, required: [order]}}
    keep: {{approved: /approved, order: /order}}
  pay: {{http: {{method: POST, url: '{service}/pay'}}, input: *order}}
  extra: {{http: {{method: POST, url: '{service}/pay'}}, input: *order}}
workflows:
  shop:
    enforce: {enforce}
    loops: 'off'
    models: [plan]
    tools:
      - {{tool: item, where: {{id: '1'}}}}
      - check
      - {{tool: pay, max_calls: 1, after: [{{tool: check, where: {{approved: true, order: $arguments.order}}, within: 10m}}]}}
    budget: {{cost: 0.004, calls: 3, tokens: 2000, wait: 100ms}}
    logging: {{payloads: full}}
"""


async def _service(request):
    body = await request.json() if request.method == "POST" else {}
    return JSONResponse({"approved": False, "order": body.get("order", "")})


SERVICE = Starlette(
    routes=[
        Route("/items/{id}", _service),
        Route("/checks", _service, methods=["POST"]),
        Route("/pay", _service, methods=["POST"]),
    ]
)


@contextlib.contextmanager
def served(*apps):
    """Serve applications in a thread while a block runs; yields their URLs."""
    loop, ready, said = asyncio.new_event_loop(), threading.Event(), {}

    async def serve():
        said["stop"] = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            said["urls"] = [await stack.enter_async_context(serving(app)) for app in apps]
            ready.set()
            await said["stop"].wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield said["urls"]
    finally:
        loop.call_soon_threadsafe(said["stop"].set)
        thread.join(SECONDS)
        loop.close()


def merged(base, more):
    """What merging means: maps by member, everything else replaced."""
    if not isinstance(base, dict) or not isinstance(more, dict):
        return more
    return {**base, **{name: merged(base.get(name), value) for name, value in more.items()}}


class Home:
    """A folder with an agent and its gateway's data."""

    def __init__(self, folder):
        self.folder, self.data, self.url = folder, folder / "data", ""
        (folder / "agent.py").write_text(AGENT)

    @contextlib.contextmanager
    def gateway(self, config):
        path = self.folder / "buspass.yaml"
        path.write_text(config)
        checked = self.typed("check", str(path))
        assert checked.returncode == 0, checked.stderr
        with up("--config", str(path), data=self.data, environ={"SIM_KEY": KEY}, until="buspass listening") as running:
            self.url = running.url
            yield running
        self.url = ""

    def typed(self, *words):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BUSPASS_", "OPENAI_"))}
        environ = {**clean, "BUSPASS_DATA": str(self.data), **({"BUSPASS_URL": self.url} if self.url else {})}
        return subprocess.run(
            [sys.executable, "-m", "buspass", *words], cwd=self.folder, env=environ, text=True, capture_output=True,
            timeout=SECONDS,
        )  # fmt: skip

    def run(self):
        """Run the agent in a task of its own; gives what it did, and the journal."""
        done = self.typed("run", "--workflow", "shop", "--quiet", "--", sys.executable, "agent.py")
        task = done.stderr.split("buspass trace ")[-1].split()[0]
        headers = {"authorization": f"Bearer {(self.data / 'operator.key').read_text().strip()}"}
        assert httpx.get(f"{self.url}/v1/tasks/{task}/trace/verify", headers=headers).json()["ok"]
        return done, httpx.get(f"{self.url}/v1/tasks/{task}/trace", headers=headers).json()["records"]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def refusals(records):
    return [(row["code"], row["name"]) for row in records if row["kind"] == "refusal"]


def test_what_was_observed_is_allowed_by_the_yaml_that_it_prints(home):
    with served(Provider(KEY).app, SERVICE) as (provider, service):
        config = CONFIG.format(provider=provider, service=service, enforce="observe")
        with home.gateway(config.replace("enforce: observe", "enforce: on")):
            done, records = home.run()
            assert done.returncode == 1
            met = {code for code, _ in refusals(records)}
            assert met >= {
                "model_not_granted",
                "tool_not_granted",
                "prerequisite_missing",
                "denied",
                "budget_exhausted",
            }
        with home.gateway(config):
            done, records = home.run()
            assert done.returncode == 0, done.stdout
            assert refusals(records) == []
            told = home.typed("observed", "shop")
            assert told.returncode == 0, told.stderr
            assert "would_deny  model_not_granted" in told.stdout
            allowing = home.typed("observed", "shop", "--yaml").stdout
            assert told.stdout.endswith(allowing)
            report = json.loads(home.typed("observed", "shop", "--json").stdout)
            assert (report["tasks"], report["calls"], report["refused"]) == (1, 13, [])
        more = yaml.safe_load(allowing)
        assert more["workflows"]["shop"]["enforce"] == "on"
        enforced = yaml.safe_dump(merged(yaml.safe_load(config), more), sort_keys=False)
        with home.gateway(enforced):
            done, records = home.run()
            assert done.returncode == 0, done.stdout
            assert refusals(records) == []
            assert not any("observed" in row for row in records)


def test_only_an_operator_reads_it(home):
    with served(Provider(KEY).app, SERVICE) as (provider, service):
        config = CONFIG.format(provider=provider, service=service, enforce="observe")
        with home.gateway(config) as gateway:
            answer = httpx.get(f"{gateway.url}/v1/observed/shop")
            assert answer.status_code == 401
            missing = home.typed("observed", "nothing")
            assert (missing.returncode, "there is no workflow 'nothing' here" in missing.stderr) == (1, True)
            assert "nothing was observed" in home.typed("observed", "shop").stdout
    assert Path(home.folder, "buspass.yaml").exists()
