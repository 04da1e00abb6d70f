"""A whole trust domain in one process, for tests: hosts over one store, a provider, services, a clock you move.

Owns nothing of the product: it composes the real application over the memory adapters and in-process outbound. A test
talks to it over HTTP as an agent would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from buspass.config import compiled
from buspass.config.build import load
from buspass.http import Application
from buspass.http.compose import composed
from buspass.model import Limits
from buspass.ports.clock import Clock
from buspass.ports.state import State
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.clock import FakeClock
from buspass.testing.outbound import AsgiOutbound, RecordingOutbound
from buspass.testing.provider import Provider
from buspass.testing.state_counting import Counting
from buspass.testing.state_memory import MemoryState

LIMITS = Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)
PROVIDER_KEY = "provider-key"
DOMAIN_KEY = "00" * 32


@cache
def _urls(text: str) -> dict[str, str]:
    """Give each host's store in a configuration, "" for the domain's own; read once, for many domains share a file."""
    return {name: str(shape.get("state", "")) for name, shape in yaml.safe_load(text)["hosts"].items()}


@cache
def _compiled(path: Path, sources: tuple[bytes, ...], host: str) -> bytes:
    """Give a configuration as a bundle carries it. `sources` are the file and its policies, so that a change counts.

    Reading YAML, judging it and resolving its prices is half of what a host costs that answers three requests.
    """
    del sources
    data, nowhere = "/nowhere/data", "/nowhere"  # the folder's own paths stay as they are
    settings = load(path, environ={"BUSPASS_DATA": data, "BUSPASS_HOST": host})
    return compiled.written(settings, folder=nowhere, data=data, loopback=True)


@dataclass(kw_only=True)
class Agent:
    """A task and its token, with shorthands for what an agent does."""

    client: httpx.AsyncClient
    task: str
    token: str
    document: Mapping[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def chat(self, text: str = "hello", **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        body = {"model": "plan", "messages": [{"role": "user", "content": text}], **more}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def call(self, tool: str, arguments: Mapping[str, Any], **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        body = {"arguments": dict(arguments), **more}
        return await self.client.post(f"/v1/tools/{tool}", json=body, headers=headers)

    async def get(self, path: str = "") -> httpx.Response:
        return await self.client.get(f"/v1/tasks/{self.task}{path}", headers=self.headers)

    async def post(self, verb: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/v1/tasks/{self.task}/{verb}", json=body, headers=self.headers)


class Borrowed(Counting):
    """A store that another host of the test lives on: its borrower leaves it open."""

    async def close(self) -> None:
        """Let it be."""


class Domain:
    """One or more hosts of the configuration at `path`, on one memory store. Use `async with`."""

    def __init__(
        self,
        path: Path,
        data: Path,
        services: Mapping[str, Any],
        *,
        provider: Provider | None = None,
        clock: Clock | None = None,
        state: State | None = None,
        states: Mapping[str, State] | None = None,
        limits: Limits = LIMITS,
        domain_key: str = DOMAIN_KEY,
    ) -> None:
        """`states`: the stores of hosts that override `state`, by their URL."""
        self._domain_key = domain_key
        self.clock = clock or FakeClock()
        self.states = dict(states or {})
        self.state = Counting(state or MemoryState())
        self.blobs = MemoryBlobs()
        self.provider = provider or Provider(PROVIDER_KEY)
        self.outbound = RecordingOutbound(AsgiOutbound({"127.0.0.1:9001": self.provider.app, **services}))
        self.apps: dict[str, Application] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._path, self._data, self._limits = path, data, limits

    async def host(self, name: str = "onprem") -> httpx.AsyncClient:
        """Bring a host up, once, and give a client of it."""
        if name not in self._clients:
            policies = sorted(self._path.parent.rglob("*.rego"))
            sources = tuple(each.read_bytes() for each in (self._path, *policies))
            self._data.mkdir(parents=True, exist_ok=True)
            bundled = self._data / f"{name}.json"
            bundled.write_bytes(_compiled(self._path, sources, name))
            environ = {
                "BUSPASS_CONFIG": str(bundled),
                "BUSPASS_DATA": str(self._data / name),
                "BUSPASS_HOST": name,
                "PROVIDER_KEY": PROVIDER_KEY,
                "BUSPASS_DOMAIN_KEY": self._domain_key,
            }
            self.apps[name] = await composed(
                environ,
                self._limits,
                outbound=self.outbound,
                clock=self.clock,
                state=self.states.get(self._url(name), self.state),
                blobs=self.blobs,
                opening=self._opening,
            )
            transport = httpx.ASGITransport(self.apps[name])
            self._clients[name] = httpx.AsyncClient(transport=transport, base_url=f"http://{name}")
        return self._clients[name]

    def _url(self, host: str) -> str:
        """Give the store's URL that the file says for this host, "" for the domain's own."""
        return _urls(self._path.read_text("utf-8"))[host]

    async def _opening(self, url: str) -> State:
        return Borrowed(self.states.get(url, self.state))

    async def agent(self, host: str = "onprem", workflow: str = "work", agent: str = "me", **body: Any) -> Agent:
        """Start a task as a workload of the local issuer."""
        client = await self.host(host)
        token = await self.apps[host].mint_workload(agent)
        headers = {"authorization": f"Bearer {token}", **body.pop("headers", {})}
        response = await client.post("/v1/tasks", json={"workflow": workflow, **body}, headers=headers)
        assert response.status_code == 201, response.text
        started = response.json()
        return Agent(client=client, task=started["task"]["id"], token=started["token"], document=started["task"])

    async def at(self, host: str, agent: Agent) -> Agent:
        """Give the same task's agent at another host of the domain."""
        return Agent(client=await self.host(host), task=agent.task, token=agent.token, document=agent.document)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for client in self._clients.values():
            await client.aclose()
        for app in self.apps.values():
            await app.close()
