"""Can one task be overspent? Parallel calls through several gateways over one store; the provider keeps its own bill.

    python bench/overspend.py STATE_URL [--calls 500] [--gateways 4] [--blobs URL]

Each gateway is `buspass up` in a process of its own. Three rounds, each on a task of its own:

    enough   the budget holds 40 calls at a time, and all of them together use half of it: nobody may be refused
    short    each uses half of what it holds: refused (402) may be only whom the rest, and all that is held, can't cover
    liar     the provider bills three times what its call held: caught on that call, charged, and the task suspended

Prints what was attempted, admitted, refused, billed, spent and the limit; exits with 1 where a rule is broken.
Owns the pressure and the upstream. Refuses to know which store it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, Self

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from buspass.http.adapters import opened
from buspass.ledger import balance
from buspass.testing.serve import serving
from buspass.testing.up import Up, up

AT_ONCE = 40
AGAIN = 5
"""How often a call is sent that is told to wait (429), that the store is away (503), or that it waited for too long and
was not sent (504), as an agent would."""
DOMAIN_KEY = "5a" * 32
CONFIG = """
version: 1
issuer: http://127.0.0.1:8700
domain_key: {{secret: BUSPASS_DOMAIN_KEY}}
hosts:
{hosts}
state: {state}
blobs: {blobs}
providers:
  sim: {{api: openai, base_url: '{upstream}/v1', auth: none}}
models:
  plan: {{targets: [{{provider: sim, model: planner-1}}], max_output: 100}}
workflows:
  work: {{loops: off, models: [plan], budget: {{tokens: 10000000, wall: 2h, wait: 60s}}}}
"""


class Upstream:
    """A slow model that uses what it is told to, and keeps its own bill."""

    def __init__(self) -> None:
        self.random, self.use, self.billed, self.calls = Random(7), 10, 0, 0
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, _: Request) -> JSONResponse:
        self.billed += self.use
        self.calls += 1
        await asyncio.sleep(self.random.uniform(0.02, 0.1))
        usage = {"prompt_tokens": self.use - 1, "completion_tokens": 1, "total_tokens": self.use}
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "planner-1"}
        return JSONResponse({**head, "choices": [choice], "usage": usage})


@dataclass(kw_only=True)
class Round:
    """What came of a round, and the rules that it broke."""

    name: str
    limit: int
    codes: Counter[str]
    billed: int
    spent: int
    held: int
    available: int
    again: Counter[str]
    seconds: float
    broken: list[str]

    def row(self) -> str:
        admitted = self.codes["200"]
        refused = ", ".join(f"{n} {code}" for code, n in sorted(self.codes.items()) if code != "200") or "none"
        again = ", ".join(f"{n} {code}" for code, n in sorted(self.again.items())) or "none"
        return (
            f"{self.name:7} attempted {sum(self.codes.values())}, admitted {admitted}, refused {refused}; "
            f"billed {self.billed}, spent {self.spent}, held {self.held}, limit {self.limit}, left {self.available}; "
            f"overspent {max(0, self.spent + self.held - self.limit)}; sent again {again}; {self.seconds:.1f} s"
        )


class Domain:
    """The gateways, a client and the store itself. Use `async with`."""

    def __init__(self, folder: Path, upstream: Upstream, url: str, options: argparse.Namespace) -> None:
        self.folder, self.upstream, self.options = folder, upstream, options
        names = [f"g{n}" for n in range(options.gateways)]
        hosts = "\n".join(
            f"  {name}: {{url: http://127.0.0.1:{9800 + n}, cloud: onprem, region: here}}"
            for n, name in enumerate(names)
        )
        self.config = folder / "buspass.yaml"
        blobs = options.blobs or f"file:///{folder}/blobs"
        self.config.write_text(CONFIG.format(hosts=hosts, state=options.state, blobs=blobs, upstream=url))
        self.names, self.stack = names, contextlib.ExitStack()
        self.again: Counter[str] = Counter()
        self.client = httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as opening:
            self.running = [opening.enter_context(self._up(name)) for name in self.names]
            for gateway in self.running:  # a pipe that nobody reads would block the gateway
                Thread(target=self._drained, args=(gateway,), daemon=True).start()
            self.state = await opened("state", self.options.state)
            self.stack = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.state.close()
        await asyncio.to_thread(self.stack.close)

    def _up(self, name: str) -> Any:
        environ = {"BUSPASS_HOST": name, "BUSPASS_DOMAIN_KEY": DOMAIN_KEY}
        return up(
            "--config", str(self.config), data=self.folder / name, environ=environ,
            until="export BUSPASS_WORKLOAD_TOKEN",
        )  # fmt: skip

    def _drained(self, gateway: Up) -> None:
        with (self.folder / "log").open("a") as log, contextlib.suppress(ValueError):
            log.writelines(gateway.process.stdout or ())

    async def task(self, tokens: int) -> tuple[str, dict[str, str]]:
        headers = {"authorization": f"Bearer {self.running[0].environ['BUSPASS_WORKLOAD_TOKEN']}"}
        body = {"workflow": "work", "budget": {"tokens": tokens}}
        answer = await self.client.post(f"{self.running[0].url}/v1/tasks", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["task"]["id"], {"authorization": f"Bearer {answer.json()['token']}"}

    async def chat(self, n: int, headers: dict[str, str]) -> httpx.Response:
        body = {"model": "plan", "messages": [{"role": "user", "content": f"Call {n:03}."}]}
        gateway = self.running[n % len(self.running)]
        for _ in range(AGAIN):
            try:
                answer = await self.client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
            except httpx.TransportError as error:
                answer = httpx.Response(503, json={"error": {"code": f"{type(error).__name__}"}})
            if answer.status_code not in {429, 503, 504}:
                break
            self.again[f"{answer.status_code} {answer.json()['error']['code']}"] += 1
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
        return answer

    async def size(self) -> int:
        """Give what a call holds: a task that can't pay for one is told."""
        _, headers = await self.task(1)
        refused = (await self.chat(0, headers)).json()["error"]
        assert refused["code"] == "budget_exhausted", refused
        return int(refused["needed"])

    async def pressed(self, name: str, limit: int, use: int, calls: int, at_once: int = 0) -> Round:
        """Send `calls` on a new task: all at once, or in turns of `at_once`."""
        task, headers = await self.task(limit)
        self.upstream.use, self.again = use, Counter()
        before, began = self.upstream.billed, time.perf_counter()
        codes: Counter[str] = Counter()
        step = at_once or calls
        for first in range(0, calls, step):
            for answer in await asyncio.gather(*(self.chat(n, headers) for n in range(first, first + step))):
                code = "" if answer.status_code == 200 else f" {answer.json()['error']['code']}"
                codes[f"{answer.status_code}{code}"] += 1
        head = await self.state.read(task, "head")
        assert head is not None
        money = balance(head)
        found = Round(
            name=name,
            limit=limit,
            codes=codes,
            billed=self.upstream.billed - before,
            spent=money.spent["tokens"],
            held=money.held["tokens"],
            available=money.available["tokens"],
            again=self.again,
            seconds=time.perf_counter() - began,
            broken=[],
        )
        await self._audited(found, task, headers, head)
        return found

    async def _audited(self, found: Round, task: str, headers: dict[str, str], head: Any) -> None:
        if found.billed > found.spent + found.held:
            found.broken.append(f"billed {found.billed}, and only {found.spent + found.held} taken")
        if not found.again and (found.billed != found.spent or head["open"]):
            found.broken.append("the store answered everything, and not everything is settled")
        for gateway in self.running:
            verdict = (
                await self.client.get(f"{gateway.url}/v1/tasks/{task}/trace/verify", headers=headers, timeout=180)
            ).json()
            if not verdict.get("ok"):
                found.broken.append(f"the journal does not verify: {verdict}")


async def rounds(domain: Domain, calls: int) -> list[Round]:
    size = await domain.size()
    limit = size * AT_ONCE

    enough = await domain.pressed("enough", limit, max(1, limit // 2 // calls), calls)
    if set(enough.codes) - {"200"}:
        enough.broken.append("somebody was refused although all could be paid")
    if enough.spent + enough.held > limit:
        enough.broken.append("overspent")

    short = await domain.pressed("short", limit, size // 2, calls)
    if set(short.codes) - {"200", "402 budget_exhausted"}:
        short.broken.append("somebody was refused for another reason than money")
    if short.spent + short.held > limit:
        short.broken.append("overspent")
    if short.codes["200"] < calls and short.available >= size:
        short.broken.append("somebody was refused although the rest would have paid for one more call")

    liar = await domain.pressed("liar", limit, size * 3, 5, at_once=1)
    if liar.codes["200"] != 1 or liar.spent != size * 3:
        liar.broken.append("the provider's bill of three times its hold was not caught on that call")
    return [enough, short, liar]


async def run(options: argparse.Namespace) -> int:
    upstream = Upstream()
    with tempfile.TemporaryDirectory() as folder:
        async with serving(upstream.app) as url, Domain(Path(folder), upstream, url, options) as domain:
            try:
                found = await rounds(domain, options.calls)
            except BaseException:
                print((Path(folder) / "log").read_text()[-5000:], file=sys.stderr)  # what the gateways said
                raise
    print(f"{options.state.partition(':')[0]}: {options.calls} calls, {options.gateways} gateways, one task a round")
    for each in found:
        print(each.row())
        for rule in each.broken:
            print(f"        BROKEN: {rule}")
    return 1 if any(each.broken for each in found) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", metavar="STATE_URL")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--blobs", metavar="URL", default="")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
