"""`buspass trace ID` and `buspass trace verify ID`: what a task did and why; and the proof that it is all of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.cli.printable import printable
from buspass.cli.stop import FAILED, OK, Stop
from buspass.cli.stop import USAGE as WRONG

USAGE: Final = "buspass trace [--json] ID\n       buspass trace verify [--json] ID"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "trace",
        usage=USAGE,
        help="what a task thought and did, in order, and what it cost",
        description="Shows a task's journal: each thought, below it the actions that it caused, at which host, what "
        "each cost and what was left. `verify` proves that the journal is whole (exit code 1: it is not).",
    )
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="[verify] ID", help="the task; `buspass task list` shows them"
    )
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show or verify a journal. Raises Stop."""
    # argparse takes positional words only where they stand together, and `trace verify --json ID` is as good
    rest = argparse.ArgumentParser(prog="buspass trace", usage=USAGE)
    rest.add_argument("--json", action="store_true", default=arguments.json)
    options, words = rest.parse_known_args(arguments.words)
    match words:
        case [] | ["verify"]:
            raise Stop(f"which task? {' '.join(['buspass trace', *words])} ID", WRONG)
        case ["verify", task]:
            return _verify(task, as_json=options.json)
        case [task]:
            return _show(task, as_json=options.json)
    raise Stop(f"one task at a time, and no other option than --json: {' '.join(words)}", WRONG)


def _show(task: str, *, as_json: bool) -> int:
    from buspass.cli.connection import Connection, task_path  # noqa: PLC0415 - httpx costs a tenth of a second
    from buspass.cli.timeline import render  # noqa: PLC0415

    path = task_path(task, "trace")
    connection = Connection()
    found = connection.get(path)
    while (cursor := found.pop("next_cursor")) is not None:
        page = connection.get(path, {"cursor": cursor})
        found |= page | {"records": found["records"] + page["records"]}
    print(json.dumps(found, indent=2) if as_json else "\n".join(render(found)))
    return OK


def _verify(task: str, *, as_json: bool) -> int:
    from buspass.cli.connection import Connection, task_path  # noqa: PLC0415

    path = task_path(task, "trace", "verify")
    verdict = Connection().get(path)
    print(json.dumps(verdict, indent=2) if as_json else "\n".join(proof(task, verdict)))
    return OK if verdict["ok"] else FAILED


def proof(task: str, verdict: Mapping[str, Any]) -> list[str]:
    """Give a verdict as lines."""
    extent = f"records {verdict['records']}, under a seal {verdict['sealed']}, seals {verdict['seals']}"
    if verdict["ok"]:
        return [f"✓ the journal of {task} is whole: {extent}"]
    return [f"✗ the journal of {task} is not whole: {extent}", *(f"  {printable(row)}" for row in verdict["problems"])]
