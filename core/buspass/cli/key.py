"""`buspass key new|list|rotate|revoke`: keys for agents without OIDC; a key's text is printed once."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from buspass.cli.printable import money, printable, table
from buspass.cli.stop import OK, USAGE, Stop

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ID: Final = re.compile(r"k_[a-z2-7]{16}")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("key", help="make, list, rotate and revoke keys for agents without OIDC")
    verbs = parser.add_subparsers(title="what to do", metavar="new|list|rotate|revoke", required=True)
    new = verbs.add_parser(
        "new",
        help="make a key",
        description="Makes a key and prints it, once: only its hash is stored.",
        epilog="example: buspass key new my-bot --workflow my-agent --pool support --expires 30d",
    )
    new.add_argument("name", metavar="NAME", help="whose key it is")
    new.add_argument("--workflow", metavar="W", required=True, help="the kind of task that its calls run in")
    new.add_argument("--pool", metavar="P", help="who pays (default: the workflow's pool, or the only one)")
    new.add_argument("--models", metavar="A,B", help="only these of the workflow's models")
    new.add_argument("--expires", metavar="TIME", type=seconds, help="30d, 12h: for how long (default: for ever)")
    new.add_argument("--cost", metavar="USD", type=float, help="the most that one standing task may spend")
    new.set_defaults(run=run_new)
    every = verbs.add_parser("list", help="keys, ended ones too", description="Lists keys, ended ones too.")
    every.set_defaults(run=run_list)
    rotate = verbs.add_parser(
        "rotate",
        help="give a key a new secret",
        description="Gives a key a new secret and prints it, once; lifts the stop that a kill put on the key.",
    )
    rotate.add_argument("--grace", metavar="TIME", type=seconds, help="1h: the old one is good for so long (default 0)")
    rotate.set_defaults(run=run_rotate)
    revoke = verbs.add_parser("revoke", help="end a key", description="Ends a key for ever, within five seconds.")
    revoke.set_defaults(run=run_revoke)
    for one in (rotate, revoke):
        one.add_argument("id", metavar="ID")
    for one in (new, every, rotate, revoke):
        one.add_argument("--json", action="store_true", help="answer for machines")


def seconds(text: str) -> int:
    """Read a time as in buspass.yaml, whole seconds."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number with s, m, h or d, such as 30d")
    return int(found[1]) * UNITS[found[2]]


def run_new(arguments: argparse.Namespace) -> int:
    """Make a key."""
    asked = {
        "name": arguments.name,
        "workflow": arguments.workflow,
        "pool": arguments.pool,
        "models": arguments.models.split(",") if arguments.models else None,
        "expires_in": arguments.expires,
        "budget": None if arguments.cost is None else {"cost": arguments.cost},
    }
    return _show(_post("/v1/keys", {name: value for name, value in asked.items() if value is not None}), arguments)


def run_rotate(arguments: argparse.Namespace) -> int:
    """Give a key a new secret."""
    return _show(_post(_path(arguments.id, "rotate"), {"grace": arguments.grace or 0}), arguments)


def run_revoke(arguments: argparse.Namespace) -> int:
    """End a key."""
    key = _post(_path(arguments.id, "revoke"), {})
    said = f"revoked {key['id']} ({key['name']}): every host refuses it within five seconds"
    print(json.dumps(key, indent=2) if arguments.json else printable(said))
    return OK


def run_list(arguments: argparse.Namespace) -> int:
    """List keys."""
    from buspass.cli.connection import Connection  # noqa: PLC0415 - httpx costs a tenth of a second

    connection, rows, cursor = Connection(), [], ""
    while cursor is not None:
        page = connection.get("/v1/keys", {"limit": 100} | ({"cursor": cursor} if cursor else {}))
        rows += page["data"]
        cursor = page["next_cursor"]
    if arguments.json:
        print(json.dumps({"data": rows}, indent=2))
    elif not rows:
        print("no keys")
    else:
        titles = ("ID", "NAME", "WORKFLOW", "POOL", "PER TASK", "STATUS", "EXPIRES (UTC)")
        print("\n".join(table(titles, [_row(key) for key in rows], flexible=(1, 2, 3))))
    return OK


def _row(key: Mapping[str, Any]) -> list[str]:
    cost, expires = key["budget"].get("cost"), key["expires_at"]
    return [
        key["id"],
        key["name"],
        key["workflow"],
        key["pool"],
        "workflow's" if cost is None else money(cost),
        key["status"],
        "never" if expires is None else expires[:16].replace("T", " "),
    ]


def _show(made: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(made, indent=2))
        return OK
    about = f"key {made['id']} ({made['name']}) for workflow {made['workflow']}, paid by pool {made['pool']}"
    print(printable(about))
    print("this is shown once; give it to the agent as its API key:")
    print(printable(made["key"]))
    return OK


def _post(path: str, document: Mapping[str, Any]) -> Any:
    from buspass.cli.connection import Connection  # noqa: PLC0415

    return Connection().post(path, document)


def _path(key: str, verb: str) -> str:
    if not _ID.fullmatch(key):
        raise Stop(f"{key!r} is no key's id: they look like k_mzxw6ytb…; `buspass key list` shows them", USAGE)
    return f"/v1/keys/{key}/{verb}"
