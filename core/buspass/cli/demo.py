"""`buspass demo NAME`: launches a demo of the examples folder. Refuses to know what it shows."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from buspass.cli.stop import INTERRUPTED, USAGE, Stop

DEMOS: Final = {"returns": "returns/demo.py", "procurement": "procurement/demo.py"}
OPTIONS: Final = {
    "returns": ("ask", "customer", "requests", "stores", "rogue"),
    "procurement": ("pages", "outage", "write"),
}
"""Each demo's own options; `--json` is everybody's."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="watch governed agents at work, on this machine alone",
        description="Runs a demo of the examples folder: three hosts, real services, a simulated model; nothing costs "
        "money unless OPENAI_API_KEY is set.",
        epilog="example: buspass demo returns --ask 'Order O-20017 came broken, I want my money back'",
    )
    parser.add_argument("name", choices=DEMOS, help="which one")
    returns = parser.add_argument_group("returns")
    returns.add_argument("--ask", metavar="TEXT", help="one request in your own words")
    returns.add_argument("--customer", metavar="ID", help="who asks, with --ask")
    returns.add_argument("--requests", metavar="FILE", type=Path, help="your own requests, a JSON object a line")
    returns.add_argument("--rogue", action="store_true", help="let the agent go bad, and see it refused")
    returns.add_argument(
        "--stores", metavar="A,B", help="two stores, sqlite or redis: cases are handed over between them"
    )
    procurement = parser.add_argument_group("procurement")
    procurement.add_argument("--pages", metavar="N", type=int, help="requests that get the vendor's error page")
    procurement.add_argument("--outage", metavar="SECONDS", type=float, help="how long the vendor is down at most")
    procurement.add_argument("--write", action="store_true", help="put the run's numbers into docs/procurement.md")
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Launch the demo and give its exit code. Raises Stop."""
    program = examples() / DEMOS[arguments.name]
    if not program.is_file():
        raise Stop(f"there is no {program}: BUSPASS_EXAMPLES must name the examples folder of the repository", USAGE)
    return _launched([sys.executable, str(program), *_options(arguments)])


def examples() -> Path:
    """Give the examples folder: BUSPASS_EXAMPLES, or the one beside the package in a checkout."""
    named = os.environ.get("BUSPASS_EXAMPLES")
    return Path(named).absolute() if named else Path(__file__).resolve().parents[3] / "examples"


def _options(arguments: argparse.Namespace) -> list[str]:
    """Give the options for the demo that was named. Raises Stop for one that is another's."""
    given = {name: value for name, value in vars(arguments).items() if value not in (None, False)}
    foreign = {name for names in OPTIONS.values() for name in names} - {*OPTIONS[arguments.name]}
    if wrong := sorted(foreign & given.keys()):
        raise Stop(f"demo {arguments.name} has no --{wrong[0]}", USAGE)
    known = [name for name in (*OPTIONS[arguments.name], "json") if name in given]
    # one word each, as a text may begin with a dash
    return [f"--{name}" if given[name] is True else f"--{name}={given[name]}" for name in known]


def _launched(command: list[str]) -> int:
    with subprocess.Popen(command) as process:  # noqa: S603 - our own interpreter and our own file
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C reached it as well: it stops what it has started
            return INTERRUPTED
    return code if code >= 0 else 128 - code
