"""Standing tasks when hosts die and stores lie: no key is made or widened, no money is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from msgspec import structs

from buspass.journal.records import Journal
from buspass.tasks.keys import Key, Keys
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.state_memory import Crash, Lost, MemoryState

CONFIG = Path(__file__).parents[1] / "data" / "keys" / "buspass.yaml"
BODY = {"model": "plan", "messages": [{"role": "user", "content": "hello"}]}


class Faulty:
    """The domain over a store with faults, and what its pool says."""

    def __init__(self, domain: Domain, state: MemoryState) -> None:
        self.domain, self.state = domain, state

    async def key(self, **body: Any) -> dict[str, Any]:
        client = await self.domain.host()
        headers = {"authorization": f"Bearer {self.domain.apps['onprem'].house.operator_key}"}
        asked = {"name": "bot", "workflow": "work", **body}
        answer = await client.post("/v1/keys", json=asked, headers=headers)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def chat(self, key: str, session: str = "", host: str = "onprem") -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "buspass-session": session}
        return await (await self.domain.host(host)).post("/v1/chat/completions", json=BODY, headers=headers)

    def advance(self, seconds: float) -> None:
        self.domain.clock.advance(seconds)  # type: ignore[attr-defined]

    @property
    def head(self) -> dict[str, Any]:
        head: dict[str, Any] = self.state.dump()["pool:support"]["head"]
        return head

    def spent(self) -> int:
        """What the journals of all tasks say, in micro-dollars."""
        tasks = [items for name, items in self.state.dump().items() if name.startswith("t_")]
        return sum(item.get("use", {}).get("cost", 0) for items in tasks for item in items.values())


@pytest.fixture(params=[True, False], ids=["transactional", "one by one"])
async def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Faulty]:
    state = MemoryState(transactional=request.param, random=Random(7))
    async with Domain(CONFIG, tmp_path, {}, state=state) as domain:
        await domain.host()
        await domain.host("aws")
        yield Faulty(domain, state)


@pytest.mark.parametrize("writes", range(14))
async def test_a_host_that_dies_while_a_standing_task_begins_leaves_its_money_to_be_found(
    faulty: Faulty, writes: int
) -> None:
    key = (await faulty.key())["key"]
    faulty.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await faulty.chat(key)
    faulty.state.crash_after(10**9)
    other = await faulty.chat(key, host="aws")
    assert other.status_code == 200, other.text
    head = faulty.head
    assert head["allocated"]["cost"] == 500_000
    assert head["available"]["cost"] == 1_500_000


@pytest.mark.parametrize("writes", range(9))
async def test_money_of_a_task_that_was_never_born_comes_back_by_the_sweep(faulty: Faulty, writes: int) -> None:
    key = (await faulty.key())["key"]
    faulty.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await faulty.chat(key, "gone")
    faulty.state.crash_after(10**9)
    faulty.advance(1300)
    assert (await faulty.chat(key, "other", host="aws")).status_code == 200
    assert faulty.head["allocated"]["cost"] == 500_000, "only the other session's"
    faulty.advance(1300)
    back = await faulty.chat(key, "gone", host="aws")
    assert back.status_code == 200, back.text
    assert faulty.head["allocated"]["cost"] == 500_000
    assert faulty.head["available"]["cost"] + 500_000 + faulty.spent() >= 2_000_000


@pytest.mark.parametrize("writes", range(10))
async def test_a_host_that_dies_while_a_standing_task_is_renewed_doubles_nothing(faulty: Faulty, writes: int) -> None:
    key = (await faulty.key())["key"]
    assert (await faulty.chat(key)).status_code == 200
    before = faulty.spent()
    faulty.advance(601)
    faulty.state.crash_after(writes)
    with contextlib.suppress(Crash):
        await faulty.chat(key)
    faulty.state.crash_after(10**9)
    assert (await faulty.chat(key, host="aws")).status_code == 200
    assert faulty.head["allocated"]["cost"] == 500_000
    assert faulty.head["available"]["cost"] == 1_500_000 - before


async def test_a_tombstone_keeps_a_late_birth_from_spending(faulty: Faulty) -> None:
    """A host that froze between the pool and the birth wakes up after its money went back."""
    key = (await faulty.key(workflow="long", pool="support"))["key"]
    tasks = faulty.domain.apps["onprem"].house.tasks
    begin = tasks.begin

    async def frozen(*parts: Any) -> Any:
        tasks.begin = begin  # type: ignore[method-assign]
        faulty.advance(1300)
        assert (await faulty.chat(key, "other", host="aws")).status_code == 200
        assert faulty.head["allocated"]["cost"] == 500_000
        return await begin(*parts)

    tasks.begin = frozen  # type: ignore[method-assign]
    answer = await faulty.chat(key, "slow")
    assert answer.status_code == 200, answer.text
    assert (await faulty.chat(key, "slow")).headers["buspass-task"] == answer.headers["buspass-task"]
    assert faulty.head["allocated"]["cost"] == 1_000_000


async def test_a_living_task_is_looked_after_again_when_its_time_is_over(faulty: Faulty) -> None:
    key = (await faulty.key(workflow="long", pool="support"))["key"]
    task = (await faulty.chat(key, "alive")).headers["buspass-task"]
    faulty.advance(700)
    assert (await faulty.chat(key, "other")).status_code == 200
    record = faulty.state.dump()["pool:support"][f"alloc:{task}"]
    assert (record["state"], record["due"] - faulty.domain.clock.now() > 6_000_000) == ("open", True)
    assert (await faulty.chat(key, "alive")).headers["buspass-task"] == task


async def test_a_troubled_store_never_overdraws_the_pool(faulty: Faulty) -> None:
    key = (await faulty.key())["key"]
    faulty.state.trouble = 0.1
    answered = 0
    for n in range(60):
        answer = await faulty.chat(key, f"s{n % 7}", host=("onprem", "aws")[n % 2])
        answered += answer.status_code == 200
        assert answer.status_code in {200, 402, 409, 429, 503}, answer.text
        if "pool:support" in faulty.state.dump():
            assert faulty.head["available"]["cost"] >= 0
        faulty.advance(20)
    assert answered > 5
    faulty.state.deliver()
    faulty.state.trouble = 0.0
    for _ in range(3):
        faulty.advance(1300)
        assert (await faulty.chat(key, "last")).status_code == 200
    assert faulty.head["allocated"]["cost"] == 500_000
    released = [v for k, v in faulty.state.dump()["pool:support"].items() if k.startswith("alloc:")]
    spent = sum(each["spent"] for each in released)
    assert faulty.head["available"]["cost"] == 1_500_000 - spent


# ── who can write to the database ───────────────────────────────────────────────────────────────────────────────────


async def test_who_can_write_to_the_database_makes_no_key_and_widens_none(faulty: Faulty) -> None:
    made = await faulty.key(models=["draft"])
    items = faulty.state._items["keys"]
    genuine = items[made["id"]]
    for change in ({"models": []}, {"revoked_at": 0, "version": 7}, {"mac": "00" * 16}, {"workflow": "loose"}):
        items[made["id"]] = {**genuine, **change}
        faulty.advance(5)
        answer = await faulty.chat(made["key"])
        assert answer.status_code == 401, change
    twin = "k_" + "a" * 16
    items[twin] = {**genuine, "id": twin}
    assert (await faulty.chat(f"bp_{'a' * 16}_{made['key'][20:]}")).status_code == 401, "a copy under another id"
    items[made["id"]] = genuine
    faulty.advance(5)
    assert (await faulty.chat(made["key"])).json()["error"]["code"] == "model_not_granted"


async def test_the_secret_is_nowhere_in_the_store(faulty: Faulty) -> None:
    made = await faulty.key()
    await faulty.chat(made["key"])
    text = str(faulty.state.dump())
    assert made["key"] not in text
    assert made["key"][20:] not in text


@pytest.mark.parametrize(
    "sent", ["bp_", "bp_x", "bp_" + "a" * 16 + "_" + "A" * 42, "bp_" + "a" * 16 + "_" + "A" * 43, "bp_é" + "a" * 60]
)
async def test_what_is_no_key_of_this_domain_is_refused(faulty: Faulty, sent: str) -> None:
    headers = {b"authorization": b"Bearer " + sent.encode()}
    client = await faulty.domain.host()
    answer = await client.post("/v1/chat/completions", json=BODY, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"


async def test_a_key_that_two_hosts_change_at_once_is_changed_by_both_and_by_each_once() -> None:
    state, clock, journal = MemoryState(), FakeClock(), Journal(b"k" * 32)
    here, there = (Keys(state, clock, journal.stamp, journal.genuine) for _ in range(2))
    await here.add(Key(id="k_1", name="bot", workflow="w", pool="p", digest="0", created_at=1, created_by="me"))
    await asyncio.gather(
        here.change("k_1", lambda key: structs.replace(key, revoked_at=7)),
        there.change("k_1", lambda key: structs.replace(key, cleared=key.cleared + 1)),
    )
    found = await here.look("k_1")
    assert found is not None
    assert (found.revoked_at, found.cleared, found.version) == (7, 1, 3), (
        "a revocation that was overtaken is made all the same"
    )
    state.meet(Lost())
    found = await there.change("k_1", lambda key: structs.replace(key, cleared=key.cleared + 1))
    assert (found.revoked_at, found.cleared, found.version) == (7, 2, 4)
    assert await here.look("k_1") == found
