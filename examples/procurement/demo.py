"""`buspass demo procurement`: one agent, run twice at the same time: straight at its vendors, and through Buspass.

Owns the order of a run and its verdict. Exit code 0 only if through Buspass every part was ordered, with at most five
calls to the dead vendor, no error page shown to the model and less than a dollar; 1 otherwise, 2 where it could not
start. The run without Buspass is printed as it comes, and decides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from procurement import page, presentation
from procurement.launcher import UPSTREAMS, Stack
from procurement.services import OUTAGE, PAGES
from procurement.side import SENT, VENDOR, Side
from staging.screen import heading
from staging.stack import NotStarted, folder, journal, lines

GOAL: Final = "Deal with all open supply alerts of today."
MOST_CALLS: Final = 5
MOST_DOLLARS: Final = 1.0
LONGEST: Final = 600
"""Seconds after the vendor is back in which both must have ended; then they are stopped."""


class Run:
    """One run over a running stack."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, options: argparse.Namespace) -> None:
        self.stack, self.http, self.options = stack, http, options
        self.straight = Side(name="straight", price=stack.price)
        self.buspass = Side(name="buspass", price=stack.price)
        self.sides = (self.straight, self.buspass)
        self.control = stack.url(UPSTREAMS["control"])
        self.timetable: dict[str, float] = {}

    async def both(self) -> dict[str, Any]:
        """Run the agent on both sides at once, and judge."""
        started = await self._task()
        environs = (self.stack.straight(), self.stack.governed(started, await self._tools(started)))
        watching = [
            await side.start(environ, self.stack.run / f"agent-{side.name}.log")
            for side, environ in zip(self.sides, environs, strict=True)
        ]
        try:
            for side in self.sides:
                await side.ready.wait()
            asked = {"pages": self.options.pages, "back": self.options.outage}
            answer = await self.http.post(f"{self.control}/begin", json=asked)
            self.timetable = answer.raise_for_status().json()
            for side in self.sides:
                side.begin(GOAL)
            await self._show(watching)
        finally:
            for side in self.sides:
                await side.stop()
            await asyncio.gather(*watching)
        return await self._verdict(started["task"]["id"], started["token"])

    async def _task(self) -> dict[str, Any]:
        token = await self.stack.workload_token(self.http)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self.http.post(
            f"{self.stack.gateway}/v1/tasks", headers=headers, json={"workflow": "procurement"}
        )
        return dict(answer.raise_for_status().json())

    async def _tools(self, started: dict[str, Any]) -> list[Any]:
        headers = {"Authorization": f"Bearer {started['token']}"}
        answer = await self.http.get(f"{started['base_url']}/tools", headers=headers)
        return list(answer.raise_for_status().json()["data"])

    async def _show(self, watching: Sequence[asyncio.Task[None]]) -> None:
        """A line a second until both have ended."""
        began, last = time.monotonic(), 0.0
        while not all(task.done() for task in watching) and last < self.timetable["back"] + LONGEST:
            last = time.monotonic() - began
            if not self.options.json:
                vendor = (await self.http.get(f"{self.control}/health")).json()["vendors"]
                presentation.progress(last, vendor, self.sides)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.gather(*watching)), 1)

    async def _verdict(self, task: str, token: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        body = {"reason": (self.buspass.final or "stopped")[:200]}
        await self.http.post(f"{self.stack.gateway}/v1/tasks/{task}/complete", headers=headers, json=body)
        records = await journal(self.http, self.stack.gateway, task, await self.stack.workload_token(self.http))
        log = lines(self.stack.log)
        straight, buspass = (side.summary(log) for side in self.sides)
        calls = [record for record in records if record.get("name") == VENDOR and record["kind"] == "action"]
        buspass |= {
            "dead_calls": sum(record.get("code") in SENT for record in calls),
            "cost": round(sum(record.get("cost") or 0 for record in records), 6),
            "breakers": [record["breaker"].partition(": ")[2] for record in calls if "breaker" in record],
            "task": task,
        }
        good = buspass["ordered"] == buspass["wanted"] and not buspass["pages_shown_to_the_model"]
        good = good and buspass["dead_calls"] <= MOST_CALLS and buspass["cost"] < MOST_DOLLARS
        return {
            "ok": good,
            "model": self.stack.model,
            "simulated": not self.stack.real,
            "limits": dict(self.straight.limits),
            "timetable": self.timetable,
            "straight": straight,
            "buspass": buspass,
            "run": str(self.stack.run),
        }


async def run(options: argparse.Namespace) -> int:
    """Everything, from the first process to the last line."""
    began, place = time.monotonic(), folder("procurement")
    stack = Stack(place, real=bool(os.environ.get("OPENAI_API_KEY")))
    if not options.json:
        heading(f"Starting aws, azure and onprem as one trust domain ({place})")
    async with stack, httpx.AsyncClient(timeout=60, trust_env=False) as http:
        work = Run(stack, http, options)
        if not options.json:
            presentation.beginning(stack.model, stack.real)
        found = await work.both()
    found["all_seconds"] = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        presentation.closing(found)
    if options.write:
        page.write(found)
    return 0 if found["ok"] else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="buspass demo procurement",
        description="An agent and a vendor whose site is down, with and without Buspass.",
    )
    parser.add_argument(
        "--pages", type=int, default=PAGES, metavar="N", help=f"requests that get the vendor's error page ({PAGES})"
    )
    parser.add_argument(
        "--outage", type=float, default=OUTAGE, metavar="SECONDS", help=f"how long it is down at most ({OUTAGE:g})"
    )
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.add_argument("--write", action="store_true", help="put this run's numbers into docs/procurement.md")
    try:
        return asyncio.run(run(parser.parse_args(arguments)))
    except (NotStarted, OSError, ValueError) as error:
        print(f"buspass demo procurement: {error}", file=sys.stderr)
        return 2
    except httpx.HTTPStatusError as error:
        print(f"buspass demo procurement: {error.request.url}: {error.response.text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
