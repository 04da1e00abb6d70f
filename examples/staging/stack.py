"""Starts an example as processes on free loopback ports, and stops them again by their ids.

Owns the run directory, ports, secrets and processes. Refuses to know what an example shows, its agents and outcomes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from buspass.testing.serve import LOOPBACK, free_port

REPOSITORY: Final = Path(__file__).parents[2]
COMMANDS: Final = {
    "azure": ("-m", "buspass_azure.local_host", "--app", str(REPOSITORY / "azure")),
    "aws": ("-m", "buspass.testing.lambda_runtime", "--instances", "2"),
    "onprem": ("-m", "buspass", "up"),
}
"""How each host is run for real on this machine; `--port` is added, and what else a host wants."""
START: Final = 60
"""Seconds until all hosts must be ready."""


class NotStarted(Exception):  # noqa: N818 - named for what the user sees
    """A process did not come up; the text names it and shows the end of its log."""


class Processes:
    """An example's processes. `async with` runs them; `hosts` by name at the ports that buspass.yaml has for them."""

    real = False
    """Whether the model is a provider's own, whose key the hosts then need."""
    secret: tuple[str, ...] = ("BUSPASS_DOMAIN_KEY", "SIM_PROVIDER_KEY")
    """The secrets that buspass.yaml names."""

    def __init__(self, run: Path, *, hosts: Mapping[str, int], others: Iterable[int], keys: Iterable[str]) -> None:
        """`others`: the fixed ports of everything else; `keys`: names of further secrets to be made up."""
        self.run, self.hosts = run.resolve(), hosts
        self.ports = {port: free_port() for port in (*hosts.values(), *others)}
        self.secrets = {
            "BUSPASS_DOMAIN_KEY": secrets.token_urlsafe(32),
            "SIM_PROVIDER_KEY": f"sk-sim-{secrets.token_urlsafe(16)}",
            **{name: secrets.token_urlsafe(16) for name in keys},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config = self.run / "buspass.yaml"

    def url(self, fixed: int) -> str:
        """Where what buspass.yaml has at port `fixed` really is."""
        return f"http://{LOOPBACK}:{self.ports[fixed]}"

    @property
    def gateway(self) -> str:
        """The host at which tasks are started: azure, as the agent lives there."""
        return self.url(self.hosts["azure"])

    async def surroundings(self) -> None:
        """Start what the hosts need, and write their configuration."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self.run.mkdir(parents=True, exist_ok=True)
        try:
            await self.surroundings()
            for host in self.hosts:
                self._start_host(host)
            for host, port in self.hosts.items():
                await self.answers(host, f"{self.url(port)}/health/ready")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stop()

    def configure(self, text: str) -> None:
        """Write the configuration with the ports of this run."""
        real = re.sub(r"(?<=127\.0\.0\.1:)87\d\d", lambda port: str(self.ports[int(port[0])]), text)
        self.config.write_text(real, encoding="utf-8")

    async def token(self, http: httpx.AsyncClient, url: str, form: Mapping[str, str], secret: str) -> str:
        """Ask the issuer's realm at `url` for an OIDC token. Raises httpx.HTTPStatusError."""
        answer = await http.post(f"{url}/token", data={**form, "client_secret": self.secrets[secret]})
        return str(answer.raise_for_status().json()["access_token"])

    def module(self, name: str, module: str, *options: str) -> None:
        """Run a module of the examples folder."""
        path = os.pathsep.join(filter(None, (str(REPOSITORY / "examples"), os.environ.get("PYTHONPATH"))))
        self.spawn(name, ("-m", module, *options), {"PYTHONPATH": path})

    def _start_host(self, host: str) -> None:
        data = self.run / f"data-{host}"
        settings = {"BUSPASS_HOST": host, "BUSPASS_CONFIG": str(self.config), "BUSPASS_DATA": str(data)}
        command = COMMANDS.get(host, COMMANDS["onprem"])
        more: list[str] = ["--port", str(self.ports[self.hosts[host]])]
        if host == "aws":  # a function sees the variables it was given, not its runtime's
            names = [*settings, *self.secret, *(["OPENAI_API_KEY"] if self.real else [])]
            more += [part for name in names for part in ("--env", name)]
        if command == COMMANDS["onprem"]:
            more += ["--config", str(self.config)]
        self.spawn(host, (*command, *more), settings)

    def spawn(
        self,
        name: str,
        command: tuple[str, ...],
        settings: Mapping[str, str],
        program: Sequence[str] = (sys.executable,),
    ) -> None:
        """Run a program with this run's secrets; what it says goes to a log of its name."""
        with (self.run / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*program, *command],
                env={**os.environ, **self.secrets, **settings},
                cwd=self.run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def answers(self, name: str, url: str) -> None:
        """Wait until a process answers. Raises NotStarted."""
        process = self.processes[name]
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            for _ in range(START * 20):
                if process.poll() is not None:
                    raise NotStarted(f"{name} ended with {process.returncode}:\n{self.end_of_log(name)}")
                try:
                    if (await http.get(url)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise NotStarted(f"{name} was not ready after {START} s:\n{self.end_of_log(name)}")

    def end_of_log(self, name: str) -> str:
        """The last lines that a process said."""
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


async def journal(http: httpx.AsyncClient, gateway: str, task: str, token: str) -> list[dict[str, Any]]:
    """Every record of a task's journal, for who may read it. Raises httpx.HTTPStatusError."""
    headers, query = {"Authorization": f"Bearer {token}"}, dict[str, str]()
    records: list[dict[str, Any]] = []
    while True:
        answer = await http.get(f"{gateway}/v1/tasks/{task}/trace", params=query, headers=headers)
        page = answer.raise_for_status().json()
        records += page["records"]
        if page["next_cursor"] is None:
            return records
        query = {"cursor": page["next_cursor"]}


def lines(log: Path) -> list[dict[str, Any]]:
    """What the services logged so far, an object a line."""
    if not log.exists():
        return []
    whole, _, _ = log.read_text(encoding="utf-8").rpartition("\n")  # the last may be half written
    return [json.loads(line) for line in whole.split("\n") if line]


def folder(name: str) -> Path:
    """A new folder for a run, under .demo/ where one may write, else where temporary files go."""
    try:
        Path(".demo").mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=".demo")).resolve()
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"buspass-{name}-"))
