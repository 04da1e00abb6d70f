"""What stands side by side in the bench: the gateway as configured one way or another, its peers, the bare floor.

Owns their configuration, start and end, each pinned to the gateways' core. Refuses to measure.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotpath import CONFIG, PERSONAL, asking, chat

from buspass.testing.serve import free_port

HERE = Path(__file__).parent
GATEWAY, LOAD = 0, 1
"""The cores."""
PRICE = {"input": 0.25, "output": 2.00}
"""USD for a million tokens: the same for whoever counts money."""
POLICY = "policy: {path: policies/}\n"
KEY = "sk-up-0123456789abcdef"


@dataclass(slots=True, kw_only=True)
class Side:
    """One that is running. `tasks`: the tokens that connections take in turn; `tool`: whether it carries tool calls."""

    name: str
    port: int
    pid: int
    path: str = "/v1/chat/completions"
    model: str = "chat"
    token: str = "none"
    headers: str = ""
    workload: str = ""
    streams: bool = True
    calls: int = 0
    folder: Path | None = None
    tasks: list[str] = field(default_factory=list)

    def request(self, number: int = 0, *, size: int = 600, stream: bool = False, tool: bool = False) -> bytes:
        path, document = self.path, {**chat(size, streamed=stream), "model": self.model}
        if tool:
            path, document = "/v1/tools/look", {"arguments": {"q": "where is the fox"}}
        token = self.tasks[number % len(self.tasks)] if self.tasks else self.token
        raw = asking(self.port, path, token, document)
        return raw.replace(b"\r\n", f"\r\n{self.headers}".encode(), 1) if self.headers else raw

    def requests(self, connections: int, **what: Any) -> list[bytes]:
        self.more(-(-connections // 32))
        return [self.request(number, **what) for number in range(connections)]

    def more(self, tasks: int) -> None:
        """Have so many tasks at least; one holds 64 calls in flight."""
        while self.workload and len(self.tasks) < tasks:
            self.tasks.append(self.task({"workflow": "bench"}))

    def task(self, document: dict[str, Any]) -> str:
        headers = {"authorization": f"Bearer {self.workload}", "content-type": "application/json"}
        url = f"http://127.0.0.1:{self.port}/v1/tasks"
        request = urllib.request.Request(url, data=json.dumps(document).encode(), headers=headers)
        with urllib.request.urlopen(request) as response:
            return str(json.load(response)["token"])


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Whatever is started within runs on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def started(
    command: list[str], *, folder: Path, log: str, environ: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BUSPASS_", "OPENAI_"))}
    with (folder / f"{log}.log").open("w") as said, pinned(GATEWAY):
        process = subprocess.Popen(
            command, cwd=folder, env={**clean, **(environ or {})}, stdout=subprocess.PIPE, stderr=said, text=True
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def served_by(pid: int) -> int:
    """The process that serves: the started one's only child, if it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


@contextlib.contextmanager
def bare(upstream: str, folder: Path) -> Iterator[Side]:
    port = free_port()
    with started([sys.executable, str(HERE / "bare.py"), str(port), upstream], folder=folder, log="bare") as process:
        assert process.stdout is not None
        process.stdout.readline()
        answering(port, process)
        yield Side(name="bare", port=port, pid=process.pid, path="/", streams=False)


@contextlib.contextmanager
def buspass(
    name: str,
    upstream: str,
    parent: Path,
    *,
    durability: str = "power",
    rego: bool = False,
    more: str = PERSONAL,
    python: str = sys.executable,
) -> Iterator[Side]:
    folder = parent / name.replace(" ", "-")
    folder.mkdir()
    text = CONFIG.format(upstream=upstream, durability=durability, more=more)
    if rego:
        shutil.copytree(HERE / "policies", folder / "policies")
        text += POLICY
    (folder / "buspass.yaml").write_text(text)
    environ = {"BUSPASS_DATA": str(folder / "data"), "UP_KEY": KEY}
    command = [python, "-m", "buspass", "up", "--port", "0"]
    with started(command, folder=folder, log="up", environ=environ) as process:
        assert process.stdout is not None
        port, said = 0, ""
        while not said.startswith("export BUSPASS_WORKLOAD_TOKEN="):
            said = process.stdout.readline()
            if not said:
                raise AssertionError((folder / "up.log").read_text())
            if said.startswith("buspass listening on "):
                port = int(said.split()[3].rsplit(":", 1)[1])
        workload = said.strip().partition("=")[2]
        yield Side(name=name, port=port, pid=served_by(process.pid), workload=workload, folder=folder)


def answering(port: int, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Return when somebody listens there. Raises AssertionError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not listen on {port}")


def healthy(port: int, path: str, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Return when a GET is answered with 200. Raises AssertionError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5),
        ):
            return
        time.sleep(0.2)
    raise AssertionError(f"{process.args!r} does not answer on {port}{path}")
