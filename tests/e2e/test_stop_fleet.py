"""`buspass stop` while the fleet is at work: 200 streams on three real hosts, 100 open tasks, and all of it ends.

On-prem, Azure Functions and Lambda are processes over one store. What an operator types is typed here: the command line
is the product's own.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter

import hosts
import httpx
import pytest

pytestmark = pytest.mark.verify

TASKS = 100
STREAMS = {"onprem": 96, "azure": 96, "aws": 8}
WORDS = " ".join(f"word{n}" for n in range(90))
BEGIN = 25
"""How many begin at a time: what is held is sent within five seconds or never, and a busy machine has 200 for longer."""
WITHIN = 5.0
"""Seconds in which everything is over, on a machine that does nothing else."""
BUSY = 6
"""How many times longer a busy one may take: a third of what the streams would last by themselves."""


def operate(domain, *words):
    """Run `buspass stop …` as an operator at the on-prem host."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSPASS_")}
    environ |= {"BUSPASS_URL": domain.urls["onprem"], "BUSPASS_DATA": str(domain.folder / "data-onprem")}
    return subprocess.run(
        [sys.executable, "-m", "buspass", "stop", *words], env=environ, text=True, capture_output=True, timeout=600
    )


class Stream:
    """One stream as its client sees it. `began`: the first event came; `ended`: when the last one did (s)."""

    def __init__(self, url, token):
        self.url, self.token = url, token
        self.began, self.ended, self.last = asyncio.Event(), 0.0, ""

    async def run(self, client, few):
        body = {"model": "plan", "stream": True, "messages": [{"role": "user", "content": WORDS}]}
        headers = {"authorization": f"Bearer {self.token}"}
        async with contextlib.AsyncExitStack() as stack:
            async with few:
                asked = client.stream("POST", f"{self.url}/v1/chat/completions", json=body, headers=headers)
                answer = await stack.enter_async_context(asked)
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.last = line.removeprefix("data: ")
                    self.began.set()
        self.ended = time.time()


async def cut(domain, streams, *words):
    """Begin the streams, stop once all of them run, and wait until all have ended. What the command answered."""
    limits, few = httpx.Limits(max_connections=None, max_keepalive_connections=0), asyncio.Semaphore(BEGIN)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        running = [asyncio.create_task(stream.run(client, few)) for stream in streams]
        await asyncio.wait_for(asyncio.gather(*(stream.began.wait() for stream in streams)), 90)
        assert not any(task.done() for task in running), "they last longer than a stop takes"
        done = await asyncio.to_thread(operate, domain, *words, "--json")
        await asyncio.gather(*running)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def moment(text):
    return time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone + float(text[19:23])


def sound(domain, key, task):
    """Nothing is held, and what is spent is the sum of the records. Gives how the calls ended."""
    found = domain.send("onprem", "GET", f"/v1/tasks/{task}", key).json
    assert domain.send("onprem", "GET", f"/v1/tasks/{task}/trace/verify", key).json["ok"]
    calls = [
        row
        for row in domain.send("onprem", "GET", f"/v1/tasks/{task}/trace", key).json["records"]
        if row["kind"] == "inference"
    ]
    assert set(found["budget"]["held"].values()) == {0}
    for name in ("tokens", "calls", "model_calls"):
        assert found["budget"]["spent"][name] == sum(row["use"].get(name, 0) for row in calls)
    return found["status"], Counter(row["code"] for row in calls)


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    command = ["-m", "buspass.testing.lambda_runtime", "--streaming", "--instances", str(STREAMS["aws"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hosts.COMMANDS, "aws", command)
        with hosts.Domain(tmp_path_factory.mktemp("fleet")) as domain:
            domain.around.provider.pace = 1.25
            yield domain


def test_two_hundred_streams_on_three_hosts_and_a_hundred_tasks_end_when_they_are_stopped(domain):
    key, names = domain.operator_key("onprem"), list(domain.urls)
    begun = [domain.start(names[number % 3], "streams") for number in range(TASKS)]
    where = [host for host, count in STREAMS.items() for _ in range(count)]
    streams = [Stream(domain.urls[host], begun[number % TASKS][1]) for number, host in enumerate(where)]
    bystander = domain.start("onprem", "work")
    found = asyncio.run(cut(domain, streams, "--workflow", "streams", "--reason", "a drill"))
    took = max(stream.ended for stream in streams) - moment(found["at"])
    done = moment(found["done_at"]) - moment(found["at"])
    print(f"stop: {TASKS} tasks and {len(streams)} streams ended after {took:.1f} s, told as done after {done:.1f} s")  # noqa: T201
    assert (found["tasks"], found["complete"], found["in_flight"]) == (TASKS, True, 0)
    assert 0 < found["cut"] <= len(streams)
    assert took <= BUSY * WITHIN
    for stream in streams:
        assert "stopped" in stream.last or "task_killed" in stream.last, stream.last
    ends = [sound(domain, key, task) for task, _ in begun]
    assert {status for status, _ in ends} == {"killed"}
    assert sum((codes for _, codes in ends), Counter()).keys() <= {"stopped", "task_killed"}
    assert sum(sum(codes.values()) for _, codes in ends) == len(streams)
    for host in names:
        refused = domain.send(host, "POST", "/v1/tasks", domain.workload(), {"workflow": "streams"})
        assert (refused.status, refused.json["code"]) == (403, "stopped")
    note = domain.send("aws", "POST", "/v1/tools/note", bystander[1], {"arguments": {"text": "on"}})
    assert note.status == 200, "another workflow goes on"
    lifted = operate(domain, "--lift", found["id"], "--reason", "the drill is over")
    assert lifted.returncode == 0, lifted.stderr
    time.sleep(1.1)
    for host in names:
        domain.start(host, "streams")


def test_streams_of_a_model_are_cut_at_every_host_and_their_tasks_go_on(domain):
    key, names = domain.operator_key("onprem"), list(domain.urls)
    begun = {host: domain.start(host, "work") for host in names}
    streams = [Stream(domain.urls[host], begun[host][1]) for host in names * 2]
    found = asyncio.run(cut(domain, streams, "--model", "plan", "--reason", "nonsense"))
    assert (found["tasks"], found["in_flight"], found["complete"]) == (0, 0, True)
    assert max(stream.ended for stream in streams) - moment(found["at"]) <= BUSY * WITHIN
    for stream in streams:
        assert '"stopped"' in stream.last, stream.last
    for host, (task, token) in begun.items():
        assert sound(domain, key, task) == ("open", {"stopped": 2})
        body = {"model": "plan", "messages": [{"role": "user", "content": "hello"}]}
        refused = domain.send(host, "POST", "/v1/chat/completions", token, body)
        assert (refused.status, refused.json["error"]["code"]) == (403, "stopped")
        note = domain.send(host, "POST", "/v1/tools/note", token, {"arguments": {"text": "on"}})
        assert note.status == 200, "and so do its tools"
