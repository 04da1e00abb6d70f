"""Starts the whole example as processes: three hosts, or four with two stores, and all that stands around them.

Owns the fixed ports and what is written for `--stores`. Refuses to know requests, agents and outcomes.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, Final

import httpx
from returns.sides import DESK as DESK_HOST
from returns.sides import PORT, REDIS, Sides
from returns.upstreams import COORDINATOR, DESK
from staging.stack import START, NotStarted, Processes, lines

from buspass.testing.serve import LOOPBACK

FOLDER = Path(__file__).parent
HOSTS: Final = {"azure": 8710, "aws": 8720, "onprem": 8730}
UPSTREAMS: Final = {"issuer": 8741, "provider": 8742, "data": 8743, "legal": 8744, "refunds": 8745}
REAL_MODEL: Final = ("{provider: sim, model: planner-1}", "{provider: openai, model: gpt-5-mini}")


class Stack(Processes):
    """The example's processes. `async with Stack(folder) as stack:` runs them; `real`: the model is OpenAI's own."""

    def __init__(self, run: Path, *, real: bool = False, sides: Sides | None = None) -> None:
        self.real, self.sides = real, sides
        super().__init__(
            run,
            hosts={**HOSTS, DESK_HOST: PORT} if sides else HOSTS,
            others=(*UPSTREAMS.values(), *REDIS),
            keys=("RETURNS_COORDINATOR_SECRET", "RETURNS_DESK_SECRET"),
        )
        self.log = self.run / "services.jsonl"

    @property
    def desk(self) -> str:
        """The host at which cases come in: the gateway, or with two sides a host of its own."""
        return self.url(PORT) if self.sides else self.gateway

    async def surroundings(self) -> None:
        self._write()
        ports = [part for name, port in UPSTREAMS.items() for part in (f"--{name}", str(self.ports[port]))]
        self.module("upstreams", "returns.upstreams", *ports, "--gateway", self.gateway, "--log", str(self.log))
        await self.answers("upstreams", f"{self.url(UPSTREAMS['issuer'])}/workloads/jwks.json")
        for name, port in self.sides.servers() if self.sides else ():
            await self._start_redis(name, self.ports[port])

    async def workload_token(self, http: httpx.AsyncClient) -> str:
        """The coordinator's own OIDC token."""
        form = {"grant_type": "client_credentials", "client_id": COORDINATOR}
        return await self.token(http, f"{self.url(UPSTREAMS['issuer'])}/workloads", form, "RETURNS_COORDINATOR_SECRET")

    async def customer_token(self, http: httpx.AsyncClient, customer: str) -> str:
        """The customer's own OIDC token, which the service desk has from the customer's login."""
        form = {"grant_type": "customer", "customer": customer, "client_id": DESK}
        return await self.token(http, f"{self.url(UPSTREAMS['issuer'])}/customers", form, "RETURNS_DESK_SECRET")

    def lines(self) -> list[dict[str, Any]]:
        """What the services logged so far."""
        return lines(self.log)

    def _write(self) -> None:
        """The configuration as it is, with the ports of this run."""
        text = (FOLDER / "buspass.yaml").read_text(encoding="utf-8")
        if self.sides:
            text = self.sides.configured(text)
        self.configure(text.replace(*REAL_MODEL) if self.real else text)
        shutil.copytree(FOLDER / "policies", self.run / "policies", dirs_exist_ok=True)

    async def _start_redis(self, name: str, port: int) -> None:
        """A server of this run's own, which keeps all it says before it answers, and lies in the run's folder."""
        folder = self.run / name
        folder.mkdir()
        options = ("--port", str(port), "--bind", LOOPBACK, "--dir", str(folder), "--save", "", "--appendonly", "yes")
        self.spawn(name, (), {}, ["redis-server", *options])
        for _ in range(START * 20):
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise NotStarted(f"{name} was not ready after {START} s:\n{self.end_of_log(name)}")
