"""Two hundred streams at once, of which a quarter is left in the middle: nothing leaks, and the ledger closes.

On-prem and Azure as one process each, Lambda as sixteen environments that serve one call at a time. What a process holds
is read from the system's own counters: descriptors and memory of the host's whole process tree.
"""

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path

import hosts
import httpx
import pytest

from buspass_onprem import sqlite

pytestmark = pytest.mark.verify

SETTLED = 240
"""Seconds for what was left to be settled; on Lambda a stream goes on to its end."""
TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
COMMANDS = {"aws": ["-m", "buspass.testing.lambda_runtime", "--streaming", "--instances", "16"]}
STREAMS = {"onprem": 200, "azure": 200, "aws": 64}
TASKS = 8
PACE = {"onprem": 0.25, "azure": 0.25, "aws": 0.05}
"""Seconds between two events: of a process that passes them all on, some time must be left for those who begin."""
BEGIN = 10
"""How many begin at a time: what is held is sent within five seconds or never, and a busy machine has 200 for longer."""


def tree(pid):
    """A process and all that it has started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def counted(pid):
    """Descriptors, of them sockets, and resident kilobytes of a process tree."""
    seen = Counter()
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{each}/fd").iterdir():
                seen["descriptors"] += 1
                with contextlib.suppress(OSError):
                    seen["sockets"] += str(link.readlink()).startswith("socket:")
            status = Path(f"/proc/{each}/status").read_text()
            seen["kB"] += int(status.partition("VmRSS:")[2].split()[0])
    return seen


def calm(pid, descriptors):
    """The counters once no more than so many descriptors are open: connections that nobody uses close by and by."""
    ends = time.monotonic() + SETTLED
    while (seen := counted(pid))["descriptors"] > descriptors and time.monotonic() < ends:
        time.sleep(0.5)
    return seen


async def one(client, few, url, token, number):
    """One stream, to its end or, one in four, left after some events. What its client saw last."""
    body = {"model": "plan", "stream": True, "messages": [{"role": "user", "content": f"{number} {TEXT}"}]}
    headers = {"authorization": f"Bearer {token}"}
    last = ""
    async with contextlib.AsyncExitStack() as stack:
        async with few:
            asked = client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers)
            answer = await stack.enter_async_context(asked)
        assert answer.status_code == 200, await answer.aread()
        events = 0
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                last, events = line.removeprefix("data: "), events + 1
            if number % 4 == 0 and events > number // 4 % 6:
                return "left"
    return last


async def wave(url, tokens, count):
    limits, few = httpx.Limits(max_connections=None, max_keepalive_connections=0), asyncio.Semaphore(BEGIN)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        calls = (one(client, few, url, tokens[number % TASKS], number) for number in range(count))
        return await asyncio.gather(*calls)


async def heads(folder, tasks):
    state = await sqlite.open(f"sqlite:///{folder / 'state.db'}?durability=process")
    try:
        return [await state.read(task, "head") for task in tasks]
    finally:
        await state.close()


def settled(folder, tasks):
    """Wait until no call is open, and give the heads."""
    ends = time.monotonic() + SETTLED
    while True:
        found = asyncio.run(heads(folder, tasks))
        if not any(head["open"] for head in found):
            return found
        assert time.monotonic() < ends, [head["open"] for head in found]
        time.sleep(0.2)


def ledger_closes(domain, host, task, token, head):
    """The head is the sum of the records, and the budget adds up."""
    trace = domain.send(host, "GET", f"/v1/tasks/{task}/trace", token).json["records"]
    calls = [record for record in trace if record["kind"] == "inference"]
    budget = domain.send(host, "GET", f"/v1/tasks/{task}", token).json["budget"]
    assert domain.send(host, "GET", f"/v1/tasks/{task}/trace/verify", token).json["ok"]
    assert set(budget["held"].values()) == {0}
    for name in ("tokens", "calls", "model_calls"):
        assert budget["spent"][name] == sum(record["use"].get(name, 0) for record in calls)
    assert budget["available"]["tokens"] == 1_000_000 - budget["spent"]["tokens"]
    assert not head["open"]
    return Counter(record["status"] for record in calls)


@pytest.mark.parametrize("host", STREAMS)
def test_streams_that_are_left_leak_nothing_and_the_ledger_closes(host, tmp_path, monkeypatch):
    monkeypatch.setitem(hosts.COMMANDS, host, COMMANDS.get(host, hosts.COMMANDS[host]))
    count, seen = STREAMS[host], []
    with hosts.Domain(tmp_path, hosts=(host,)) as domain:
        domain.around.provider.pace = PACE[host]
        tasks, tokens = zip(*(domain.start(host, "streams") for _ in range(TASKS)), strict=True)
        for _ in range(3):
            ends = asyncio.run(wave(domain.urls[host], tokens, count))
            assert Counter(end if end in {"left", "[DONE]"} else "broken" for end in ends) == {
                "left": count // 4,
                "[DONE]": count - count // 4,
            }
            found = settled(tmp_path, tasks)
            most = seen[0]["descriptors"] + 16 if seen else 10_000
            seen.append(calm(domain.processes[host].pid, most))
        states = sum((ledger_closes(domain, host, *each) for each in zip(tasks, tokens, found, strict=True)), Counter())
        log = domain.log(host)
    assert sum(states.values()) == 3 * count
    assert set(states) <= {"succeeded", "unknown"}
    assert states["succeeded"] >= 3 * (count - count // 4)
    print(f"{host}: {count} streams thrice, {dict(states)}; {[dict(each) for each in seen]}")  # noqa: T201 - a figure
    assert seen[2]["descriptors"] <= seen[0]["descriptors"] + 16, seen
    assert seen[2]["kB"] <= 1.2 * seen[0]["kB"] + 10_000, seen
    assert "Traceback" not in log, log[-4000:]
