"""`buspass stop …`: stop a workflow, an agent, a tool, a model or everything, at all hosts; list stops; lift one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from buspass.cli.printable import printable, table
from buspass.cli.stop import FAILED, OK, USAGE, Stop

WHAT: Final = ("workflow", "agent", "tool", "model")
AGAIN: Final = 12
"""Orders that are given until a stop is complete: each goes on where the last one was left."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "stop",
        help="stop a workflow, an agent, a tool, a model, or everything, now",
        description="Stops at every host of the domain: new tasks and calls are refused, open tasks are killed,\n"
        "running streams are cut. It stands until it is lifted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  buspass stop --workflow returns --reason 'refunds look wrong'\n"
        "  buspass stop --lift s_1f3870be274f6c49 --reason 'mended in revision 7'\n",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workflow", metavar="W", help="its tasks are killed, and none begins")
    what.add_argument(
        "--agent", metavar="A", help="AGENT or IDENTITY:AGENT: the same for the tasks of an agent or a key"
    )
    what.add_argument("--tool", metavar="T", help="its calls are refused; tasks go on without it")
    what.add_argument("--model", metavar="M", help="an alias, or a target PROVIDER/MODEL; tasks go on without it")
    what.add_argument("--all", action="store_true", help="everything")
    what.add_argument("--lift", metavar="ID", help="end a stop")
    what.add_argument("--list", action="store_true", help="show the stops that stand")
    what.add_argument("--lifted", action="store_true", help="show those that were lifted")
    parser.add_argument("--reason", metavar="R", help="why: agents are told, and it is kept; needed but for the lists")
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Stop, list or lift. Raises Stop."""
    if arguments.list or arguments.lifted:
        return _list(arguments)
    if not (arguments.reason or "").strip():
        raise Stop("--reason is needed: why? Agents are told, and it is kept", USAGE)
    return _lift(arguments) if arguments.lift else _stop(arguments)


def _stop(arguments: argparse.Namespace) -> int:
    from buspass.cli.connection import Connection  # noqa: PLC0415 - httpx costs a tenth of a second

    connection = Connection()
    given = {name: value for name in WHAT if (value := getattr(arguments, name)) is not None} or {"all": True}
    for _ in range(AGAIN):
        stop = connection.post("/v1/stops", {**given, "reason": arguments.reason})
        if stop["complete"] or stop["unreached"]:
            break
        print(printable(f"{stop['tasks']} tasks killed, going on …"), file=sys.stderr)
    if arguments.json:
        print(json.dumps(stop, indent=2))
    else:
        print("\n".join(printable(line) for line in said(stop)))
    return OK if stop["complete"] else FAILED


def said(stop: Mapping[str, Any]) -> list[str]:
    """Give what came of a stop as lines."""
    flying = f"{stop['in_flight']} in flight, over by {stop['drained_by']}" if stop["in_flight"] else "none in flight"
    ended = f"{stop['tasks']} tasks killed, {stop['cut']} calls cut or ended, {flying}"
    lines = [f"stopped {what(stop)}: {ended}"]
    if stop["complete"]:
        lines.append(f"done at {stop['done_at']}; it stands until: buspass stop --lift {stop['id']} --reason R")
    else:
        where = f"; not reached: the stores of {', '.join(stop['unreached'])}" if stop["unreached"] else ""
        lines.append(f"not done everywhere{where}: calls are refused, the hosts' timers go on; or run this again")
    return lines


def what(stop: Mapping[str, Any]) -> str:
    """Say what is stopped."""
    return next((f"{name} {stop[name]}" for name in WHAT if name in stop), "everything")


def _lift(arguments: argparse.Namespace) -> int:
    from buspass.cli.connection import Connection  # noqa: PLC0415

    path = f"/v1/stops/{quote(arguments.lift, safe='')}"
    stop = Connection().delete(path, {"reason": arguments.reason})
    line = f"lifted {stop['id']}: {what(stop)} may go on, at every host within a second; killed tasks stay killed"
    print(json.dumps(stop, indent=2) if arguments.json else printable(line))
    return OK


def _list(arguments: argparse.Namespace) -> int:
    from buspass.cli.connection import Connection  # noqa: PLC0415

    rows = Connection().get("/v1/stops", {"lifted": "true" if arguments.lifted else "false"})["data"]
    if arguments.json:
        print(json.dumps({"data": rows}, indent=2))
    elif not rows:
        print("nothing was lifted" if arguments.lifted else "nothing is stopped")
    else:
        titles = ("ID", "STOPPED", "SINCE (UTC)", "BY", "TASKS", "DONE", "WHY")
        print("\n".join(table(titles, [_row(row) for row in rows], flexible=(1, 6))))
    return OK


def _row(stop: Mapping[str, Any]) -> list[str]:
    since = stop["at"][:16].replace("T", " ")
    return [stop["id"], what(stop), since, stop["by"], str(stop["tasks"]), _done(stop), stop["reason"]]


def _done(stop: Mapping[str, Any]) -> str:
    if stop["lifted_at"]:
        return f"lifted {stop['lifted_at'][5:16].replace('T', ' ')}"
    return "yes" if stop["complete"] else "not yet"
