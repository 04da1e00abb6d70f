"""`buspass demo returns`: the return-exception agent at work over three hosts, every hop governed, and the proof of it.

Owns the order of a run and its verdict. Exit code 0 only if every outcome is the one that is due, no call went around
the gateway and every rogue attempt was refused; 1 otherwise, 2 where it could not start.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from returns import oracle, presentation
from returns.coordinator import Task, handle
from returns.launcher import Stack
from returns.rogue import Rogue
from returns.sides import Sides, hand_over, settled
from returns.world import World, build
from staging.stack import NotStarted, folder, journal

HERE = Path(__file__).parent
PARALLEL = 4
"""Requests that are worked on at a time."""
BACK = {"allocated": 0, "children": []}
"""What a desk's task has in its case's hands when that one has ended."""


class Run:
    """One run over a running stack."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, options: argparse.Namespace) -> None:
        self.stack, self.http, self.options = stack, http, options
        self.world: World = build()
        self.traces: dict[str, list[dict[str, Any]]] = {}
        self.rows: list[dict[str, Any]] = []

    async def requests(self, requests: Sequence[dict[str, Any]]) -> None:
        """Work through requests, a few at a time, in the file's order."""
        free = asyncio.Semaphore(PARALLEL)

        async def one(request: dict[str, Any]) -> dict[str, Any]:
            async with free:
                row = await self._request(request)
            self.rows.append(row)
            if not self.options.json:
                presentation.finished(len(self.rows), len(requests), row)
            return row

        self.rows = list(await asyncio.gather(*(one(request) for request in requests)))

    async def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        began, customer = time.monotonic(), request["customer"]
        proof = await self.stack.customer_token(self.http, customer)
        workload = await self.stack.workload_token(self.http)
        desk = await Task.start(self.stack.desk, workload, proof, self.http)
        task = await hand_over(desk, f"{self.stack.gateway}/v1") if self.stack.sides else desk
        outcome = await handle(task, request["text"], self._progress)
        seconds = time.monotonic() - began
        records = await self.trace(task.id)
        lines = [line for line in self.stack.lines() if line["txn"] == task.id]
        books = await settled(desk) if self.stack.sides else {}
        verdict = oracle.judge(self.world, customer, request.get("asks"), lines, oracle.refusals(records))
        kinds = collections.Counter(record["kind"] for record in records)
        return {
            "customer": customer,
            "text": request["text"],
            "task": task.id,
            "outcome": verdict.outcome,
            "expected": verdict.expected,
            "right": verdict.right,
            "faults": list(verdict.faults),
            "paid": sum(payment.cents for payment in verdict.payments) / 100,
            "final": outcome.text,
            "steps": outcome.actions,
            "inferences": kinds["inference"],
            "actions": kinds["action"],
            "refusals": kinds["refusal"],
            "cost": round(sum(record.get("cost") or 0 for record in records), 6),
            "seconds": round(seconds, 2),
            **({"desk": books} if books else {}),
        }

    def _progress(self, kind: str, text: str) -> None:
        if self.options.ask and not self.options.json:
            colour = {"thought": "dim", "refused": "red", "final": "cyan"}.get(kind, "bold")
            print(f"  {presentation.paint(f'{kind:<8}', colour)} {text}", flush=True)

    async def trace(self, task: str) -> list[dict[str, Any]]:
        """The journal of a task, read by the workload that started it."""
        token = await self.stack.workload_token(self.http)
        records = await journal(self.http, self.stack.gateway, task, token)
        self.traces[task] = records
        return records

    async def summary(self, seconds: float) -> dict[str, Any]:
        """Every request that the services logged, held against the journals."""
        lines = self.stack.lines()
        for task in {line["txn"] for line in lines if line["txn"]} - self.traces.keys():
            await self.trace(task)  # the rogue's tasks
        unexplained = oracle.unexplained(lines, self.traces)
        stray = [line for line in unexplained if not oracle.turned_away(line)]
        return {
            "service_requests": len(lines),
            "turned_away": len(unexplained) - len(stray),
            "ungoverned": len(stray),
            "stray": stray,
            "seconds": round(seconds, 1),
            "run": str(self.stack.run),
        }


async def run(options: argparse.Namespace) -> int:
    """Everything, from the first process to the last line."""
    began, requests = time.monotonic(), _requests(options)
    place = folder("returns")
    say = (lambda _: None) if options.json else presentation.heading
    say(f"Starting aws, azure and onprem as one trust domain ({place})")
    sides = Sides.read(options.stores) if options.stores else None
    stack = Stack(place, real=bool(os.environ.get("OPENAI_API_KEY")), sides=sides)
    async with stack, httpx.AsyncClient(timeout=60, trust_env=False) as http:
        work = Run(stack, http, options)
        say(f"Working through {len(requests)} request{'s' if len(requests) > 1 else ''}")
        await work.requests(requests)
        attempts = await Rogue(stack, work.world, http).all() if options.rogue else []
        summary = await work.summary(time.monotonic() - began)
    good = not summary["ungoverned"] and all(row["right"] for row in work.rows)
    good = good and all(attempt.refused for attempt in attempts)
    if stack.sides:  # what the case spent left the desk's budget, all else came back
        good = good and all(row["desk"] == {**BACK, "spent": row["cost"]} for row in work.rows)
    if options.json:
        rogue = [dataclasses.asdict(attempt) for attempt in attempts]
        print(json.dumps({"ok": good, "requests": work.rows, "rogue": rogue, **summary}, ensure_ascii=False, indent=2))
        return 0 if good else 1
    presentation.table(work.rows)
    shown = max(work.rows, key=lambda row: (row["outcome"] == "refunded", row["inferences"]))
    presentation.timeline(shown, work.traces[shown["task"]])
    if attempts:
        presentation.rogue(attempts)
    presentation.closing(summary)
    return 0 if good else 1


def _requests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The user's own question, or the user's file, or ours."""
    if options.ask:
        return [{"customer": options.customer, "text": options.ask}]
    requests = []
    for number, line in enumerate(options.requests.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        request = json.loads(line)
        if not isinstance(request, dict) or not {"customer", "text"} <= request.keys():
            raise ValueError(f"{options.requests}:{number}: a request needs customer and text")
        requests.append(request)
    if not requests:
        raise ValueError(f"{options.requests}: no requests in it")
    return requests


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="buspass demo returns", description="A return-exception agent over three hosts, every hop governed."
    )
    parser.add_argument(
        "--requests", type=Path, default=HERE / "requests.jsonl", metavar="FILE", help="JSON lines: customer, text"
    )
    parser.add_argument("--ask", metavar="TEXT", help="one request in your own words")
    parser.add_argument("--customer", default="C-1042", help="who asks, with --ask (default C-1042)")
    parser.add_argument("--rogue", action="store_true", help="let the agent go bad as well")
    parser.add_argument(
        "--stores", metavar="A,B", help="two stores: the desk's and the clouds'; each case is handed over between them"
    )
    parser.add_argument("--json", action="store_true", help="answer for machines")
    try:
        return asyncio.run(run(parser.parse_args(arguments)))
    except (NotStarted, OSError, ValueError) as error:
        print(f"buspass demo returns: {error}", file=sys.stderr)
        return 2
    except httpx.HTTPStatusError as error:
        print(f"buspass demo returns: {error.request.url}: {error.response.text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
