"""`buspass up`: the on-prem host on this machine, with a configuration or with the example that comes along.

Owns which configuration is served and what is printed. The host itself is another package, found by name: core knows
no server.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from buspass.cli.agent import hide
from buspass.cli.machine import address, data_directory, is_loopback
from buspass.cli.stop import FAILED, INTERRUPTED, OK, USAGE, Stop

if TYPE_CHECKING:
    from buspass.cli.example import Example
    from buspass.http import Application

HOST: Final = "buspass_onprem.server"
BIND: Final = "127.0.0.1"
PORT: Final = 8700


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "up",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="serve the gateway on this machine",
        description="Serves the gateway until Ctrl-C or SIGTERM. The configuration is --config, else BUSPASS_CONFIG,\n"
        "else ./buspass.yaml, else an example with a simulated model and tools, for local use only.",
        epilog="examples:\n  buspass up\n  buspass up --config shop.yaml --port 8701\n\n"
        "Keys and stores lie in BUSPASS_DATA; on loopback they are made on the first start.",
    )
    parser.add_argument("--config", metavar="F", type=Path, help="buspass.yaml")
    parser.add_argument("--bind", metavar="A", help=f"the address to listen at (default {BIND})")
    parser.add_argument("--port", metavar="N", type=_port, help=f"the port (default {PORT}; 0: a free one)")
    parser.add_argument(
        "--until-eof", action="store_true", help="end with standard input, for a program that starts this one"
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve. Raises Stop, ConfigError."""
    import asyncio  # noqa: PLC0415 - help needs no loop

    bind, port = _address(arguments)
    environ = _environment(arguments, bind)
    if arguments.until_eof:
        hide()
    os.umask(0o077)  # keys, stores and sockets: whatever is made here is its owner's alone
    host = _host()
    with ExitStack() as stack:
        example = None
        config = _configuration(arguments)
        if config is None:
            example = stack.enter_context(_example(bind, environ))
            environ |= example.environ
        else:
            environ["BUSPASS_CONFIG"] = str(config)

        async def ready(url: str, application: Application) -> None:
            if arguments.until_eof:
                threading.Thread(target=_end_with_stdin, daemon=True).start()
            _announce(url, application, "its own example" if example else str(config))
            await _warn(application)
            await _introduce(url, application, example)

        try:
            serving = host.serve(environ, bind=bind, port=port, ready=ready)
            stopped = asyncio.run(serving, loop_factory=host.event_loop())
        except OSError as error:
            raise _not_had(error, bind, port) from error
    return INTERRUPTED if stopped == signal.SIGINT else OK


def _end_with_stdin() -> None:
    """Stop as SIGTERM does when whoever started this process is gone, however it went."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _address(arguments: argparse.Namespace) -> tuple[str, int]:
    """The flags, else BUSPASS_URL where it names a loopback port: what task and trace will ask is what is served."""
    url = _gateway(os.environ)
    here = url.scheme == "http" and is_loopback(url.hostname or "")
    bind, port = (str(url.hostname), url.port) if here else (BIND, None)
    return arguments.bind or bind, (port or PORT) if arguments.port is None else arguments.port


def _environment(arguments: argparse.Namespace, bind: str) -> dict[str, str]:
    environ = {**os.environ, "BUSPASS_DATA": str(data_directory())}
    url = _gateway(environ)
    if is_loopback(bind) and is_loopback(url.hostname or "") and (arguments.bind or arguments.port is not None):
        del environ["BUSPASS_URL"]  # it is another gateway's: the flags say where this one is
    return environ


def _gateway(environ: Mapping[str, str]) -> SplitResult:
    said = environ.get("BUSPASS_URL")
    return address(said) if said else urlsplit("")


def _host() -> Any:
    try:
        return importlib.import_module(HOST)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"uvicorn", "buspass_onprem"}:
            raise
        raise Stop("`buspass up` needs the on-prem host: pip install 'buspass[onprem]'", USAGE) from error


def _configuration(arguments: argparse.Namespace) -> Path | None:
    """The file to serve; None for the example."""
    named = arguments.config or os.environ.get("BUSPASS_CONFIG")
    if named:
        return Path(named)
    found = Path("buspass.yaml")
    return found if found.exists() else None


def _example(bind: str, environ: Mapping[str, str]) -> Any:
    from buspass.cli.example import running  # noqa: PLC0415

    if not is_loopback(bind):
        raise Stop(f"the example is for this machine only, not for --bind {bind}: name a configuration", USAGE)
    return running(environ)


def _not_had(error: OSError, bind: str, port: int) -> Exception:
    """Say why the address was not to be had; any other OSError is given back as it is."""
    if error.errno == errno.EADDRINUSE:
        return Stop(f"port {port} at {bind} is in use: is a gateway running already? Else take another --port", FAILED)
    if error.filename is None and (error.errno in {errno.EADDRNOTAVAIL, errno.EACCES} or (error.errno or 0) < 0):
        return Stop(f"cannot listen at {bind} port {port}: {error.strerror or error}", FAILED)
    return error


def _announce(url: str, application: Application, config: str) -> None:
    house = application.house
    print(
        f"buspass listening on {url} (config {config}, revision {house.settings.revision}, host {house.host.name})",
        flush=True,
    )


async def _warn(application: Application) -> None:
    """Say now, on standard error, what calls would be refused for later: a secret that this host has not."""
    from buspass.ports.secrets import SecretMissing  # noqa: PLC0415 - help needs no host

    house, settings = application.house, application.house.settings
    asked = {target.provider for model in settings.models.values() for target in model.targets}
    auths = {name: each.auth for name, each in settings.providers.items() if name in asked}
    auths |= {f"tool {name}": each.auth for name, each in settings.tools.items()}
    for secret in dict.fromkeys(auth.secret for auth in auths.values() if auth.secret):
        try:
            await house.secrets.get(secret)
        except SecretMissing as error:
            users = ", ".join(name for name, auth in auths.items() if auth.secret == secret)
            print(f"{error}: calls of {users} will be refused", file=sys.stderr, flush=True)


async def _introduce(url: str, application: Application, example: Example | None) -> None:
    """Print what a newcomer needs to make the first call: only where this host vouches for agents itself."""
    from buspass.cli.example import introduction  # noqa: PLC0415

    if application.house.settings.local_issuer:
        token = await application.mint_workload("local-agent")
        for line in await introduction(url, token, example):
            print(line)
        print(end="", flush=True)
