"""`buspass demo returns`: launches a demo of the examples folder. Refuses to know what it shows."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from buspass.cli.stop import INTERRUPTED, USAGE, Stop

DEMOS: Final = {"returns": "returns/demo.py"}
LATER: Final = ("procurement",)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="watch governed agents at work, on this machine alone",
        description="Runs a demo of the examples folder: three hosts, real services, a simulated model; nothing costs "
        "money unless OPENAI_API_KEY is set.",
        epilog="example: buspass demo returns --ask 'Order O-20017 came broken, I want my money back'",
    )
    parser.add_argument("name", choices=(*DEMOS, *LATER), help="which one")
    parser.add_argument("--ask", metavar="TEXT", help="one request in your own words")
    parser.add_argument("--customer", metavar="ID", help="who asks, with --ask")
    parser.add_argument("--requests", metavar="FILE", type=Path, help="your own requests, a JSON object a line")
    parser.add_argument("--rogue", action="store_true", help="let the agent go bad, and see it refused")
    parser.add_argument(
        "--stores", metavar="A,B", help="two stores, sqlite or redis: cases are handed over between them"
    )
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Launch the demo and give its exit code. Raises Stop."""
    if arguments.name in LATER:
        raise Stop(f"not available yet: demo {arguments.name}; `buspass demo returns` is", USAGE)
    program = examples() / DEMOS[arguments.name]
    if not program.is_file():
        raise Stop(f"there is no {program}: BUSPASS_EXAMPLES must name the examples folder of the repository", USAGE)
    return _launched([sys.executable, str(program), *_options(arguments)])


def examples() -> Path:
    """Give the examples folder: BUSPASS_EXAMPLES, or the one beside the package in a checkout."""
    named = os.environ.get("BUSPASS_EXAMPLES")
    return Path(named).absolute() if named else Path(__file__).resolve().parents[3] / "examples"


def _options(arguments: argparse.Namespace) -> list[str]:
    values = {name: getattr(arguments, name) for name in ("ask", "customer", "requests", "stores")}
    # one word each, as a text may begin with a dash
    options = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return options + [f"--{name}" for name in ("rogue", "json") if getattr(arguments, name)]


def _launched(command: list[str]) -> int:
    with subprocess.Popen(command) as process:  # noqa: S603 - our own interpreter and our own file
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C reached it as well: it stops what it has started
            return INTERRUPTED
    return code if code >= 0 else 128 - code
