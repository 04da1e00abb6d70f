"""kill -9 of a host that has something which others wait for: the lease of a breaker's one prober, turns of a rate.

Real `buspass up`s over SQLite and Redis (`mortal_host`): what dies with a host is time, and no more of it than was leased.
"""

import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from nursery import over

pytestmark = pytest.mark.verify

OPEN = 31_000
"""Milliseconds after which a breaker that opened for the first time may be probed."""
LEASE = 26_000
"""The same after which a prober's lease is over: its call's 20 s, and five."""
TURNS = 16
RATE = 2


@pytest.fixture(params=["sqlite", "redis"])
def nursery(request, tmp_path):
    with over(request.param, tmp_path) as running:
        yield running


class Agent:
    """One task's agent, and what it calls."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.task, self.token = nursery.task()

    def pays(self, tool="pay"):
        body = {"arguments": {"order": f"order-{uuid.uuid4().hex}"}}
        return self.nursery.post(f"/v1/tools/{tool}", self.token, body)


def breaker(nursery):
    key = f"breaker:tool:{nursery.upstream.url.removeprefix('http://')}"
    return nursery.looked(lambda state: state.read(key, "state"))


def reached(nursery):
    return sum(nursery.upstream.seen.values())


def test_the_lease_of_a_prober_that_was_killed_ends_and_the_breaker_recovers(nursery):
    nursery.upstream.failing = True
    agent = Agent(nursery)
    assert [agent.pays().json()["code"] for _ in range(4)] == ["upstream_error"] * 3 + ["circuit_open"]
    nursery.pass_time(OPEN)
    nursery.upstream.failing = False
    nursery.die_at("dispatch, before it is sent")
    with pytest.raises(httpx.TransportError):
        agent.pays()
    nursery.buried()
    nursery.die_at("")
    left = breaker(nursery)
    assert (left["state"], bool(left["probe"])) == ("half_open", True), "it died with the lease"
    before = reached(nursery)
    nursery.up("right")
    refused = agent.pays()
    assert refused.json()["code"] == "circuit_open", refused.text
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["retry_at"] > "2026"
    assert reached(nursery) == before, "nobody else goes while it may be at work yet"
    nursery.pass_time(LEASE)
    others = [Agent(nursery) for _ in range(3)]
    assert [other.pays().status_code for other in others] == [200] * 3
    assert breaker(nursery)["state"] == "closed"
    nursery.pass_time()
    nursery.books(agent.task, agent.token)


def test_turns_of_a_rate_that_a_killed_host_had_are_lost_time_and_no_more(nursery):
    agents = [Agent(nursery) for _ in range(4)]
    assert agents[0].pays("paced").status_code == 200

    def waiting(number):
        try:
            return agents[number % 4].pays("paced").status_code
        except httpx.TransportError:
            return "gone"

    with ThreadPoolExecutor(TURNS) as pool:
        calls = [pool.submit(waiting, number) for number in range(TURNS)]
        until = time.monotonic() + 30
        while reached(nursery) < 3:  # the others have their turns and wait for them
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(nursery.up().process, signal.SIGKILL)
        killed = time.time()
        ends = [call.result() for call in calls]
    nursery.buried()
    nursery.up("right")  # by then all that the dead one had sent has come
    went = reached(nursery)
    assert ends.count("gone") >= TURNS - went
    assert went < TURNS, "most turns were not used"
    table = nursery.looked(lambda state: state.read("rate:tool:paced", "table"))
    (due,) = table["due"].values()
    ahead = due / 1000 - killed * 1000
    assert ahead <= TURNS / RATE * 1000 + 500, "no more than they were"
    nursery.pass_time(round(TURNS / RATE * 1000) + 500)
    began = time.monotonic()
    assert Agent(nursery).pays("paced").status_code == 200
    took = time.monotonic() - began
    print(f"{nursery.store.partition(':')[0]}: {TURNS - went} turns lost, {ahead:.0f} ms; then at once ({took:.2f} s)")  # noqa: T201
    assert took < TURNS / RATE, "and after that time nobody waits for the dead"
    assert reached(nursery) == went + 1
