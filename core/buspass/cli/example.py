"""The example that `buspass up` serves where there is no configuration: its file, its simulation, its first task.

Owns the child process that plays model and tools, and the words that introduce a newcomer. Refuses to know how the
simulation thinks.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from buspass.cli.machine import DEFAULT_URL
from buspass.cli.stop import FAILED, Stop

FILE: Final = Path(__file__).with_name("example.yaml")
SIMULATION: Final = "buspass.testing.example"
"""By name: it stands above the command line, and runs in a process of its own."""
KEY: Final = "BUSPASS_EXAMPLE_KEY"
PORT: Final = "127.0.0.1:8790"
"""What the file has where the simulation's own port goes."""
WORKFLOW: Final = "example"
SIMULATED: Final = "{provider: sim, model: clerk-1}"
REAL: Final = "{provider: openai, model: gpt-5-mini}"


class Example(Struct, frozen=True, kw_only=True):
    """A running example. `environ` is what the host must be told; `real`: the model is OpenAI's own."""

    environ: Mapping[str, str]
    real: bool


@contextlib.contextmanager
def running(environ: Mapping[str, str]) -> Iterator[Example]:
    """Start the simulation, write the configuration that knows its port, and end both afterwards. Raises Stop."""
    key = secrets.token_urlsafe(24)
    real = bool(environ.get("OPENAI_API_KEY"))
    with _simulation({**environ, KEY: key}) as address, tempfile.TemporaryDirectory(prefix="buspass-") as folder:
        text = FILE.read_text(encoding="utf-8").replace(PORT, address)
        path = Path(folder) / "buspass.yaml"
        path.write_text(text.replace(SIMULATED, REAL) if real else text, encoding="utf-8")
        yield Example(environ={"BUSPASS_CONFIG": str(path), KEY: key}, real=real)


@contextlib.contextmanager
def _simulation(environ: Mapping[str, str]) -> Iterator[str]:
    """Run the simulation at a free port and give `HOST:PORT`.

    In a session of its own, as Ctrl-C must not take the model from calls that are being finished. It ends with its
    standard input: also when this process is killed.
    """
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        [sys.executable, "-m", SIMULATION],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if (listening := re.fullmatch(r"listening http://(\S+)", line.strip())) is None:
                raise Stop("the example's simulated model did not start; its message stands above", FAILED)
            yield listening[1]
        finally:
            process.terminate()


async def introduction(url: str, workload_token: str, example: Example | None) -> list[str]:
    """Give the lines that a newcomer needs: tokens, and for the example a call to try."""
    lines = ["", "# proves local-agent for an hour: starts tasks", f"export BUSPASS_WORKLOAD_TOKEN={workload_token}"]
    found = [] if url == DEFAULT_URL else [f"export BUSPASS_URL={url}"]
    if example is None:
        return [*lines, *found]
    started = await _first_task(url, workload_token)
    if "token" not in started:
        return [*lines, f"no first task: {started.get('code')}: {started.get('detail')}"]
    body = {"model": "chat", "messages": [{"role": "user", "content": "Who are you?"}]}
    return [
        "real model, real money, $1.00 per task; the tools are simulated"
        if example.real
        else "a simulated model and simulated tools, for this machine only; nothing here costs money",
        *lines,
        "",
        f"# a task to try, with {_terms(started['task'])}",
        f"export BUSPASS_TASK_TOKEN={started['token']}",
        f"curl -i {started['base_url']}/chat/completions \\",
        '  -H "Authorization: Bearer $BUSPASS_TASK_TOKEN" -H "Content-Type: application/json" \\',
        f"  -d '{json.dumps(body)}'",
        *found,
        f"buspass trace {started['task']['id']}",
    ]


def _terms(task: Mapping[str, Any]) -> str:
    limits = task["budget"]["limits"]
    return f"{', '.join(task['grant']['tools'])}; ${limits['cost']:.2f}, {limits['wall'] / 60:g} minutes"


async def _first_task(url: str, token: str) -> dict[str, Any]:
    """Start a task as any agent would, over HTTP; gives the problem where it is refused."""
    import httpx  # noqa: PLC0415 - only `up` needs it

    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        answer = await client.post(f"{url}/v1/tasks", headers=headers, json={"workflow": WORKFLOW})
    document: dict[str, Any] = answer.json()
    return document
