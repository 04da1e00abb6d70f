"""Cold starts: from a fresh process to its first governed answer, beside a bare echo on the same runtime.

Milliseconds by the clock from the start of the process to the answer, and of CPU of the whole process. Lambda runs
under its own runtime client against a Runtime API on loopback; the function app under the Functions runtime library.
Owns the measurement. Refuses to judge it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coldstart import TOKEN
from held import Held
from hotpath import CONFIG, answer, chat
from measure import spread
from sides import GATEWAY, KEY, pinned

from buspass.testing.lambda_runtime import Function, LambdaRuntime

HERE = Path(__file__).parent
ECHO = "import json\ndef handler(event, context):\n    return {'statusCode': 200, 'body': event['body']}\n"
FUNCTION_ECHO = """\
from buspass_azure.invocation import make_function_app
async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
async def start(environ, limits):
    return echo
app = make_function_app(start)
"""
UVICORN_ECHO = """\
import asyncio
from buspass.testing.loopback import serve
async def app(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
asyncio.run(serve(app, port=0))
"""


class Place:
    """A folder with configuration, state and a task in it, as each start finds it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder = folder
        yaml, self.compiled = folder / "buspass.yaml", folder / "buspass.json"
        yaml.write_text(CONFIG.format(upstream=upstream, durability="power", more=""))
        base = {"PATH": os.environ["PATH"], "BUSPASS_DATA": str(folder / "data"), "UP_KEY": KEY}
        check = [sys.executable, "-m", "buspass", "check", str(yaml), "--compile", str(self.compiled)]
        subprocess.run(check, env=base, check=True, stdout=subprocess.DEVNULL)
        self.yaml = {**base, "BUSPASS_CONFIG": str(yaml)}
        self.environ = {**base, "BUSPASS_CONFIG": str(self.compiled)}
        command = [sys.executable, "-c", TOKEN, str(HERE)]
        done = subprocess.run(command, env=self.environ, check=True, capture_output=True, text=True)
        self.token = done.stdout.strip()
        self.body = json.dumps(chat(600)).encode()
        (folder / "echo_handler.py").write_text(ECHO)
        (folder / "uvicorn_echo.py").write_text(UVICORN_ECHO)
        (folder / "app").mkdir()
        (folder / "app" / "function_app.py").write_text(FUNCTION_ECHO)
        (folder / "app" / "host.json").write_text((HERE.parent / "azure" / "host.json").read_text())


def invoked(place: Place, handler: str, environ: dict[str, str]) -> float:
    """Milliseconds to the first answer through the real runtime client."""
    event = {
        "version": "2.0",
        "rawPath": "/v1/chat/completions",
        "headers": {"authorization": f"Bearer {place.token}", "content-type": "application/json"},
        "requestContext": {"requestId": "r", "http": {"method": "POST", "protocol": "HTTP/1.1"}},
        "body": place.body.decode(),
    }

    async def run() -> float:
        environment = {**environ, "PYTHONPATH": str(place.folder)}
        runtime = LambdaRuntime(Function(handler=handler, environ=environment, task_root=place.folder), instances=1)
        began = time.perf_counter()
        with pinned(GATEWAY):
            await runtime.start()
        outcome = await runtime.invoke(json.dumps(event).encode())
        took = (time.perf_counter() - began) * 1000
        await runtime.stop()
        assert json.loads(outcome.payload)["statusCode"] == 200, outcome.payload
        return took

    return asyncio.run(run())


def served(place: Place, arguments: list[str], environ: dict[str, str]) -> float:
    """Milliseconds to the first answer of a server that says where it listens."""
    began = time.perf_counter()
    with pinned(GATEWAY):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**environ, "PYTHONPATH": str(place.folder)},
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    with process:
        assert process.stdout is not None
        url = ""
        while not url:
            line = process.stdout.readline()
            assert line, f"{arguments} ended"
            url = next((word for word in line.split() if word.startswith("http://")), "")
        headers = {"authorization": f"Bearer {place.token}", "content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", data=place.body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 200
            response.read()
        took = (time.perf_counter() - began) * 1000
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    return took


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def starts(folder: Path, rounds: int) -> list[dict[str, Any]]:
    load, done = Held(answer()), threading.Event()

    def upstream() -> None:
        while not done.is_set():
            load.serve_for(0.05)

    thread = threading.Thread(target=upstream)
    thread.start()
    try:
        place = Place(folder, load.upstream)
        functions, app = ["-m", "buspass_azure.local_host", "--app"], str(HERE.parent / "azure")
        kinds: dict[tuple[str, str], Callable[[], float]] = {
            ("lambda", "echo"): lambda: invoked(place, "echo_handler.handler", place.environ),
            ("lambda", "governed"): lambda: invoked(place, "buspass_aws.handler.handler", place.environ),
            ("lambda", "governed, from YAML"): lambda: invoked(place, "buspass_aws.handler.handler", place.yaml),
            ("functions", "echo"): lambda: served(place, [*functions, str(place.folder / "app")], place.environ),
            ("functions", "governed"): lambda: served(place, [*functions, app], place.environ),
            ("on-prem", "echo"): lambda: served(place, ["uvicorn_echo.py"], place.environ),
            ("on-prem", "governed"): lambda: served(place, ["-m", "buspass", "up", "--port", "0"], place.environ),
        }
        found: dict[tuple[str, str], list[tuple[float, float]]] = {kind: [] for kind in kinds}
        failed: dict[tuple[str, str], str] = {}
        for _ in range(rounds):
            for kind, start in kinds.items():
                if kind in failed:
                    continue
                before = children()
                try:
                    took = start()
                except (AssertionError, OSError) as error:
                    failed[kind] = f"{type(error).__name__}: {error}"[:300]
                    continue
                found[kind].append((took, children() - before))
    finally:
        done.set()
        thread.join()
    rows = []
    for (host, what), runs in found.items():
        row: dict[str, Any] = {"host": host, "what": what}
        if (host, what) in failed:
            row["failed"] = failed[host, what]
        else:
            row |= {"wall_ms": spread([run[0] for run in runs]), "cpu_ms": spread([run[1] for run in runs])}
        rows.append(row)
    return rows
