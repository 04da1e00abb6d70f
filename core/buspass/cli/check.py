"""`buspass check FILE`: says everything that is wrong with a configuration, or in one line what it is.

Opens no store and asks no network. Refuses to judge by itself: `buspass.config` and `buspass.policy.lint` do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buspass.errors import ConfigError

if TYPE_CHECKING:
    from buspass.config.settings import Settings

OK = 0
WRONG = 2


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="judge a configuration without starting anything",
        description="Says file, line, column, path, what is wrong and what is allowed, for everything at once. "
        "Exit code 0: usable; 2: not.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="buspass.yaml")
    parser.add_argument(
        "--bind",
        metavar="A",
        default="127.0.0.1",
        help="judge it for a gateway that listens here; other than loopback needs identity: and domain_key:",
    )
    parser.add_argument(
        "--compile",
        metavar="OUT",
        type=Path,
        help="also write it as a host reads it at once, without YAML: BUSPASS_CONFIG=OUT",
    )
    parser.add_argument("--json", action="store_true", help="answer for machines, on standard output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge `arguments.file`. Returns 0 when it can be used, else 2."""
    # pydantic and YAML cost a quarter of a second, which no other verb should pay.
    from buspass.config.build import load  # noqa: PLC0415

    try:
        settings = load(arguments.file, environ=os.environ, bind=arguments.bind)
    except ConfigError as error:
        return _refuse(arguments, error.problems)
    faults = _lint(settings.policy)
    if faults:
        return _refuse(arguments, faults)
    if arguments.compile:
        _compile(arguments, settings)
    _accept(arguments, _summary(settings))
    return OK


def _compile(arguments: argparse.Namespace, settings: Settings) -> None:
    from buspass.config import compiled  # noqa: PLC0415 - see run
    from buspass.config.places import Surroundings  # noqa: PLC0415

    folder = Path(os.path.abspath(arguments.file)).parent  # noqa: PTH100 - as `load` has it
    around = Surroundings(folder=folder, environ=os.environ, bind=arguments.bind)
    document = compiled.written(settings, folder=str(folder), data=around.data, loopback=around.loopback)
    try:
        arguments.compile.write_bytes(document)
    except OSError as error:
        raise ConfigError([f"{arguments.compile}: cannot be written: {error.strerror}"]) from error


def _lint(modules: Mapping[str, str]) -> tuple[str, ...]:
    """What is wrong with the Rego, by file and line; the engine loads only where a module exists."""
    if not modules:
        return ()
    from buspass.policy.lint import lint  # noqa: PLC0415

    return tuple(f"policy {line}" for line in lint(modules))


def _refuse(arguments: argparse.Namespace, problems: tuple[str, ...]) -> int:
    if arguments.json:
        print(json.dumps({"ok": False, "problems": problems}, indent=2))
    else:
        print("\n".join(problems), file=sys.stderr)
    return WRONG


def _summary(settings: Settings) -> dict[str, Any]:
    from buspass.config.advice import advice  # noqa: PLC0415

    targets = {f"{each.provider}/{each.model}" for model in settings.models.values() for each in model.targets}
    return {
        "ok": True,
        "revision": settings.revision,
        "issuer": settings.issuer,
        "hosts": list(settings.hosts),
        "workflows": list(settings.workflows),
        "targets": sorted(targets),
        "tools": list(settings.tools),
        "policies": list(settings.policy),
        "warnings": list(advice(settings)),
    }


def _accept(arguments: argparse.Namespace, summary: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return
    parts = [f"{name} {', '.join(summary[name])}" for name in ("hosts", "workflows", "targets") if summary[name]]
    count = len(summary["warnings"])
    warned = [f"{count} warning{'s' if count > 1 else ''}"] if count else []
    print(f"{arguments.file}: ok; " + "; ".join([f"revision {summary['revision']}", *parts, *warned]))
    for warning in summary["warnings"]:
        print(f"{arguments.file}: warning: {warning}", file=sys.stderr)
