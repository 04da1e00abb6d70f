"""`--stores A,B`: the service desk is a host of its own with store A, the three clouds share store B.

Owns what buspass.yaml says more for that, the stores' servers, and how a case is handed over: the desk's task gives
it a part of its budget, as a child in the other store, and gets back what is left. Refuses to know the case.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from returns.coordinator import Task

STORES: Final = ("sqlite", "redis")
DESK: Final = "desk"
PORT: Final = 8750
REDIS: Final = (8751, 8752)
"""Fixed ports of the two sides' Redis servers, as far as they have one."""
DOMAIN_STATE: Final = "state: sqlite:///state.db?durability=process\n"
TOOLS: Final = ("get_customer", "get_order", "legal_check", "refund")
CASE: Final[Mapping[str, Any]] = {"tokens": 50_000, "cost": 0.40, "calls": 35, "model_calls": 18, "tool_calls": 17}
"""What the desk hands over of its own budget."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The stores of the two sides: the desk's, and the clouds'."""

    desk: str
    clouds: str

    @classmethod
    def read(cls, text: str) -> Sides:
        """Read `sqlite,redis`. Raises ValueError."""
        names = text.split(",")
        if len(names) != 2 or not set(names) <= set(STORES):
            raise ValueError(f"--stores {text}: two of {', '.join(STORES)}, such as sqlite,redis")
        return cls(*names)

    def urls(self) -> tuple[str, str]:
        """Give both sides' stores; ports are those that the launcher replaces."""
        files = ("sqlite:///desk.db?durability=process", DOMAIN_STATE.partition(": ")[2].strip())
        servers = tuple(f"redis://127.0.0.1:{port}" for port in REDIS)
        names = (self.desk, self.clouds)
        first, second = (servers[n] if name == "redis" else files[n] for n, name in enumerate(names))
        return first, second

    def configured(self, text: str) -> str:
        """Give buspass.yaml with the desk's host and both stores."""
        desk, clouds = self.urls()
        host = f"  {DESK}:   {{url: http://127.0.0.1:{PORT}, cloud: onprem, region: fra1, state: {desk}}}\n"
        return text.replace(DOMAIN_STATE, f"{host}state: {clouds}\n")

    def servers(self) -> list[tuple[str, int]]:
        """Give the Redis servers to start, as (name, fixed port). Raises ValueError where there is none to run."""
        found = [(f"redis-{n}", REDIS[n]) for n, name in enumerate((self.desk, self.clouds)) if name == "redis"]
        if found and not shutil.which("redis-server"):
            raise ValueError("--stores with redis needs redis-server: install it from your system's packages")
        return found


async def hand_over(desk: Task, base_url: str) -> Task:
    """Begin the case as a child of the desk's task at `base_url`'s host, azure. Raises httpx.HTTPStatusError."""
    body = {"tools": TOOLS, "budget": CASE, "host": "azure"}
    answer = await desk.http.post(f"{desk.base_url}/tasks/{desk.id}/tasks", headers=desk.headers, json=body)
    case = Task(answer.raise_for_status().json(), desk.http)
    if case.base_url != base_url:
        raise ValueError(f"the case calls at {case.base_url}, not at {base_url}")
    return case


async def settled(desk: Task) -> dict[str, Any]:
    """Give what the desk's task says once the case has ended: spent, allocated, and the child's record."""
    found = (await desk.http.get(f"{desk.base_url}/tasks/{desk.id}", headers=desk.headers)).raise_for_status().json()
    budget = found["budget"]
    await desk.complete("the case is closed")
    return {"spent": budget["spent"]["cost"], "allocated": budget["allocated"]["cost"], "children": found["children"]}
