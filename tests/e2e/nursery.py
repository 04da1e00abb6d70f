"""A trust domain whose hosts are killed: a nursery of mortal hosts, the upstream they call, and a look into their store.

Owns processes, the upstream's own count of what reached it, and the books' checks. Refuses to know which rows are walked.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
from redis_servers import Server
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from buspass.http.adapters import opened
from buspass.journal.seals import read_all
from buspass.ledger import balance
from buspass.ledger.holds import entries
from buspass.model import SLOTS
from buspass.testing.provider import echo
from buspass.testing.provider_stream import chunks
from buspass.testing.provider_wire import completion
from buspass.testing.serve import serving

DATA = Path(__file__).parents[1] / "data" / "kill"
CAP = 5
LATER = 600_000
"""Milliseconds: longer than any hold of the configuration lasts, shorter than its tasks and tokens."""
SECONDS = 300


class Upstream(threading.Thread):
    """A model and a service. `seen` counts what reached them, by order; `strikes` (when, process) is killed once.

    `failing`: the service answers that it fails.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.strikes, self.url, self.failing = Counter(), None, "", False
        self.ready, self._loop, self._over = threading.Event(), None, None
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/pay", self.pay, methods=["POST"]),
            ]
        )

    def run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self.app) as self.url:
            self.ready.set()
            await self._over.wait()

    def __enter__(self):
        self.start()
        assert self.ready.wait(SECONDS)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(SECONDS)

    async def chat(self, request):
        body = await request.json()
        order = re.search(r"order-\w+", json.dumps(body["messages"]))[0]
        document = completion(body, echo)
        if not body.get("stream"):
            return await self._answer(order, document)
        self._reached(order)
        frames = chunks(document, usage=True)
        return StreamingResponse(iter(frames), media_type="text/event-stream")

    async def pay(self, request):
        order = (await request.json())["order"]
        if self.failing:
            self.seen[order] += 1
            return JSONResponse({}, 503)
        return await self._answer(order, {"paid": order})

    async def _answer(self, order, document):
        self._reached(order)
        if not self._due("reading"):
            return JSONResponse(document)
        whole = json.dumps(document).encode()

        async def halves():
            yield whole[: len(whole) // 2]
            await asyncio.sleep(0.05)  # let it begin to read
            self._strike()
            yield whole[len(whole) // 2 :]

        return StreamingResponse(halves(), media_type="application/json", headers={"content-length": str(len(whole))})

    def _reached(self, order):
        self.seen[order] += 1
        if self._due("got"):
            self._strike()

    def _due(self, when):
        return self.strikes is not None and self.strikes[0] == when

    def _strike(self):
        (_, process), self.strikes = self.strikes, None
        os.kill(process, signal.SIGKILL)


class Host:
    """One `buspass up` of the nursery's."""

    def __init__(self, process, log):
        self.process, self.log, self.said = process, log, {}

    def listen(self):
        until = time.monotonic() + SECONDS
        while "BUSPASS_WORKLOAD_TOKEN" not in self.said:
            text = self.log.read_text() if self.log.exists() else ""
            assert time.monotonic() < until, f"the host did not come up:\n{text}"
            self.said = dict(re.findall(r"^export (\w+)=(\S+)\n", text, re.MULTILINE))
            self.url = (re.findall(r"^buspass listening on (\S+) ", text, re.MULTILINE) or [""])[0]
            time.sleep(0.005)
        return self


class Nursery:
    """Hosts over one store, one after the other or two at once. Use as `with`."""

    def __init__(self, folder, store):
        self.folder, self.store, self.host, self.hosts = folder, store, None, 0
        self.ahead, self.client = 0, httpx.Client(timeout=SECONDS)
        self.upstream = Upstream()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.upstream)
            stack.enter_context(self.client)
            text = (DATA / "buspass.yaml").read_text()
            self.blobs = f"file:///{self.folder}/blobs"
            for name, value in {"STATE": self.store, "BLOBS": self.blobs, "UPSTREAM": self.upstream.url}.items():
                text = text.replace(name, value)
            (self.folder / "buspass.yaml").write_text(text)
            (self.folder / "policies").mkdir()
            (self.folder / "policies" / "call.rego").write_text((DATA / "policies" / "call.rego").read_text())
            self.die_at("")
            self.pass_time(0)
            self.nurse = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, Path(__file__).with_name("mortal_host.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={
                        name: value
                        for name, value in os.environ.items()
                        if not name.startswith(("BUSPASS_", "OPENAI_"))
                    },
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.nurse.stdin.close()
        self._stack.close()

    def die_at(self, place):
        self._leave_word("at", place)

    def pass_time(self, ms=LATER):
        self.ahead += ms
        self._leave_word("ahead", str(self.ahead))

    def _leave_word(self, name, text):
        """All of it at once: a host that reads at this moment must not find half of it, or nothing."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)

    def _order(self, **order):
        self.nurse.stdin.write(json.dumps(order) + "\n")
        self.nurse.stdin.flush()
        return int(self.nurse.stdout.readline())

    def up(self, name="left"):
        """Give a host that lives, the one before if it still does."""
        if self.host is None:
            self.hosts += 1
            log = self.folder / f"{self.hosts}.log"
            environ = {
                "BUSPASS_HOST": name,
                "BUSPASS_DATA": str(self.folder / f"data-{name}"),
                "BUSPASS_DOMAIN_KEY": "5a" * 32,
                "MORTAL_CONFIG": str(self.folder / "buspass.yaml"),
                "MORTAL_FOLDER": str(self.folder),
                "MORTAL_STATE": self.store,
                "MORTAL_BLOBS": self.blobs,
            }
            self.host = Host(self._order(environ=environ, log=str(log)), log).listen()
        return self.host

    def buried(self):
        """Wait until the host is dead, as kill -9 leaves it."""
        host, self.host = self.host, None
        assert self._order(wait=host.process) == -signal.SIGKILL, host.log.read_text()

    # ── what an agent does ──

    def post(self, path, token, body=None, **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"authorization": f"Bearer {token}"}
        return self.client.post(f"{self.up().url}{path}", json=body or {}, headers=sent)

    def get(self, path, token):
        answer = self.client.get(f"{self.up().url}{path}", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def task(self):
        answer = self.post("/v1/tasks", self.up().said["BUSPASS_WORKLOAD_TOKEN"], {"workflow": "work"})
        assert answer.status_code == 201, answer.text
        return answer.json()["task"]["id"], answer.json()["token"]

    # ── what the store holds ──

    def looked(self, look):
        """Give what `look(state)` gives, read past every host."""

        async def looking():
            state = await opened("state", self.store)
            try:
                return await look(state)
            finally:
                await state.close()

        return asyncio.run(looking())

    def open(self, task):
        return entries(self.looked(lambda state: state.read(task, "head")))

    def books(self, task, token):
        """Look at a task by every way there is: nothing is in flight, everything adds up. Gives what is spent."""
        budget = self.get(f"/v1/tasks/{task}", token)["budget"]
        for name in ("cost", "tokens", "calls", "tool_calls"):
            parts = [
                round(budget[part].get(name, 0) * 1_000_000) for part in ("available", "held", "spent", "allocated")
            ]
            assert sum(parts) == round(budget["limits"][name] * 1_000_000), budget
            assert min(parts) >= 0, budget
        assert not any(budget["held"].values()), budget
        verdict = self.get(f"/v1/tasks/{task}/trace/verify", token)
        assert verdict["ok"], verdict
        head = self.looked(lambda state: state.read(task, "head"))
        assert (head["open"], head["slots"]) == ({}, SLOTS)
        assert not any(head["running"].values()), head["running"]
        records = self.looked(lambda state: read_all(state, task)).records.values()
        used = Counter()
        for record in records:
            used.update(record.get("use", {}))
        spent = {name: amount for name, amount in balance(head).spent.items() if amount}
        assert spent == +used
        assert head["left"]["pay"] == CAP - spent.get("tool_calls", 0)
        return spent


@contextlib.contextmanager
def over(store, folder):
    """A nursery over a store of its own, `sqlite` or `redis`."""
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder}/state.db?durability=process"
        if store == "redis":
            url = f"redis://127.0.0.1:{stack.enter_context(Server(folder / 'redis', 'appendfsync no')).port}"
        yield stack.enter_context(Nursery(folder, url))
