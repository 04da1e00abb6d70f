"""What a person sees of a run: progress, the table of outcomes, one task's timeline, the rogue's answers.

Refuses to decide anything: it prints what it is given.
"""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from returns.rogue import Attempt
from staging.screen import heading, paint


def finished(done: int, total: int, row: Mapping[str, Any]) -> None:
    """One line for a request that is done."""
    mark = paint("✓", "green") if row["right"] else paint("✗", "red")
    text = textwrap.shorten(row["text"], 62, placeholder="…")
    print(
        f"  {mark} {done:>3}/{total} {row['customer']} {row['outcome']:<16} {row['seconds']:>5.1f} s  {text}",
        flush=True,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Outcomes: how many, what was paid, what they cost."""
    heading("Outcomes")
    columns = f"{'requests':>9}{'as due':>8}{'paid, EUR':>12}{'model calls':>13}{'actions':>9}{'refused':>9}{'USD':>11}"
    print(f"  {'outcome':<18}{columns}")
    groups: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        groups[row["outcome"]].append(row)
    for outcome, mine in [*sorted(groups.items()), ("all", list(rows))]:
        sums = {name: sum(row[name] for row in mine) for name in ("right", "inferences", "actions", "refusals")}
        paid, cost = sum(row["paid"] for row in mine), sum(row["cost"] for row in mine)
        line = (
            f"  {outcome:<18}{len(mine):>9}{sums['right']:>8}{paid:>12.2f}{sums['inferences']:>13}"
            f"{sums['actions']:>9}{sums['refusals']:>9}{cost:>11.6f}"
        )
        print(paint(line, "bold") if outcome == "all" else line)
    for row in rows:
        for fault in row["faults"]:
            print(paint(f"  ✗ {row['customer']} {row['task']}: {fault}. The agent said: {row['final']}", "red"))


def timeline(row: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """One task: each thought at its host, below it the calls that it caused, with cost, time and what is left."""
    heading(f"Timeline of {row['task']}")
    print(f"  {row['customer']}: {row['text']}")
    calls = collections.defaultdict(list)
    known = {record["id"] for record in records}
    for record in records:
        if record.get("cause") in known:
            calls[record["cause"]].append(record)
    for record in records:
        if record.get("cause") in known:
            continue
        _record(record, "  ")
        for caused in calls[record["id"]]:
            _record(caused, "      └ ")
    print(paint(f"  {row['final']}", "cyan"))


def _record(record: Mapping[str, Any], indent: str) -> None:
    at = str(record["at"])[11:23]
    left = (record.get("left") or {}).get("cost")
    budget = f"{left:.4f} USD left" if left is not None else ""
    what = f"{record['kind']} {record.get('name') or record.get('operation') or ''}"
    colour = "red" if record["kind"] == "refusal" else "bold"
    numbers = f"{record.get('ms', 0):>5} ms  {record.get('cost') or 0:.6f} USD  {budget}"
    print(f"{indent}{paint(at, 'dim')} {record.get('host') or '':<7} {paint(what, colour)}  {paint(numbers, 'dim')}")
    lines = [record.get("thought"), record.get("arguments"), _why(record)]
    for line in filter(None, lines):
        print(textwrap.indent(textwrap.fill(str(line), 100), " " * (len(indent) + 4)))


def _why(record: Mapping[str, Any]) -> str:
    return f"refused: {record['code']} {record.get('detail', '')}" if record.get("code") else ""


def rogue(attempts: Sequence[Attempt]) -> None:
    """What was tried and what came of it."""
    heading("The rogue agent")
    for attempt in attempts:
        mark = paint("refused", "green") if attempt.refused else paint("WENT THROUGH", "red")
        print(f"  {mark}  {paint(attempt.name, 'bold')}: {attempt.tried}")
        print(textwrap.indent(textwrap.fill(f"{attempt.status} {attempt.code}: {attempt.detail}", 100), " " * 11))


def closing(summary: Mapping[str, Any]) -> None:
    heading("Governed")
    print(
        f"  {summary['service_requests']} requests reached the services, {summary['turned_away']} were turned away"
        " there, the journal explains the others."
    )
    count = summary["ungoverned"]
    print(paint(f"  {count} ungoverned calls", "red" if count else "green"))
    print(f"  {summary['seconds']:.1f} s in all; logs and configuration in {summary['run']}")
