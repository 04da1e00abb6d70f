"""boto3 in threads beside signed requests of our own: calls a second, CPU a call, CPU to the first client.

    python bench/aws_client.py [--calls 3000] [--at-once 32]

Each runs in a process of its own against a server that gives one canned answer to an UpdateItem of a task's head, so
only the client is measured. The two take turns; medians of three rounds. Owns the measurement. Refuses to judge it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-central-1"}
HEAD: dict[str, Any] = {
    "status": "open", "fence": 1, "version": 7, "available": {"tokens": 900_000, "cost": 5_000_000, "calls": 90},
    "slots": 60, "open": {f"c{n}": {"attempt": "a" * 22, "amounts": {"tokens": 4000}, "at": 1} for n in range(4)},
}  # fmt: skip


def serve(port: Any) -> None:
    from buspass_aws.dynamodb_expression import encoded

    body = json.dumps({"Attributes": {"pk": {"S": "t"}, "sk": {"S": "head"}, "v": encoded(HEAD)}}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: %d\r\n\r\n" % len(body)

    class Canned(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.got = transport, b""

        def data_received(self, data: bytes) -> None:
            self.got += data
            head, found, rest = self.got.partition(b"\r\n\r\n")
            if found and len(rest) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
                self.got = b""
                self.transport.write(answer + body)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def paced(call: Any, calls: int, at_once: int) -> tuple[float, float]:
    """Give calls a second, and microseconds of this process's CPU for each."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(call() for _ in range(at_once)))  # connections stand
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - began), (time.process_time() - cpu) / calls * 1e6


def operation() -> tuple[str, dict[str, Any]]:
    from buspass.ports.state import Absent, AtLeast, Equals, Update, at
    from buspass_aws.dynamodb_expression import request

    require = (Equals(at("status"), "open"), AtLeast(at("available", "tokens"), 4000), Absent(at("open", "c9")))
    hold = Update("head", require, {at("available", "tokens"): -4000, at("slots"): -1}, {at("open", "c9"): {"n": 1}})
    return request("table", "task", hold)


def with_boto3(url: str, calls: int, at_once: int) -> tuple[float, float]:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=at_once)
    client = boto3.client("dynamodb", endpoint_url=url, config=config)
    _, body = operation()
    with ThreadPoolExecutor(at_once) as threads:

        async def call() -> None:
            await asyncio.get_running_loop().run_in_executor(threads, lambda: client.update_item(**body))

        return asyncio.run(paced(call, calls, at_once))


def with_our_own(url: str, calls: int, at_once: int) -> tuple[float, float]:
    from buspass_aws.client import AwsClient

    async def run() -> tuple[float, float]:
        client = AwsClient("dynamodb", "eu-central-1", url)
        action, body = operation()
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"DynamoDB_20120810.{action}"}

        async def call() -> None:
            answer = await client.send("POST", "/", headers=headers, body=json.dumps(body).encode(), timeout=5)
            json.loads(answer.body)

        found = await paced(call, calls, at_once)
        await client.close()
        return found

    return asyncio.run(run())


STARTS = {
    "boto3": "import boto3; boto3.client('dynamodb', region_name='eu-central-1')",
    "own": "from buspass_aws import dynamodb; import asyncio, pyreqwest.client;"
    "s = asyncio.run(dynamodb.open('dynamodb://table?region=eu-central-1')); s._client._outbound._client(5.0, 0)",
}


def start(which: str) -> float:
    """Give milliseconds of CPU from nothing to a client, less those of the bare interpreter with asyncio."""
    spent = []
    for code in (STARTS[which], "import asyncio, json"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **KEYS})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    return spent[0] - spent[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=32)
    options = parser.parse_args()
    os.environ |= KEYS | {"AWS_DEFAULT_REGION": KEYS["AWS_REGION"]}
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    server = spawn.Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}"
    rows: dict[str, list[tuple[float, ...]]] = {"boto3": [], "own": []}
    for _ in range(3):
        for which, measured in (("boto3", with_boto3), ("own", with_our_own)):
            with spawn.Pool(1) as process:
                rows[which].append((*process.apply(measured, (url, options.calls, options.at_once)), start(which)))
    server.terminate()
    print(f"{options.calls} calls, {options.at_once} at once, medians of three rounds")
    for which, found in rows.items():
        rate, cpu, began = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{which:6} {rate:7.0f} calls/s  {cpu:6.0f} µs CPU a call  {began:5.0f} ms CPU to the first client")


if __name__ == "__main__":
    main()
