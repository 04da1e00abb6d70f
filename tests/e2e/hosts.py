"""Three hosts of one trust domain as processes, and in this process what stands around them.

Owns ports, processes and the simulated issuer, provider and services. Refuses to know what a test sends.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from buspass.testing.issuer import Issuer, Realm
from buspass.testing.provider import Provider, echo
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.serve import LOOPBACK, free_port, serving

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / "tests" / "data" / "hosts"
HOSTS = {"azure": 8810, "aws": 8820, "onprem": 8830}
STREAMING = {"aws": 8820, "aws-whole": 8821, "azure": 8810, "onprem": 8830}
"""Hosts of a domain where Lambda streams, by a runtime of ours, and beside it answers whole, by AWS's."""
UPSTREAMS = {"issuer": 8841, "provider": 8842, "services": 8843, "claude": 8844}
NOBODY = 8849
READY = 240
"""Seconds until a host must answer: one that has ended is seen at once, so only a hang takes so long."""
SECRETS = {"PROVIDER_KEY": "sim-key", "BUSPASS_DOMAIN_KEY": "5a" * 32}
COMMANDS = {
    "azure": ["-m", "buspass_azure.local_host", "--app", str(REPOSITORY / "azure")],
    "aws": ["-m", "buspass.testing.lambda_runtime", "--instances", "2"],
    "onprem": ["-m", "buspass", "up"],
}


@dataclass(frozen=True)
class Answer:
    """What came back: header names in lower case, repeated ones in a list."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def exchange(url, method, path, headers=(), body=None):
    """Send one request exactly as it is given: no path is tidied, no header but Host and Content-Length is added.

    `body` may be a list of chunks, which goes out without a length.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=180)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        chunked = isinstance(body, list)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body, encode_chunked=chunked)
        response = connection.getresponse()
        found = {}
        for name, value in response.getheaders():
            found.setdefault(name.lower(), []).append(value)
        return Answer(response.status, found, response.read())


def mind(request):
    """Ask for the tool calls that the last message spells out as JSON after `call `, else say it again."""
    text = echo(request)["content"]
    if text.startswith("call "):
        return {"content": "I call.", "tool_calls": json.loads(text.removeprefix("call "))}
    return {"content": text}


class Services:
    """What stands behind the tools. `log` is the order in which things really happened there."""

    def __init__(self):
        self.log = []
        self.plans = {}
        """Of an order: approved, and seconds that a check and a payment of it take."""
        self.gates = {}
        """Of an order: a threading.Event that its check waits for."""
        self.app = Starlette(
            routes=[
                Route("/items/{id:path}", self.item),
                Route("/notes", self.note, methods=["POST"]),
                Route("/checks", self.check, methods=["POST"]),
                Route("/payments", self.pay, methods=["POST"]),
            ]
        )

    async def item(self, request):
        name = request.path_params["id"]
        match name:
            case "broken":
                return JSONResponse({"secret": "of the service"}, 500)
            case "page":
                return Response("<html>sorry</html>", media_type="text/html")
            case "slow":
                await asyncio.sleep(60)
        return JSONResponse({"id": name, "größe": 1.5, "query": dict(request.query_params)})

    async def note(self, request):
        return JSONResponse({"noted": (await request.json())["text"]})

    async def check(self, request):
        order = (await request.json())["order"]
        approved, seconds, _ = self.plans.get(order, (not order.startswith("no"), 0, 0))
        self.log.append(("asked", order))
        if order in self.gates:
            await asyncio.to_thread(self.gates[order].wait, 60)
        await asyncio.sleep(seconds)
        self.log.append(("yes" if approved else "no", order))
        return JSONResponse({"approved": approved, "order": order})

    async def pay(self, request):
        order = (await request.json())["order"]
        self.log.append(("paid", order))
        await asyncio.sleep(self.plans.get(order, (False, 0, 0))[2])
        return JSONResponse({"paid": order})


class Surroundings(threading.Thread):
    """Issuer, provider and services on an event loop of their own, so that a test may block."""

    def __init__(self, ports):
        super().__init__(daemon=True)
        self.ports = ports
        base = f"http://{LOOPBACK}:{ports['issuer']}"
        self.issuer = Issuer(
            base,
            [
                Realm(name="workloads", audience="api://buspass", clients={"worker": "x", "other": "y"}),
                Realm(name="customers", audience="api://buspass", clients={}, customers=True, algorithm="RS256"),
                Realm(name="nobody", audience="api://buspass", clients={}),
            ],
        )
        self.provider = Provider(SECRETS["PROVIDER_KEY"], mind=mind)
        self.claude = AnthropicProvider(SECRETS["PROVIDER_KEY"])
        self.services = Services()
        self.ready = threading.Event()
        self.loop = None
        self.stopped = None

    def run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        apps = {"issuer": self.issuer.app, "provider": self.provider.app, "services": self.services.app}
        apps |= {"claude": self.claude.app}
        async with contextlib.AsyncExitStack() as stack:
            for name, app in apps.items():
                await stack.enter_async_context(serving(app, port=self.ports[name]))
            self.ready.set()
            await self.stopped.wait()

    def stop(self):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.join(60)


class Domain:
    """The trust domain while a `with` block runs. `urls` by host; logs and stores lie in `folder`.

    `data`: the folder of its buspass.yaml, whose ports are those of `hosts` and UPSTREAMS.
    """

    def __init__(self, folder, hosts=HOSTS, data=DATA):
        self.folder = folder
        known = {**HOSTS, **STREAMING}
        ports = {port: free_port() for port in (*known.values(), *UPSTREAMS.values(), NOBODY)}
        self.commands = dict(COMMANDS)
        if "aws-whole" in hosts:
            self.commands |= {"aws-whole": COMMANDS["aws"], "aws": [*COMMANDS["aws"], "--streaming"]}
        self.urls = {host: f"http://{LOOPBACK}:{ports[known[host]]}" for host in hosts}
        self.around = Surroundings({name: ports[port] for name, port in UPSTREAMS.items()})
        self.away = f"http://{LOOPBACK}:{ports[NOBODY]}/nobody"
        self.config = folder / "buspass.yaml"
        self.processes = {}
        text = (data / "buspass.yaml").read_text("utf-8")
        self.config.write_text(re.sub(r"(?<=127\.0\.0\.1:)88\d\d", lambda found: str(ports[int(found[0])]), text))
        if (data / "policies").exists():
            shutil.copytree(data / "policies", folder / "policies")

    def workload(self, agent="worker", **claims):
        return self.around.issuer.workload("workloads", agent, **claims)

    def customer(self, name):
        return self.around.issuer.customer("customers", name)

    def operator_key(self, host):
        return (self._data(host) / "operator.key").read_text().strip()

    def send(self, host, method, path, token=None, document=None, **headers):
        """Send JSON as a well-behaved client does."""
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if token is not None:
            pairs.append(("Authorization", f"Bearer {token}"))
        body = None
        if document is not None:
            pairs.append(("Content-Type", "application/json"))
            body = json.dumps(document).encode()
        return exchange(self.urls[host], method, path, pairs, body)

    def start(self, host, workflow):
        """Begin a task and give (id, token)."""
        answer = self.send(host, "POST", "/v1/tasks", self.workload(), {"workflow": workflow})
        assert answer.status == 201, answer
        return answer.json["task"]["id"], answer.json["token"]

    def __enter__(self):
        self.around.start()
        assert self.around.ready.wait(READY)
        try:
            for host in self.urls:
                self._spawn(host)
            for host in self.urls:
                self._await(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        running = [process for process in self.processes.values() if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.around.stop()

    def log(self, host):
        return (self.folder / f"{host}.log").read_text(errors="replace")

    def _data(self, host):
        return self.folder / f"data-{host}"

    def settings(self, host):
        """The variables that a host is started with."""
        return {
            "BUSPASS_HOST": host,
            "BUSPASS_CONFIG": str(self.config),
            "BUSPASS_DATA": str(self._data(host)),
            **SECRETS,
        }

    def interpreter(self, host):
        return sys.executable

    def _spawn(self, host):
        settings = self.settings(host)
        command = [self.interpreter(host), *self.commands[host], "--port", self.urls[host].rpartition(":")[2]]
        if host.startswith("aws"):  # a function sees the variables that it was given, and no other
            command += [part for name in settings for part in ("--env", name)]
        if host == "onprem":
            command += ["--config", settings["BUSPASS_CONFIG"]]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSPASS_")} | settings
        with (self.folder / f"{host}.log").open("wb") as log:
            self.processes[host] = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _await(self, host):
        until = time.monotonic() + READY
        while time.monotonic() < until:
            assert self.processes[host].poll() is None, f"{host} ended:\n{self.log(host)}"
            try:
                if exchange(self.urls[host], "GET", "/health/ready").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{host} was not ready after {READY} s:\n{self.log(host)}")
