"""Two trust domains in one process: `home` and `partner` share a clock and a wire, and no key and no store.

Owns the wire between them, which can be cut, and what a test looks at. Refuses to know what may be handed over.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Self

import httpx

from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.state_memory import MemoryState
from buspass.timer import tick

HOME, PARTNER = "127.0.0.1:8700", "127.0.0.1:8800"
SMALL = {"tokens": 20_000, "cost": 0.2, "calls": 5}


class Wire:
    """The application of one host, as another domain reaches it: every message to it and every answer may be lost."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.lose_answers = 0
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        lost = self.lose_answers > 0 and not scope["path"].startswith("/.well-known")

        async def told(message: Any) -> None:
            if not lost:
                await send(message)

        await self.app(scope, receive, told)
        if lost:
            self.lose_answers -= 1


class Neighbours:
    """Both domains, each of one host. Use `async with`."""

    def __init__(self, configs: Path, folder: Path, service: Any, *, transactional: bool = True) -> None:
        self.clock = FakeClock()
        services = {"127.0.0.1:9002": service.app}
        self.states = {name: MemoryState(transactional=transactional, random=Random(7)) for name in ("home", "partner")}
        self.home, self.partner = (
            Domain(
                configs / f"{name}.yaml", folder / name, services,
                clock=self.clock, state=self.states[name], domain_key=key * 32,
            )
            for name, key in (("home", "0a"), ("partner", "0b"))
        )  # fmt: skip
        self.wires: dict[str, Wire] = {}

    async def __aenter__(self) -> Self:
        await self.home.host("onprem")
        await self.partner.host("partner")
        self.wires = {HOME: Wire(self.home.apps["onprem"]), PARTNER: Wire(self.partner.apps["partner"])}
        for domain in (self.home, self.partner):
            self.network(domain).apps |= self.wires
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.home.__aexit__()
        await self.partner.__aexit__()

    def network(self, domain: Domain) -> Any:
        return domain.outbound.inner

    def cut(self, *, cut: bool = True) -> None:
        """Part the domains, or join them again."""
        for domain, other in ((self.home, PARTNER), (self.partner, HOME)):
            down = self.network(domain).down
            (down.add if cut else down.discard)(other)

    @property
    def houses(self) -> tuple[Any, Any]:
        return self.home.apps["onprem"].house, self.partner.apps["partner"].house

    async def hand(self, agent: Agent, *, key: str = "", **body: Any) -> httpx.Response:
        """Ask for a child at the partner."""
        client = await self.home.host("onprem")
        headers = agent.headers | ({"idempotency-key": key} if key else {})
        wish = {"peer": "partner", "workflow": "supply", "budget": SMALL, **body}
        return await client.post(f"/v1/tasks/{agent.task}/tasks", json=wish, headers=headers)

    async def child(self, agent: Agent, **body: Any) -> Agent:
        answer = await self.hand(agent, **body)
        assert answer.status_code == 201, answer.text
        started = answer.json()
        client = await self.partner.host("partner")
        return Agent(client=client, task=started["task"]["id"], token=started["token"], document=started["task"])

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def tick(self, *names: str, times: int = 2) -> None:
        for _ in range(times):
            for name, house in zip(("home", "partner"), self.houses, strict=True):
                if not names or name in names:
                    await tick(house)

    def items(self, task: str) -> dict[str, Any]:
        return {**self.states["home"].dump().get(task, {}), **self.states["partner"].dump().get(task, {})}

    def head(self, task: str) -> Any:
        return self.items(task)["head"]

    def spent(self, task: str, account: str = "cost") -> int:
        """What the records say, of calls and of children."""
        head, total = self.head(task), 0
        for key, item in self.items(task).items():
            kind, _, call = key.partition(":")
            if kind == "rec" or (kind == "credit" and call in head["late"]):
                total += int(item.get("use", {}).get(account, 0))
        return total

    def pool(self, domain: str) -> tuple[int, int]:
        """Give what the domain's pool has, and what is allocated of it; one that nobody drew from is not there yet."""
        found = [items.get("head") for name, items in self.states[domain].dump().items() if name.startswith("pool:")]
        if not (heads := [head for head in found if head]):
            return {"home": 5_000_000, "partner": 2_000_000}[domain], 0
        (head,) = heads
        return head["available"]["cost"], head["allocated"]["cost"]

    async def operate(self, domain: Domain, method: str, path: str) -> Any:
        (name,) = domain.apps
        client = await domain.host(name)
        key = domain.apps[name].house.operator_key
        answer = await client.request(method, path, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def sound(self, domain: Domain, task: str) -> None:
        verdict = await self.operate(domain, "GET", f"/v1/tasks/{task}/trace/verify")
        assert verdict["ok"], verdict
