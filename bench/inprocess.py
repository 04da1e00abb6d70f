"""What a governed call costs in Python alone: the application in this process, with an upstream that answers at once.

    python bench/inprocess.py [--profile] [--bytecodes 40] [--personal] [--state sqlite:///state.db]

Prints microseconds of CPU a call as the least of many batches, and with `--bytecodes` how many instructions of Python a
call is, by function: that number does not depend on the machine. No server and no HTTP client take part.
Owns the loop. Refuses to say anything of requests a second: `hotpath` does.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from hotpath import CONFIG, PERSONAL, answer, chat

from buspass.http.compose import Application, composed
from buspass.model import Limits
from buspass.ports.outbound import Request, Response, Streamed

LIMITS = Limits(request_bytes=20_000_000, response_bytes=20_000_000, first_byte=600, total=900)


class AtOnce:
    """An upstream that has answered before it was asked."""

    def __init__(self) -> None:
        head, _, self.body = answer().partition(b"\r\n\r\n")
        self.headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])

    async def send(self, _request: Request) -> Response:
        return Response(status=200, headers=self.headers, body=self.body)

    async def open(self, request: Request) -> Streamed:
        raise AssertionError(f"no streams here: {request.url}")

    async def close(self) -> None:
        pass


async def call(application: Application, path: str, token: str, document: Any) -> tuple[int, bytes]:
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + token.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:])


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    text = CONFIG.format(
        upstream="http://127.0.0.1:9", durability="process", more=PERSONAL if arguments.personal else ""
    )
    text = text.replace("sqlite:///state.db?durability=process", arguments.state)
    (folder / "buspass.yaml").write_text(text)
    environ = {
        "BUSPASS_CONFIG": str(folder / "buspass.yaml"),
        "BUSPASS_DATA": str(folder / "data"),
        "UP_KEY": "sk-up-0123456789abcdef",
    }
    application = await composed(environ, LIMITS, outbound=AtOnce())
    workload = await application.mint_workload("bench")
    started = json.loads((await call(application, "/v1/tasks", workload, {"workflow": "bench"}))[1])
    token, document = started["token"], chat(arguments.size)

    async def batch(count: int) -> None:
        for _ in range(count):
            status, said = await call(application, "/v1/chat/completions", token, document)
            assert status == 200, said

    await batch(200)
    least = [float("inf"), float("inf")]
    for _ in range(arguments.batches):
        mine, all_ = time.thread_time_ns(), time.process_time_ns()
        await batch(50)
        spent = (time.thread_time_ns() - mine) / 50_000, (time.process_time_ns() - all_) / 50_000
        least = [min(least[0], spent[0]), min(least[1], spent[1])]
    print(f"{least[0]:.0f} µs of CPU a call in the event loop's thread, {least[1]:.0f} in all threads")
    if arguments.profile:
        profile = cProfile.Profile()
        profile.enable()
        await batch(500)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(55)
    if arguments.bytecodes:
        counted: Counter[str] = Counter()
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID

        def saw(code: CodeType, _at: int) -> None:
            counted[f"{code.co_filename.rpartition('/')[2]} {code.co_qualname}"] += 1

        monitoring.use_tool_id(tool, "bytecodes")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, saw)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        await batch(20)
        monitoring.set_events(tool, 0)
        print(f"{counted.total() / 20:.0f} instructions of Python a call")
        for name, count in counted.most_common(arguments.bytecodes):
            print(f"{count / 20:8.0f} {name}")
    await application.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--bytecodes", type=int, default=0, metavar="ROWS")
    parser.add_argument("--state", default="memory://")
    parser.add_argument("--personal", action="store_true", help="with rules for personal data, as `make bench` has")
    parser.add_argument("--size", type=int, default=600)
    parser.add_argument("--batches", type=int, default=40)
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory(prefix="buspass-bench-") as name:
        asyncio.run(run(parser.parse_args(), Path(name)))


if __name__ == "__main__":
    main()
