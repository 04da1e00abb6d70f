"""`buspass up` that ends itself with SIGKILL at a chosen place of a call's way, and a nursery that starts such hosts.

Owns the places: the stations that the gateway times, and the store and outbound ports handed to the composition root.
Nothing of the product knows of it: it is the command line's own `up`, composed of the same parts with a wrapper round
three of them. One process has everything imported and forks a host for each order, so that hundreds may die in a test.

An order is a line of JSON on standard input: `{"environ": {…}, "log": PATH}` is answered with the host's process id, `{"wait": PID}` with its exit code once it has ended, negative for a signal.

In the folder MORTAL_FOLDER of a host, file `at` names the place where it dies, `ahead` how many ms its clock is early.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

from uvicorn.lifespan import off
from uvicorn.protocols.http import auto

from buspass import gateway
from buspass.calls.call import Stopwatch
from buspass.cli import connection, example, main
from buspass.http.adapters import opened
from buspass.http.compose import composed
from buspass.ports.clock import SystemClock
from buspass.ports.outbound import Streamed
from buspass.ports.state import Put, Update, plain
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.outbound import ScriptedOutbound
from buspass.testing.state_memory import MemoryState
from buspass_onprem import files, redis, server, sqlite

WARM = (auto, connection, example, files, off, redis, sqlite)
"""Imported here, so that no host imports them again."""
MIDDLE = 3
"""Events of a stream that come before its middle."""


def folder():
    return Path(os.environ["MORTAL_FOLDER"])


def chosen(place):
    return (folder() / "at").read_text() == place


def here(place):
    """End this process, as kill -9 does, if this is the place."""
    if chosen(place):
        os.kill(os.getpid(), signal.SIGKILL)


class Ahead(SystemClock):
    def now(self):
        return super().now() + int((folder() / "ahead").read_text())


class Stations(dict):
    """Every station of a governed call begins here."""

    def __setitem__(self, station, time):
        here(station)
        super().__setitem__(station, time)


class Watch(Stopwatch):
    __slots__ = ()

    def __init__(self, clock, station):
        here(station)
        super().__init__(clock, station)
        self.at = Stations(self.at)

    def again(self, station):
        here(station)
        super().again(station)
        self.at = Stations(self.at)


def step(operations):
    """What an apply is to a call: its hold, its settle, its sweep, or nothing of these."""
    first, last = plain(operations[0]), plain(operations[-1])
    if isinstance(first, Update) and any(path[0] == "open" for path in first.set):
        return "hold"
    if isinstance(first, Put) and first.key.startswith("rec:") and isinstance(last, Update):
        return {"settled": "settle", "expired": "sweep"}.get(first.value.get("state"), "")
    return ""


class State:
    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def apply(self, partition, operations):
        doing = step(operations)
        if not doing:
            return await self._inner.apply(partition, operations)
        here(f"{doing}, before its write")
        if chosen(f"{doing}, between record and head"):  # as a store that applies one by one may leave it
            await self._inner.apply(partition, operations[:-1])
            here(f"{doing}, between record and head")
        answer = await self._inner.apply(partition, operations)
        here(f"{doing}, after its write")
        return answer


class Blobs:
    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def put(self, name, data, **conditions):
        tag = await self._inner.put(name, data, **conditions)
        if "/outcome/" in name:
            here("settle, its outcome kept")
        return tag


class Outbound:
    def __init__(self, inner):
        self._inner = inner

    async def send(self, request):
        here("dispatch, before it is sent")
        response = await self._inner.send(request)
        here("validate")
        return response

    async def open(self, request):
        here("dispatch, before it is sent")
        streamed = await self._inner.open(request)
        return Streamed(status=streamed.status, headers=streamed.headers, chunks=events(streamed.chunks))

    async def close(self):
        await self._inner.close()


async def events(chunks):
    """Give a stream event by event, however many came in one piece."""
    seen, rest = 0, b""
    async with aclosing(chunks) as pieces:
        async for piece in pieces:
            *whole, rest = (rest + piece).split(b"\n\n")
            for event in whole:
                if seen == 0:
                    here("stream, before its first event")
                if seen == MIDDLE:
                    here("stream, in its middle")
                if b"[DONE]" in event:
                    here("stream, before its last event")
                seen += 1
                yield event + b"\n\n"


async def start(environ, limits, *, bind, port, document=None, dispatch):
    """What `buspass.http.start` does, of parts that die."""
    return await composed(
        environ,
        limits,
        bind=bind,
        port=port,
        document=document,
        clock=Ahead(),
        outbound=Outbound(dispatch()),
        state=State(await opened("state", environ["MORTAL_STATE"])),
        blobs=Blobs(await opened("blobs", environ["MORTAL_BLOBS"])),
    )


async def warm(environ):
    """Bring a host up on nothing, once, so that what it imports on the way is there for all that are forked."""
    environ = {**environ, "BUSPASS_CONFIG": environ["MORTAL_CONFIG"]}
    nowhere = {"clock": SystemClock(), "outbound": ScriptedOutbound(), "state": MemoryState(), "blobs": MemoryBlobs()}
    application = await composed(environ, server.LIMITS, **nowhere)
    await application.mint_workload("nobody")
    await application.close()


def born(order):
    """Be a host until something ends it."""
    os.environ.update(order["environ"])
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(number, target)
    sys.stdout.reconfigure(line_buffering=True)
    return main(["up", "--port", "0", "--config", order["environ"]["MORTAL_CONFIG"]])


def told(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def nurse():
    """Start hosts as they are ordered; whoever still lives at the end of the orders goes with them."""
    gateway.Stopwatch, server.start = Watch, start
    living, warmed = set(), False
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            living.discard(order["wait"])
            told(os.waitstatus_to_exitcode(status))
            continue
        if not warmed:
            asyncio.run(warm(order["environ"]))
            warmed = True
        process = os.fork()
        if not process:
            code = 1
            try:
                code = born(order)
            finally:
                os._exit(code)
        living.add(process)
        told(process)
    for process in living:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


if __name__ == "__main__":
    nurse()
