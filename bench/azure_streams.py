"""HTTP streams on Azure Functions in two ways, side by side: the base package with our extension, and FastAPI's.

    .cache/uv/bin/uv pip install --target /tmp/fastapi azurefunctions-extensions-http-fastapi
    PYTHONPATH=/tmp/fastapi .venv/bin/python bench/azure_streams.py [--rounds 5] [--requests 2000]

Each round starts both behind `buspass_azure.local_host` and the real runtime library, and takes turns in who is first.
It prints medians and ratios; read the ratios, as the milliseconds are this machine's. Only loopback is touched.
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HOST = {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}
OURS = """
from buspass_azure.invocation import make_function_app

class Application:
    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"ok":true}'})

async def start(*_, **__):
    return Application()

app = make_function_app(start)
"""
FASTAPI = """
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Request

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="{*path}", methods=["GET", "POST"])
async def everything(req: Request) -> JSONResponse:
    await req.body()
    return JSONResponse({"ok": True})
"""
WAYS = {"base package, ours": OURS, "FastAPI extension": FASTAPI}


def memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, int, float]]:
    """A function app behind the local host: its process, its port and the seconds until it listened."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "buspass_azure.local_host", "--app", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening "):
            raise SystemExit(f"{folder.name} did not start: {line}")
        yield process.pid, int(line.rpartition(":")[2]), time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(20)


def measured(folder: Path, requests: int) -> tuple[float, float, float, float]:
    """Start in ms, memory in MB, a small request's median in ms, and kB kept a request."""
    with running(folder) as (pid, port, start):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

        def ask() -> float:
            began = time.perf_counter()
            connection.request("POST", "/x", b"{}", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())) == (200, {"ok": True})
            return time.perf_counter() - began

        at_start = memory(pid)
        for _ in range(requests // 4):
            ask()
        before = memory(pid)
        times = [ask() for _ in range(requests)]
        kept = (memory(pid) - before) / requests
        connection.close()
    return start * 1000, at_start / 1024, statistics.median(times) * 1000, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    if importlib.util.find_spec("fastapi") is None:
        raise SystemExit(__doc__)
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as made:
        folders = {}
        for number, (way, code) in enumerate(WAYS.items()):
            folders[way] = folder = Path(made) / f"way{number}"
            folder.mkdir()
            (folder / "function_app.py").write_text(code)
            (folder / "host.json").write_text(json.dumps(HOST))
        for number in range(options.rounds):
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                found[way].append(measured(folders[way], options.requests))
    units = ("start, ms", "memory then, MB", "a small request, ms", "kept a request, kB")
    ours, theirs = ([statistics.median(column) for column in zip(*found[way], strict=True)] for way in WAYS)
    print(" " * 22 + "".join(f"{way:>22}" for way in WAYS) + "   ratio")
    for unit, one, other in zip(units, ours, theirs, strict=True):
        print(f"{unit:22}{one:>22.2f}{other:>22.2f}{other / one if one > 0 else float('nan'):>8.1f}")


if __name__ == "__main__":
    main()
