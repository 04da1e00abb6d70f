"""`buspass task list|show|kill`: who is at work, on whose behalf, what it may still spend; and ending it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from buspass.cli.printable import money, printable, table
from buspass.cli.stop import OK

if TYPE_CHECKING:
    from buspass.cli.connection import Connection

STATUSES: Final = ("open", "suspended", "completed", "killed", "expired")
PAGE: Final = 100
"""Tasks in one answer at most."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("task", help="list, show and kill tasks")
    verbs = parser.add_subparsers(title="what to do", metavar="list|show|kill", required=True)
    every = verbs.add_parser("list", help="tasks, newest first", description="Lists tasks, newest first.")
    every.add_argument("--status", choices=STATUSES, help="only those that are in this status")
    every.add_argument("--workflow", metavar="W", help="only those of this workflow")
    every.add_argument("--limit", metavar="N", type=_count, default=20, help="at most so many (default 20)")
    every.set_defaults(run=run_list)
    show = verbs.add_parser("show", help="one task with its grant and budget", description="Shows one task.")
    show.set_defaults(run=run_show)
    kill = verbs.add_parser(
        "kill",
        help="end a task now",
        description="Ends a task now: no call of it is admitted any more, and all its tokens are useless at once.",
        epilog="example: buspass task kill t_mzxw6ytb --reason 'refunds look wrong'",
    )
    kill.add_argument("--reason", metavar="R", required=True, help="why; it stands in the journal")
    kill.set_defaults(run=run_kill)
    for one in (show, kill):
        one.add_argument("id", metavar="ID")
    for one in (every, show, kill):
        one.add_argument("--json", action="store_true", help="answer for machines")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 to 10000")
    return int(text)


def run_list(arguments: argparse.Namespace) -> int:
    """List tasks."""
    from buspass.cli.connection import Connection  # noqa: PLC0415 - httpx costs a tenth of a second

    rows = _listed(Connection(), arguments)
    if arguments.json:
        print(json.dumps({"data": rows}, indent=2))
        return OK
    if not rows:
        print("no tasks")
        return OK
    titles = ("ID", "WORKFLOW", "STATUS", "FOR", "CALLS", "SPENT", "LEFT", "STARTED (UTC)")
    print("\n".join(table(titles, [_row(row) for row in rows], flexible=(1, 3))))
    return OK


def _listed(connection: Connection, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    asked = {"status": arguments.status, "workflow": arguments.workflow}
    query: dict[str, str | int] = {name: value for name, value in asked.items() if value is not None}
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while len(rows) < arguments.limit and cursor is not None:
        page = {"limit": min(PAGE, arguments.limit - len(rows))} | ({"cursor": cursor} if cursor else {})
        answer = connection.get("/v1/tasks", query | page)
        rows += answer["data"]
        cursor = answer["next_cursor"]
    return rows


def _row(task: Mapping[str, Any]) -> list[str]:
    budget = task["budget"]
    left = budget["available"].get("cost")
    return [
        task["id"],
        task["workflow"],
        task["status"],
        _subject(task),
        str(budget["spent"].get("calls", 0)),
        money(budget["spent"].get("cost", 0)),
        "unlimited" if left is None else money(left),
        task["created_at"][5:16].replace("T", " "),
    ]


def _subject(task: Mapping[str, Any]) -> str:
    subject = task["subject"]
    return f"{subject['type']}:{subject['id']}" if subject else "-"


def run_show(arguments: argparse.Namespace) -> int:
    """Show one task."""
    from buspass.cli.connection import Connection, task_path  # noqa: PLC0415

    path = task_path(arguments.id)
    task = Connection().get(path)
    print(json.dumps(task, indent=2) if arguments.json else "\n".join(shown(task)))
    return OK


def shown(task: Mapping[str, Any]) -> list[str]:
    """Give a task as lines."""
    principal, subject = task["principal"], task["subject"]
    facts = {
        "task": task["id"],
        "workflow": f"{task['workflow']} (revision {task['revision']})",
        "status": f"{task['status']} (fence {task['fence']})",
        "agent": f"{principal['identity']}:{principal['agent']}",
        "for": f"{_subject(task)} (proof: {subject['proof']})" if subject else "itself",
        "metadata": json.dumps(task["metadata"], ensure_ascii=False) if task["metadata"] else "-",
        "models": ", ".join(task["grant"]["models"]) or "none",
        "tools": ", ".join(task["grant"]["tools"]) or "none",
        "started": f"{task['created_at']} at {task['host']}",
        "until": task["expires_at"],
    }
    lines = [f"{name:<10}{printable(value)}" for name, value in facts.items()]
    return [*lines, "", *_budget(task["budget"])]


def _budget(budget: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = ("limits", "spent", "held", "allocated", "available")
    rows = [
        [account, *(_amount(account, budget[column].get(account)) for column in columns)] for account in budget["spent"]
    ]
    return table(("BUDGET", "LIMIT", "SPENT", "HELD", "ALLOCATED", "LEFT"), rows, flexible=(0,))


def _amount(account: str, amount: float | None) -> str:
    if amount is None:
        return "unlimited"
    return money(amount) if account == "cost" else f"{amount:,}"


def run_kill(arguments: argparse.Namespace) -> int:
    """Kill one task."""
    from buspass.cli.connection import Connection, task_path  # noqa: PLC0415

    path = task_path(arguments.id, "kill")
    task = Connection().post(path, {"reason": arguments.reason})
    if arguments.json:
        print(json.dumps(task, indent=2))
        return OK
    flying = task["in_flight"]
    rest = f"{flying} in flight, over by {task['drained_by']}" if flying else "nothing in flight"
    print(printable(f"killed {task['id']}: {rest}"))
    return OK
