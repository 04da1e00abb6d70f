"""One run of the agent, as it is watched: what it did, what it spent, and what came of it.

Reads the agent's own lines, the services' log and, behind Buspass, the journal. Refuses to steer the agent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from procurement.launcher import COMMAND
from procurement.world import PARTS

VENDOR = "email_vendor"
SENT = {"upstream_error", "upstream_timeout"}
"""Codes of calls that were sent, and failed there. Any other refusal never left the gateway."""


@dataclass(slots=True, kw_only=True)
class Side:
    """An agent's run so far. `price`: USD per million tokens; `dead`: its calls to the vendor that found it dead."""

    name: str
    price: Mapping[str, float]
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0
    ended: float = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    model_calls: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: {"input": 0, "cached": 0, "output": 0})
    dead: int = 0
    refused: int = 0
    pages: int = 0
    ordered: int = 0
    doing: str = "starts"
    final: str = ""

    async def start(self, environ: Mapping[str, str], log: Path) -> asyncio.Task[None]:
        """Start the program; it is ready when it waits for its goal."""
        with log.open("wb") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environ), limit=2**20
            )
        return asyncio.create_task(self._watch())

    def begin(self, goal: str) -> None:
        """Give it its goal."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.began = time.time()
        self.process.stdin.write(f"{goal}\n".encode())

    async def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def _watch(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.note(json.loads(line))
        await self.process.wait()
        self.ended = self.ended or time.time()
        self.ready.set()

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in what the agent told."""
        match event["event"]:
            case "ready":
                self.limits = event["limits"]
                self.ready.set()
            case "model":
                self.model_calls += 1
                for kind in self.tokens:
                    self.tokens[kind] += event[kind]
            case "tool":
                self._tool(event)
            case "wait":
                self.doing = f"waits until {event['until']}"
            case "end":
                self.final, self.doing, self.ended = event["text"], "has ended", event["at"]

    def _tool(self, event: Mapping[str, Any]) -> None:
        status, text = event["status"], event["text"]
        self.doing = f"{event['name']} {event['arguments'].get('part', '')}".strip()
        self.pages += "<html" in text
        if event["name"] == "place_order" and status in {200, 201}:
            self.ordered += 1
        if event["name"] != VENDOR or status == 200:
            return
        code = json.loads(text).get("code") if text.startswith("{") else None
        if code is None or code in SENT:
            self.dead += 1
            self.doing = f"argues about {event['arguments'].get('price')} EUR" if code is None else "is told to wait"
        else:
            self.refused += 1
            self.doing = f"is refused: {code}"

    @property
    def cost(self) -> float:
        """USD for its tokens."""
        return priced(self.tokens, self.price)

    @property
    def seconds(self) -> float:
        return (self.ended or time.time()) - self.began if self.began else 0.0

    def summary(self, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is shown of it in the end. `log`: what the services noted, of all callers."""
        mine = [line for line in log if line["caller"] == self.name]
        orders = [line["asked"] for line in mine if line["service"] == "erp" and line["status"] == 201]
        over = [order["price"] / PARTS[order["part"]].last - 1 for order in orders]
        return {
            "dead_calls": self.dead,
            "refused_calls": self.refused,
            "pages_shown_to_the_model": self.pages,
            "vendor_calls_logged": sum(line["service"] == "vendors" for line in mine),
            "vendor_pages_logged": sum(line["service"] == "vendors" and line["status"] == 404 for line in mine),
            "model_calls": self.model_calls,
            "tokens": {**self.tokens, "all": self.tokens["input"] + self.tokens["output"]},
            "cost": round(self.cost, 6),
            "seconds": round(self.seconds, 1),
            "ordered": len({order["part"] for order in orders}),
            "wanted": len(PARTS),
            "paid": round(sum(order["price"] * order["quantity"] for order in orders), 2),
            "dearest": round(100 * max(over, default=0), 1),
            "final": self.final,
        }


def priced(tokens: Mapping[str, int], price: Mapping[str, float]) -> float:
    """USD for tokens at a price; what came out of the provider's cache at its own."""
    fresh = (tokens["input"] - tokens["cached"]) * price["input"]
    return (fresh + tokens["cached"] * price["cached_input"] + tokens["output"] * price["output"]) / 1_000_000
