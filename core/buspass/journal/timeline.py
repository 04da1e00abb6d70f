"""The journal as a person reads it: in order, each action under the thought that caused it.

Owns the shape of `GET /v1/tasks/{id}/trace`. Refuses to read a store: records and payloads are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from buspass.model import MICRO
from buspass.ports.state import Item

SHOWN: Final = (
    "state",
    "status",
    "target",
    "attempts",
    "usage",
    "code",
    "detail",
    "operation",
    "reason",
    "by",
    "stop",
    "tool_call_id",
    "estimated",
    "overrun",
    "breaker",
    "local",
    "txn_jti",
    "fence",
    "revision",
    "findings",
    "observed",
    "price",
    "digests",
)


type Place = tuple[int, int, int, str]
RANKS: Final[Mapping[str, int]] = {"thought": 1, "inference": 2, "action": 3, "refusal": 4}
"""Within one millisecond a task's start comes first, and what causes comes before what it may have caused."""
LAST: Final = 5


def moment(ms: int) -> str:
    """Give RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timeline(
    records: Mapping[str, Item],
    payloads: Mapping[str, Mapping[str, Any]],
    limits: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Give the journal's rows in order of time, with what was left of each limited account after each.

    `payloads` by record key: `{thought?, arguments?}`, only what the workflow logged. Rows:
    `{id, kind, name, host, at, ms, cause, use, cost, left, …}`; `cost` in USD, `cause` the inference's id.
    """
    left = dict(limits)
    rows = []
    for *_, key in order(records):
        record = records[key]
        use = record.get("use")
        spent = {name: int(str(n)) for name, n in use.items()} if isinstance(use, Mapping) else {}
        for name in left:
            left[name] -= spent.get(name, 0)
        rows.append(row(key, record, spent, left) | dict(payloads.get(key, {})))
    return rows


def order(records: Mapping[str, Item]) -> list[Place]:
    """Give the place of each record, in the order of the rows."""
    return sorted(place(key, record) for key, record in records.items())


def place(key: str, record: Item) -> Place:
    """Give when a record began (ms), and what orders those of one millisecond: kind, turn in the head, key (last)."""
    rank = 0 if record.get("operation") == "start" else RANKS.get(str(record.get("kind")), LAST)
    return int(str(record["at"])), rank, int(str(record.get("turn") or 0)), key


def row(key: str, record: Item, use: Mapping[str, int], left: Mapping[str, int]) -> dict[str, Any]:
    """Give one row, without payloads."""
    at, ended = int(str(record["at"])), int(str(record.get("ended") or record["at"]))
    members = {
        "id": key.split(":", 1)[1],
        "kind": "credit" if key.startswith("credit:") else record["kind"],
        "name": record.get("name"),
        "host": record.get("host"),
        "at": moment(at),
        "ms": ended - at,
        "cause": record.get("cause") or None,
        "use": _money(use),
        "cost": use.get("cost", 0) / MICRO,
        "left": _money(left),
        **{name: record.get(name) for name in SHOWN},
    }
    return {name: value for name, value in members.items() if value is not None}


def _money(amounts: Mapping[str, int]) -> dict[str, int | float]:
    return {name: amount / MICRO if name == "cost" else amount for name, amount in amounts.items()}
