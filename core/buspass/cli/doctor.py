"""`buspass doctor`: asks a host's every part whether it works, and says what to do about those that don't.

Runs with the environment of the host that it is about, on the machine or from where that host's network and rights
are had. Refuses to judge by itself: `buspass.doctor` does.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

from buspass.cli.machine import data_directory
from buspass.cli.printable import printable
from buspass.cli.stop import USAGE, Stop

if TYPE_CHECKING:
    from buspass.doctor import Finding

MARKS: Final = {"ok": "ok     ", "warning": "warning", "failed": "FAILED ", "unknown": "unknown"}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="ask a host's every part whether it works, and say what to do",
        description="Asks the host that BUSPASS_CONFIG, BUSPASS_HOST, BUSPASS_DATA and BUSPASS_SECRETS make: "
        "configuration, keys, stores, policy, issuers, providers, clock. Bills nothing, leaves nothing behind, shows "
        "no secret. Exit code 0: fit; 1: a part failed; 2: the configuration can't be used.",
    )
    parser.add_argument("--config", metavar="F", type=Path, help="buspass.yaml, or what `check --compile` wrote")
    parser.add_argument("--bind", metavar="A", default="127.0.0.1", help="the address that the host listens on")
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Examine the host. Returns 0, 1 or 2. Raises Stop where there is no configuration."""
    import asyncio  # noqa: PLC0415 - help needs no loop

    from buspass.doctor import exit_code  # noqa: PLC0415
    from buspass.http.examining import examined  # noqa: PLC0415

    environ = {**os.environ, "BUSPASS_DATA": str(data_directory()), "BUSPASS_CONFIG": str(_file(arguments))}
    found = asyncio.run(examined(environ, bind=arguments.bind))
    code = exit_code(found)
    print(json.dumps(_document(found, environ), indent=2) if arguments.json else "\n".join(_lines(found)))
    return code


def _file(arguments: argparse.Namespace) -> Path:
    if named := arguments.config or os.environ.get("BUSPASS_CONFIG"):
        return Path(named)
    if not (found := Path("buspass.yaml")).exists():
        raise Stop("which configuration? name it with --config, or BUSPASS_CONFIG", USAGE)
    return found


def _document(found: Sequence[Finding], environ: Mapping[str, str]) -> dict[str, object]:
    from buspass.doctor import exit_code  # noqa: PLC0415

    return {
        "ok": exit_code(found) == 0,
        "config": environ["BUSPASS_CONFIG"],
        "host": environ.get("BUSPASS_HOST"),
        "findings": [asdict(each) for each in found],
    }


def _lines(found: Sequence[Finding]) -> list[str]:
    lines: list[str] = []
    for each in found:
        lines.append(printable(f"{MARKS[each.status]}  {each.check}  {each.about}: {each.what}"))
        if each.remedy:
            lines.append(printable(f"         → {each.remedy}"))
    counts = [f"{sum(each.status == status for each in found)} {status}" for status in MARKS]
    return [*lines, ", ".join(counts)]
