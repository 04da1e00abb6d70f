"""Starts the whole example as processes on free loopback ports, and stops them again by their ids.

Owns the run directory, ports, secrets and processes. Refuses to know requests, agents and outcomes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
from returns.sides import DESK as DESK_HOST
from returns.sides import PORT, REDIS, Sides
from returns.upstreams import COORDINATOR, DESK

from buspass.testing.serve import LOOPBACK, free_port

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
HOSTS: Final = {"azure": 8710, "aws": 8720, "onprem": 8730}
UPSTREAMS: Final = {"issuer": 8741, "provider": 8742, "data": 8743, "legal": 8744, "refunds": 8745}
COMMANDS: Final = {
    "azure": ("-m", "buspass_azure.local_host", "--app", str(REPOSITORY / "azure")),
    "aws": ("-m", "buspass.testing.lambda_runtime", "--instances", "2"),
    "onprem": ("-m", "buspass", "up"),
}
"""How each host is run for real on this machine; `--port` is added, and what else a host wants."""
REAL_MODEL: Final = ("{provider: sim, model: planner-1}", "{provider: openai, model: gpt-5-mini}")
START: Final = 60
"""Seconds until all hosts must be ready."""


class NotStarted(Exception):  # noqa: N818 - named for what the user sees
    """A process did not come up; the text names it and shows the end of its log."""


class Stack:
    """The example's processes. `async with Stack(folder) as stack:` runs them; `real`: the model is OpenAI's own."""

    def __init__(self, run: Path, *, real: bool = False, sides: Sides | None = None) -> None:
        self.run, self.real, self.sides = run.resolve(), real, sides
        self.hosts = {**HOSTS, DESK_HOST: PORT} if sides else HOSTS
        self.ports = {port: free_port() for port in (*self.hosts.values(), *UPSTREAMS.values(), *REDIS)}
        self.secrets = {
            "BUSPASS_DOMAIN_KEY": secrets.token_urlsafe(32),
            "SIM_PROVIDER_KEY": f"sk-sim-{secrets.token_urlsafe(16)}",
            "RETURNS_COORDINATOR_SECRET": secrets.token_urlsafe(16),
            "RETURNS_DESK_SECRET": secrets.token_urlsafe(16),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config = self.run / "buspass.yaml"
        self.log = self.run / "services.jsonl"

    def url(self, fixed: int) -> str:
        """Where what buspass.yaml has at port `fixed` really is."""
        return f"http://{LOOPBACK}:{self.ports[fixed]}"

    @property
    def desk(self) -> str:
        """The host at which cases come in: the gateway, or with two sides a host of its own."""
        return self.url(PORT) if self.sides else self.gateway

    @property
    def gateway(self) -> str:
        """The host at which tasks are started: azure, as the agent lives there."""
        return self.url(HOSTS["azure"])

    async def __aenter__(self) -> Self:
        self._write()
        try:
            self._start_upstreams()
            await self._answers("upstreams", f"{self.url(UPSTREAMS['issuer'])}/workloads/jwks.json")
            for name, port in self.sides.servers() if self.sides else ():
                await self._start_redis(name, self.ports[port])
            for host in self.hosts:
                self._start_host(host)
            for host, port in self.hosts.items():
                await self._answers(host, f"{self.url(port)}/health/ready")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stop()

    async def workload_token(self, http: httpx.AsyncClient) -> str:
        """The coordinator's own OIDC token."""
        form = {"grant_type": "client_credentials", "client_id": COORDINATOR}
        return await self._token(http, "workloads", form, "RETURNS_COORDINATOR_SECRET")

    async def customer_token(self, http: httpx.AsyncClient, customer: str) -> str:
        """The customer's own OIDC token, which the service desk has from the customer's login."""
        form = {"grant_type": "customer", "customer": customer, "client_id": DESK}
        return await self._token(http, "customers", form, "RETURNS_DESK_SECRET")

    def lines(self) -> list[dict[str, Any]]:
        """What the services logged so far."""
        if not self.log.exists():
            return []
        whole, _, _ = self.log.read_text(encoding="utf-8").rpartition("\n")  # the last may be half written
        return [json.loads(line) for line in whole.split("\n") if line]

    async def _token(self, http: httpx.AsyncClient, realm: str, form: dict[str, str], secret: str) -> str:
        url = f"{self.url(UPSTREAMS['issuer'])}/{realm}/token"
        answer = await http.post(url, data={**form, "client_secret": self.secrets[secret]})
        return str(answer.raise_for_status().json()["access_token"])

    def _write(self) -> None:
        """The configuration as it is, with the ports of this run."""
        self.run.mkdir(parents=True, exist_ok=True)
        text = (FOLDER / "buspass.yaml").read_text(encoding="utf-8")
        if self.sides:
            text = self.sides.configured(text)
        text = re.sub(r"(?<=127\.0\.0\.1:)87\d\d", lambda port: str(self.ports[int(port[0])]), text)
        if self.real:
            text = text.replace(*REAL_MODEL)
        self.config.write_text(text, encoding="utf-8")
        shutil.copytree(FOLDER / "policies", self.run / "policies", dirs_exist_ok=True)

    def _start_upstreams(self) -> None:
        ports = [part for name, port in UPSTREAMS.items() for part in (f"--{name}", str(self.ports[port]))]
        path = os.pathsep.join(filter(None, (str(FOLDER.parent), os.environ.get("PYTHONPATH"))))
        command = ("-m", "returns.upstreams", *ports, "--gateway", self.gateway, "--log", str(self.log))
        self._spawn("upstreams", command, {"PYTHONPATH": path})

    def _start_host(self, host: str) -> None:
        data = self.run / f"data-{host}"
        settings = {"BUSPASS_HOST": host, "BUSPASS_CONFIG": str(self.config), "BUSPASS_DATA": str(data)}
        more: list[str] = ["--port", str(self.ports[self.hosts[host]])]
        if host == "aws":  # a function sees the variables it was given, not its runtime's
            names = [*settings, "BUSPASS_DOMAIN_KEY", "SIM_PROVIDER_KEY", *(["OPENAI_API_KEY"] if self.real else [])]
            more += [part for name in names for part in ("--env", name)]
        if host in {"onprem", DESK_HOST}:
            more += ["--config", str(self.config)]
        self._spawn(host, (*COMMANDS["onprem" if host == DESK_HOST else host], *more), settings)

    async def _start_redis(self, name: str, port: int) -> None:
        """A server of this run's own, which keeps all it says before it answers, and lies in the run's folder."""
        folder = self.run / name
        folder.mkdir()
        options = ("--port", str(port), "--bind", LOOPBACK, "--dir", str(folder), "--save", "", "--appendonly", "yes")
        self._spawn(name, (), {}, ["redis-server", *options])
        for _ in range(START * 20):
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise NotStarted(f"{name} was not ready after {START} s:\n{self._end_of_log(name)}")

    def _spawn(
        self, name: str, command: tuple[str, ...], settings: dict[str, str], program: Sequence[str] = (sys.executable,)
    ) -> None:
        with (self.run / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*program, *command],
                env={**os.environ, **self.secrets, **settings},
                cwd=self.run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def _answers(self, name: str, url: str) -> None:
        process = self.processes[name]
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            for _ in range(START * 20):
                if process.poll() is not None:
                    raise NotStarted(f"{name} ended with {process.returncode}:\n{self._end_of_log(name)}")
                try:
                    if (await http.get(url)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise NotStarted(f"{name} was not ready after {START} s:\n{self._end_of_log(name)}")

    def _end_of_log(self, name: str) -> str:
        return "\n".join((self.run / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    async def _stop(self) -> None:
        """Ask each process to end, in the reverse order; after ten seconds it is killed."""
        running = [process for process in reversed(self.processes.values()) if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
