"""`buspass init`: the buspass.yaml for what the last `buspass run` of this folder used."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, Final

from buspass.cli.machine import data_directory
from buspass.cli.stop import FAILED, OK, USAGE, Stop

FILE: Final = Path("buspass.yaml")
NO_NAMES: Final = ("true", "false", "null", "y", "n", "yes", "no", "on", "off")
"""What YAML may take for something else."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "init",
        help="write buspass.yaml for what the last run used",
        description="Writes ./buspass.yaml for what the last `buspass run` in this folder used: its models, their "
        "providers, a budget with room for what it cost, and the names of the agent's own functions. It never "
        "overwrites a file.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 - a verb's signature
    """Write the file. Raises Stop."""
    from buspass.cli.generated import initial  # noqa: PLC0415
    from buspass.cli.run import LAST  # noqa: PLC0415

    if FILE.exists():
        raise Stop(f"{FILE} is there already, and is not overwritten", USAGE)
    last = _read(data_directory() / LAST)
    if last is None or last["folder"] != str(Path.cwd()):
        where = f"; the last one was in {last['folder']}" if last else ""
        raise Stop(f"no run to learn from: first `buspass run -- CMD…` in this folder, without a file{where}", USAGE)
    if not last["models"]:
        raise Stop(f"the last run, `{last['command']}`, called no model: there is nothing to allow", FAILED)
    name = _workflow(Path.cwd().name)
    try:
        with FILE.open("x", encoding="utf-8") as file:
            file.write(initial(last, name))
    except OSError as error:
        raise Stop(f"{FILE}: {error.strerror}", FAILED) from error
    print(f"wrote {FILE}: workflow {name}, {', '.join(sorted(last['models']))}")
    return OK


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _workflow(folder: str) -> str:
    """The folder's name as a workflow's."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:40].rstrip("-")
    return (
        name
        if name and name not in {"true", "false", "null", "y", "n", "yes", "no"} and not name.isdigit()
        else "my-agent"
    )
