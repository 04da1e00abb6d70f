"""`buspass observed W`: what a workflow that is only observed would refuse, and the yaml that would allow it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from buspass.cli.printable import cut, printable, table
from buspass.cli.stop import OK

DAYS: Final = 7
WIDTH: Final = 100
COMMENT: Final = 96


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "observed",
        help="what enforcing a workflow would refuse, and the yaml that would allow it",
        description="Shows what the tasks of a workflow with `enforce: observe` met that would have been refused or\n"
        "changed, and what buspass.yaml would have to say to allow it. Nothing is changed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  buspass observed my-agent\n  buspass observed my-agent --yaml > allow.yaml\n",
    )
    parser.add_argument("workflow", metavar="W", help="the kind of task")
    parser.add_argument("--days", metavar="N", type=_days, default=DAYS, help=f"of how many days (default {DAYS})")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--yaml", action="store_true", help="only the yaml that would allow what was seen")
    shown.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def _days(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 366:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 to 366")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Raises Stop."""
    from buspass.cli.connection import Connection  # noqa: PLC0415 - httpx costs a tenth of a second

    path = f"/v1/observed/{quote(arguments.workflow, safe='')}"
    found = Connection().get(path, {"days": arguments.days})
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif arguments.yaml:
        print(allowing(found), end="")
    else:
        print("\n".join(report(found)))
    return OK


def report(found: Mapping[str, Any]) -> Iterator[str]:
    """Give the report as lines."""
    name = printable(found["workflow"])
    whole = "" if found["complete"] else ", the newest only: there are more"
    yield f"{name}: {found['calls']} calls in {found['tasks']} tasks observed since {found['since'][:10]}{whole}"
    if not found["calls"] and not found["refused"]:
        yield f"nothing was observed: is there enforce: observe in workflows.{name}, and has its agent run?"
        return
    yield f"enforced, {found['met']} of them would have been refused or changed"
    if found["would"]:
        titles = ("VERDICT", "CODE", "CALL", "RULE", "COUNT", "TASKS")
        cells = [
            [row["verdict"], row["code"], f"{row['kind']} {row.get('name', '')}", row.get("rule", ""), *_counts(row)]
            for row in found["would"]
        ]
        yield from ("", *table(titles, cells, flexible=(2, 3)), "")
        yield from _examples(found["would"])
    if found["refused"]:
        yield from ("", "refused even so:")
        short = [[row["code"], row.get("name", ""), *_counts(row)] for row in found["refused"]]
        yield from table(("CODE", "CALL", "COUNT", "TASKS"), short, flexible=(1,))
        yield from _examples(found["refused"])
    yield from ("", "# ── what would allow it: merge this into buspass.yaml; a list takes the old one's place ──")
    yield from allowing(found).splitlines()


def _counts(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["count"]), str(row["tasks"])


def _examples(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        for example in row["examples"][:1]:
            yield cut(f"  {row['code']}: {example['detail']}", WIDTH)
            yield cut(f"    buspass trace {example['task']}, call {example['call']}", WIDTH)


def allowing(found: Mapping[str, Any]) -> str:
    """Give the yaml, with what it can't allow as comments before it."""
    import yaml  # noqa: PLC0415 - not needed for --help

    notes = [f"# {cut(note, COMMENT)}\n" for note in found["notes"]]
    return "".join(notes) + yaml.safe_dump(found["allow"], sort_keys=False, allow_unicode=True, width=WIDTH)
