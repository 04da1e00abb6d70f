"""What a governed call costs: CPU, requests a second and each station, beside a bare proxy in the same run.

    python bench/hotpath.py [--calls 2000] [--connections 32] [--rounds 3] [--only governed] [--stream]

The gateway runs pinned to one core, the load and its canned upstream (`load`) on the other; gateways take turns.
CPU is what the kernel says the process ran (/proc/PID/task/*/schedstat), so a busy machine disturbs it little.
Owns the measurement. Refuses to judge it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from load import Load, Result

HERE = Path(__file__).parent
WORDS = "The quick brown fox jumps over the lazy dog and thinks about what it will have for dinner tonight. "
CONFIG = """\
version: 1
state: sqlite:///state.db?durability={durability}
providers:
  up: {{api: openai, base_url: '{upstream}/v1', auth: {{bearer: {{secret: UP_KEY}}}}}}
prices: {{up/m: {{input: 0.25, output: 2.00}}}}
models:
  chat: {{targets: [{{provider: up, model: m}}]}}
tools:
  look:
    description: look something up
    http: {{method: POST, url: '{upstream}/tool'}}
    input: {{type: object, properties: {{q: {{type: string}}}}, required: [q], additionalProperties: false}}
workflows:
  bench:
    loops: off  # a load of one request, again and again, is one
    models: [chat]
    tools: [look]
    budget: {{tokens: 900000000000, cost: 1000000, calls: 9000000}}
{more}
"""
PERSONAL = "    personal_data: {to_models: placeholder, to_agent: restore}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One that is running: its port, its process, the requests that the load sends it."""

    name: str
    port: int
    pid: int
    requests: list[bytes]


def answer() -> bytes:
    message = {"role": "assistant", "content": "Dinner will be chicken, says the fox.", "refusal": None}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1750000000,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 130, "completion_tokens": 12, "total_tokens": 142},
    }
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def stream() -> bytes:
    same = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1750000000, "model": "m"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word + " "} for word in WORDS.split()]
    events = [{**same, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**same, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 130, "completion_tokens": 20, "total_tokens": 150}
    events.append({**same, "choices": [], "usage": usage})
    frames = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames) + b"0\r\n\r\n"


def asking(port: int, path: str, token: str, document: Any) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chat(size: int, *, streamed: bool = False) -> dict[str, Any]:
    said = (WORDS * (size // len(WORDS) + 1))[:size]
    messages = [{"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": said}]
    return {"model": "chat", "messages": messages, "max_tokens": 256} | ({"stream": True} if streamed else {})


@contextlib.contextmanager
def bare(load: Load, arguments: argparse.Namespace) -> Iterator[Gateway]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "bare.py"), str(port), load.upstream]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.5)
            document = chat(arguments.size, streamed=arguments.stream)
            request = asking(port, "/", "none", document)
            yield Gateway(name="bare", port=port, pid=process.pid, requests=[request] * arguments.connections)
        finally:
            process.terminate()


@contextlib.contextmanager
def governed(load: Load, arguments: argparse.Namespace) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="buspass-bench-") as name:
        folder = Path(name)
        more = PERSONAL if arguments.personal else ""
        text = CONFIG.format(upstream=load.upstream, durability=arguments.durability, more=more)
        (folder / "buspass.yaml").write_text(text)
        up = [sys.executable, "-m", "buspass", "up", "--port", "0"]
        command = ["taskset", "-c", "0", *arguments.wrap.split(), *up]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSPASS_")}
        environ |= {"BUSPASS_DATA": str(folder / "data"), "UP_KEY": "sk-up-0123456789abcdef"}
        if arguments.compiled:
            check = [sys.executable, "-m", "buspass", "check", "buspass.yaml", "--compile", "compiled.json"]
            subprocess.run(check, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
            command += ["--config", "compiled.json"]
        with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.match(r"buspass listening on http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
                assert found is not None
                port = int(found[1])
                said = ""
                while not said.startswith("export BUSPASS_WORKLOAD_TOKEN="):
                    said = process.stdout.readline()
                token = _task(port, said.strip().partition("=")[2])
                path, document = "/v1/chat/completions", chat(arguments.size, streamed=arguments.stream)
                if arguments.tool:
                    path, document = "/v1/tools/look", {"arguments": {"q": "where is the fox"}}
                tokens = [token, *(_task(port, said.strip().partition("=")[2]) for _ in range(arguments.tasks - 1))]
                requests = [
                    asking(port, path, tokens[n % arguments.tasks], document) for n in range(arguments.connections)
                ]
                yield Gateway(name="governed", port=port, pid=_served_by(process.pid), requests=requests)
            finally:
                process.terminate()


def _task(port: int, workload: str) -> str:
    headers = {"authorization": f"Bearer {workload}", "content-type": "application/json"}
    body = json.dumps({"workflow": "bench"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/tasks", data=body, headers=headers)
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["token"])


def _served_by(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def cpu(pid: int) -> dict[str, int]:
    """Nanoseconds that each thread ran, by its name and id."""
    spent = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent[f"{(task / 'comm').read_text().strip()}-{task.name}"] = int(
                (task / "schedstat").read_text().split()[0]
            )
    return spent


def stations(result: Result) -> dict[str, float]:
    """The median of each station in milliseconds, from Server-Timing."""
    rows: dict[str, list[float]] = {}
    for head in result.heads:
        line = re.search(rb"server-timing: ([^\r]*)", head)
        for name, duration in re.findall(rb"(\w+);dur=([0-9.]+)", line[1] if line else b""):
            rows.setdefault(name.decode(), []).append(float(duration))
    return {name: statistics.median(values) for name, values in rows.items()}


def measure(load: Load, gateway: Gateway, calls: int) -> dict[str, Any]:
    before = cpu(gateway.pid)
    result = load.run(gateway.port, gateway.requests, calls)
    after = cpu(gateway.pid)
    threads = {name: (spent - before.get(name, 0)) / calls / 1000 for name, spent in after.items()}
    return {
        "rps": calls / result.seconds,
        "cpu_us": sum(threads.values()),
        "p50_ms": statistics.median(result.whole) / 1e6,
        "p99_ms": sorted(result.whole)[int(len(result.whole) * 0.99)] / 1e6,
        "ttft_p50_ms": statistics.median(result.first) / 1e6,
        "statuses": {status.decode(): count for status, count in result.statuses.items()},
        "stations_ms": stations(result),
        "threads_us": {name: round(spent, 1) for name, spent in threads.items() if spent > 1},
        "rss_mb": int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6,
    }


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=600, help="characters of the prompt")
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--only", default="bare,governed")
    parser.add_argument("--durability", default="power")
    parser.add_argument("--wrap", default="", help="a command to run the gateway under")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--tool", action="store_true")
    parser.add_argument("--personal", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="serve a compiled configuration")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of()
    os.sched_setaffinity(0, {1})
    load = Load(answer(), stream())
    rows: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        makers = {"bare": bare, "governed": governed}
        running = [stack.enter_context(makers[name](load, arguments)) for name in arguments.only.split(",")]
        for gateway in running:
            load.run(gateway.port, gateway.requests, max(300, arguments.connections))
        for _ in range(arguments.rounds):
            for gateway in running:
                rows.setdefault(gateway.name, []).append(measure(load, gateway, arguments.calls))
    for name, runs in rows.items():
        middle = {
            key: statistics.median(run[key] for run in runs)
            for key in ("rps", "cpu_us", "p50_ms", "p99_ms", "ttft_p50_ms", "rss_mb")
        }
        print(name, {key: round(value, 3) for key, value in middle.items()}, runs[-1]["statuses"])
        print("   ", runs[-1]["stations_ms"])
        print("   ", runs[-1]["threads_us"])
    if len(rows) == 2:
        best = {name: statistics.median(run["rps"] for run in runs) for name, runs in rows.items()}
        spent = {name: statistics.median(run["cpu_us"] for run in runs) for name, runs in rows.items()}
        print(f"ratio {best['governed'] / best['bare']:.3f}, CPU over bare {spent['governed'] - spent['bare']:.0f} µs")


if __name__ == "__main__":
    main()
