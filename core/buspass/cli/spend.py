"""`buspass spend` and `buspass latency`: what was spent and how long calls took, by any dimension of a call."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from buspass.cli.printable import money, printable, table
from buspass.cli.stop import OK

GROUP: Final = "workflow"
DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both verbs to the command line."""
    spend = subparsers.add_parser(
        "spend",
        help="what was spent, by workflow, model, team …",
        description="Shows what was spent. The sums equal the journals' to the micro-dollar.",
        epilog="example: buspass spend --by workflow,model --from 2026-11-01 --to 2026-11-30",
    )
    spend.set_defaults(run=run_spend)
    latency = subparsers.add_parser(
        "latency",
        help="how long calls took, by workflow, model, tool …",
        description="Shows how long calls took from hold to settle: percentiles in ms, at most 9 % too high.",
        epilog="example: buspass latency --by model",
    )
    latency.set_defaults(run=run_latency)
    for one in (spend, latency):
        one.add_argument(
            "--by",
            metavar="A,B",
            default=GROUP,
            help="workflow, step, kind, alias, model, provider, tool, host, or any metadata key (default workflow)",
        )
        one.add_argument(
            "--from", dest="first", metavar="DAY", type=_day, help="first day, UTC (default: --to, or today)"
        )
        one.add_argument("--to", dest="last", metavar="DAY", type=_day, help="last day, UTC (default: today)")
        one.add_argument("--json", action="store_true", help="answer for machines")
        one.add_argument("--csv", action="store_true", help="answer for spreadsheets")


def _day(text: str) -> str:
    if not DAY.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a day, YYYY-MM-DD")
    return text


def run_spend(arguments: argparse.Namespace) -> int:
    """Show what was spent."""
    return _run(arguments, "/v1/spend", ("CALLS", "FAILED", "TOKENS", "COST"), _spent)


def run_latency(arguments: argparse.Namespace) -> int:
    """Show how long calls took."""
    return _run(arguments, "/v1/latency", ("CALLS", "P50 MS", "P95 MS", "P99 MS"), _took)


def _run(
    arguments: argparse.Namespace, path: str, titles: Sequence[str], cells: Callable[[Mapping[str, Any]], list[str]]
) -> int:
    from buspass.cli.connection import Connection  # noqa: PLC0415 - httpx costs a tenth of a second

    asked = {"group_by": arguments.by, "from": arguments.first, "to": arguments.last}
    query: dict[str, str | int] = {name: value for name, value in asked.items() if value}
    if arguments.csv:
        print(Connection().text(path, query | {"format": "csv"}), end="")
        return OK
    report = Connection().get(path, query)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return OK
    groups = report["group_by"]
    rows = [[*(row[group] or "-" for group in groups), *cells(row)] for row in report["data"]]
    if "total" in report and len(rows) > 1:
        rows.append(["all", *[""] * (len(groups) - 1), *cells(report["total"])])
    if rows:
        shown = [printable(group).upper() for group in groups]
        print("\n".join(table((*shown, *titles), rows, flexible=range(len(groups)))))
    else:
        print("no calls")
    print(printable(f"{report['from']} to {report['to']}, as of {report['as_of']}"))
    return OK


def _spent(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['records']:,}", f"{row['failed']:,}", f"{row['tokens']:,}", money(row["cost"])]


def _took(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['count']:,}", *(f"{row[name]:,}" for name in ("p50", "p95", "p99"))]
