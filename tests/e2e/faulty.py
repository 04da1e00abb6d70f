"""A gateway of its own for each row of the fault table, before simulated providers on real sockets.

Owns the rows' gateways, the one server of all simulators, and what is measured of a call. Refuses to know what is right.
"""

import asyncio
import contextlib
import json
import socket
import time
from dataclasses import dataclass, field

import anthropic
import httpx
import httpx2
import openai

from buspass.http.compose import composed
from buspass.model import Limits
from buspass.ports.outbound_httpx import HttpxOutbound
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.provider import Fault, Provider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.serve import LOOPBACK, serving
from buspass.testing.state_memory import MemoryState

KEY = "provider-key"
FIRST_TOKEN, TOTAL = 6.0, 12.0
"""Seconds that the alias of a row gives whose end they are."""
PATIENT = 200.0, 250.0
"""The same of any other row: nothing there takes long but this machine."""
LATE = 15.0
"""Seconds that a loaded machine may add before a row counts as too late."""
FAULTS = {
    "refused connection": None,
    "429, Retry-After": Fault(kind="rate_limited", seconds=1),
    "429": Fault(kind="rate_limited", seconds=0),
    "500": Fault(kind="error"),
    "529": Fault(kind="overloaded"),
    "slow first token": Fault(kind="slow_first_token", seconds=60),
    "stall in mid-stream": Fault(kind="stall", seconds=60),
    "truncated": Fault(kind="truncated"),
    "connection cut": Fault(kind="cut"),
    "error event": Fault(kind="error_event"),
    "invalid JSON": Fault(kind="invalid_json"),
    "HTML with 200": Fault(kind="html"),
}
CONFIG = """\
version: 1
issuer: http://127.0.0.1:8700
state: memory://
providers:
  one: {{api: {api}, base_url: {one}, auth: {auth}}}
  two: {{api: {api}, base_url: {two}, auth: {auth}}}
models:
  m: {{targets: [{targets}], max_output: 100, timeout: {{first_token: {first}s, total: {total}s}}}}
prices:
  one/{model}: {{input: 1.00, output: 10.00}}
  two/{model}: {{input: 1.00, output: 10.00}}
workflows:
  w: {{loops: off, models: [m], budget: {{cost: 10.00}}}}
"""
SAID = [{"role": "user", "content": "say these few words again, and then some more of them"}]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is asked: a fault of the first target, and who stands around it."""

    fault: str
    provider: str
    streamed: bool
    targets: int

    @property
    def slow(self):
        return self.fault in {"slow first token", "stall in mid-stream"}

    @property
    def within(self):
        """Seconds to the first token, and to the last."""
        return (FIRST_TOKEN, TOTAL) if self.slow else PATIENT


@dataclass(kw_only=True)
class Seen:
    """What came of it: the agent's answers as they came over HTTP, its SDK's exception, and the books."""

    raised: str = "answer"
    answers: list = field(default_factory=list)
    records: list = field(default_factory=list)
    billed: list = field(default_factory=list)
    before: bool = False
    held: list = field(default_factory=list)
    arrived: dict = field(default_factory=lambda: {"one": 0, "two": 0})
    budget: dict = field(default_factory=dict)
    verified: bool = False


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One HTTP answer of the gateway. `code` is that of its problem or error event, empty where it was answered."""

    status: int
    code: str
    headers: dict
    seconds: float


class Shared(HttpxOutbound):
    """One transport for all gateways, as each of its own would read the authorities' certificates again."""

    async def close(self):
        pass


class Providers:
    """Every row's simulators behind one port; the path's first parts say whose."""

    def __init__(self):
        self.rows = []

    def add(self, row, seen):
        def made():
            kind = Provider if row.provider == "openai" else AnthropicProvider
            return kind(KEY)

        one, two = made(), made()
        if FAULTS[row.fault] is not None:
            one.faults.extend([FAULTS[row.fault]] * 20)
        self.rows.append(({"one": one, "two": two}, seen))
        return len(self.rows) - 1

    async def __call__(self, scope, receive, send):
        _, number, which, _ = scope["path"].split("/", 3)
        simulators, seen = self.rows[int(number)]
        seen.arrived[which] += 1
        await simulators[which].app({**scope, "root_path": f"/{number}/{which}"}, receive, send)


@contextlib.asynccontextmanager
async def gateway(row, base, nobody, folder, number, outbound):
    """The application of one row, fresh: no other row's failures are known to it."""
    folder.mkdir()
    provider = {"openai": ("planner-1", "{bearer: {secret: PROVIDER_KEY}}", "/v1")}.get(
        row.provider, ("claude-planner-1", "{header: {name: x-api-key, secret: PROVIDER_KEY}}", "")
    )
    model, auth, end = provider
    one = f"{nobody}{end}" if row.fault == "refused connection" else f"{base}/{number}/one{end}"
    targets = ", ".join(f"{{provider: {name}, model: {model}}}" for name in ("one", "two")[: row.targets])
    config = folder / "buspass.yaml"
    config.write_text(
        CONFIG.format(
            api=row.provider, one=one, two=f"{base}/{number}/two{end}", auth=auth, targets=targets,
            first=row.within[0], total=row.within[1], model=model,
        )
    )  # fmt: skip
    environ = {
        "BUSPASS_CONFIG": str(config), "BUSPASS_DATA": str(folder), "PROVIDER_KEY": KEY,
        "BUSPASS_DOMAIN_KEY": "00" * 32,
    }  # fmt: skip
    limits = Limits(request_bytes=1_000_000, response_bytes=1_000_000, first_byte=300, total=300)
    app = await composed(environ, limits, outbound=outbound, state=MemoryState(), blobs=MemoryBlobs())
    try:
        yield app
    finally:
        await app.close()


def code_of(body):
    """The code of a problem, or of the error event that ends a stream."""
    last = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: {")]
    document = json.loads(last[-1] if last else body)
    return (document.get("error") or {}).get("code", "")


def watching(library, app, seen):
    """An HTTP client for an SDK that keeps what every answer was."""
    began = {}

    async def sent(request):
        began[id(request)] = time.monotonic()

    async def came(answer):
        await answer.aread()
        seconds = time.monotonic() - began[id(answer.request)]
        headers = dict(answer.headers)
        seen.answers.append(
            Answered(status=answer.status_code, code=code_of(answer.text), headers=headers, seconds=seconds)
        )

    hooks = {"request": [sent], "response": [came]}
    return library.AsyncClient(transport=library.ASGITransport(app), event_hooks=hooks)


async def ask(row, app, token, seen):
    """One call by the provider's own SDK, which may repeat it once."""
    if row.provider == "openai":
        async with watching(httpx, app, seen) as http:
            sdk = openai.AsyncOpenAI(api_key=token, base_url="http://gateway/v1", http_client=http, max_retries=1)
            try:
                answer = await sdk.chat.completions.create(model="m", messages=SAID, stream=row.streamed)
                if row.streamed:
                    async for _ in answer:
                        pass
            except openai.APIError as error:
                seen.raised = type(error).__name__
        return
    async with watching(httpx2, app, seen) as http:
        sdk = anthropic.AsyncAnthropic(api_key=token, base_url="http://gateway", http_client=http, max_retries=1)
        try:
            answer = await sdk.messages.create(model="m", max_tokens=100, messages=SAID, stream=row.streamed)
            if row.streamed:
                async for _ in answer:
                    pass
        except anthropic.APIError as error:
            seen.raised = type(error).__name__


async def carried_out(row, seen, base, nobody, folder, number, outbound, ready):
    """Start a task, ask once it is `ready`'s turn, and read its books."""
    async with gateway(row, base, nobody, folder, number, outbound) as app:
        hold = app.house.ledger.hold

        async def holding(claim, wait):
            held = await hold(claim, wait)
            seen.held.append(held.claim.amounts)
            return held

        app.house.ledger.hold = holding
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            workload = {"authorization": f"Bearer {await app.mint_workload('me')}"}
            started = (await http.post("/v1/tasks", json={"workflow": "w"}, headers=workload)).json()
            task, token = started["task"]["id"], started["token"]
            await ready.wait()
            await ask(row, app, token, seen)
            mine = {"authorization": f"Bearer {token}"}
            trace = (await http.get(f"/v1/tasks/{task}/trace", headers=mine)).json()["records"]
            seen.records = [record for record in trace if record["kind"] == "inference"]
            seen.billed = [record.get("use") or {} for record in trace]
            seen.before = any(record["kind"] == "attempt" and any(record["use"].values()) for record in trace)
            seen.budget = (await http.get(f"/v1/tasks/{task}", headers=mine)).json()["budget"]
            seen.verified = (await http.get(f"/v1/tasks/{task}/trace/verify", headers=mine)).json()["ok"]


async def carry_out(rows, folder):
    """Every row, the slow ones side by side as they only wait. What was seen, in the order of the rows."""
    providers, outbound, found = Providers(), Shared(), [Seen() for _ in rows]
    for row, seen in zip(rows, found, strict=True):
        providers.add(row, seen)
    with socket.socket() as nowhere:  # bound and not listening: who connects is refused
        nowhere.bind((LOOPBACK, 0))
        nobody = f"http://{LOOPBACK}:{nowhere.getsockname()[1]}"
        async with serving(providers) as base:

            async def one(number, ready):
                async with few if ready is at_once else contextlib.nullcontext():
                    where = folder / str(number)
                    await carried_out(rows[number], found[number], base, nobody, where, number, outbound, ready)

            quick = [number for number, row in enumerate(rows) if not row.slow]
            slow = [number for number, row in enumerate(rows) if row.slow]
            few, at_once = asyncio.Semaphore(4), asyncio.Barrier(1)
            await asyncio.gather(*(one(number, at_once) for number in quick))
            together = asyncio.Barrier(len(slow))  # no clock runs yet while others' gateways are still being made
            await asyncio.gather(*(one(number, together) for number in slow))
            await HttpxOutbound.close(outbound)
    return found
