"""Tasks and their children in one trust domain of three hosts: `onprem` and `aws` share a store, `azure` has its own.

Owns what a test asks of such a family, and that money is conserved over both stores. Refuses to know what it may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx

from buspass.model import ACCOUNTS
from buspass.testing.house import Agent, Domain
from buspass.testing.state_memory import MemoryState
from buspass.timer import tick

AZURE = "sqlite:////azure.db"
SMALL = {"tokens": 20_000, "cost": 0.2, "calls": 5}


@dataclass(kw_only=True)
class Family:
    """The domain, its two stores, and what they say."""

    domain: Domain
    state: MemoryState
    other: MemoryState

    @classmethod
    def over(cls, config: Path, folder: Path, service: Any, *, transactional: bool = True) -> Family:
        """Begin it over the configuration, whose host `azure` names AZURE as its store."""
        state = MemoryState(transactional=transactional, random=Random(7))
        other = MemoryState(transactional=transactional, random=Random(8))
        services = {"127.0.0.1:9002": service.app}
        domain = Domain(config, folder, services, state=state, states={AZURE: other})
        return cls(domain=domain, state=state, other=other)

    async def delegate(self, agent: Agent, *, key: str = "", via: str = "onprem", **body: Any) -> httpx.Response:
        headers = agent.headers | ({"idempotency-key": key} if key else {})
        client = await self.domain.host(via)
        return await client.post(f"/v1/tasks/{agent.task}/tasks", json={"budget": SMALL, **body}, headers=headers)

    async def child(self, agent: Agent, **body: Any) -> Agent:
        answer = await self.delegate(agent, **body)
        assert answer.status_code == 201, answer.text
        started = answer.json()
        client = await self.domain.host(body.get("host", "onprem"))
        return Agent(client=client, task=started["task"]["id"], token=started["token"], document=started["task"])

    async def operate(self, method: str, path: str, host: str = "onprem") -> Any:
        client = await self.domain.host(host)
        key = self.domain.apps[host].house.operator_key
        answer = await client.request(method, path, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def task(self, task: str, host: str = "onprem") -> Any:
        return await self.operate("GET", f"/v1/tasks/{task}", host)

    async def sound(self, *tasks: str, host: str = "onprem") -> None:
        for task in tasks:
            verdict = await self.operate("GET", f"/v1/tasks/{task}/trace/verify", host)
            assert verdict["ok"], verdict

    def advance(self, seconds: float) -> None:
        self.domain.clock.advance(seconds)  # type: ignore[attr-defined]

    async def tick(self, *hosts: str, times: int = 3) -> None:
        for _ in range(times):
            for host in hosts:
                await tick(self.domain.apps[host].house)

    def items(self, task: str) -> dict[str, Any]:
        return (self.state.dump() | self.other.dump()).get(task, {})

    def head(self, task: str) -> Any:
        return self.items(task)["head"]

    def pool(self) -> Any:
        (found,) = [items for name, items in self.state.dump().items() if name.startswith("pool:")]
        return found["head"]

    def conserved(self) -> None:
        """All money of the pool is in it, in tasks and their children, or spent by a call; none is there twice."""
        heads = {
            name: items["head"]
            for name, items in (self.state.dump() | self.other.dump()).items()
            if name.startswith("t_") and "head" in items
        }
        for name, head in heads.items():
            given = sum(entry["amounts"]["cost"] for entry in head["children"].values())
            held = sum(call["amounts"].get("cost", 0) for call in head["open"].values())
            spent = head["limits"]["cost"] - head["available"]["cost"] - given - held
            assert head["available"]["cost"] >= 0, name
            assert spent == self.spent(name), name
            for entry in head["children"].values():
                below = heads.get(entry["task"])
                if below is not None and below["parent"]["attempt"] == entry["attempt"]:
                    assert below["limits"]["cost"] == entry["amounts"]["cost"]
            if "parent" in head:  # who is paid by nobody any more has given back what it had
                paid = [each["attempt"] for each in heads[head["parent"]["task"]]["children"].values()]
                ended = head["status"] in {"completed", "killed", "expired"} and not head["open"]
                assert head["parent"]["attempt"] in paid or ended or head.get("tombstone"), name
        pool = self.pool()
        assert pool["available"]["cost"] + pool["allocated"]["cost"] <= pool["limits"]["cost"]

    def spent(self, task: str, account: str = "cost") -> int:
        unclosed = {(name, call["attempt"]) for name, call in self.head(task)["open"].items()}
        unclosed |= {(each["task"], each["attempt"]) for each in self.head(task)["children"].values()}
        posted = self.head(task)["late"]
        total = 0
        for key, item in self.items(task).items():
            call = key.partition(":")[2]
            if key.startswith("rec:") and (call, item.get("attempt")) in unclosed:
                continue
            if key.startswith("rec:") or (key.startswith("credit:") and call in posted):
                total += item.get("use", {}).get(account, 0)
        return total


def used(document: Mapping[str, Any]) -> dict[str, float]:
    return {name: document["budget"]["spent"][name] for name in ACCOUNTS}
