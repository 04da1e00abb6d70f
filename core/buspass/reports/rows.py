"""What a record adds to a report: its dimensions, and the sums and durations under them.

Owns what is counted and how: sums are integers (micro-dollars), so a report equals its records exactly; durations lie
in buckets an eighth of an octave wide, so a percentile is at most 9 % too high. Refuses to know stores and journals.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct, field

from buspass.ports.state import Item, Value

COUNTED: Final = ("inference", "action", "attempt")
TEXT: Final = 128
"""Characters of a label's name or value that a report keeps."""
STEPS: Final = 8
"""Buckets in an octave."""


class Dimensions(Struct, frozen=True, kw_only=True):
    """What a report can be grouped by. `name` is an alias or a tool, `target` is PROVIDER/MODEL or empty."""

    workflow: str
    host: str
    kind: str
    name: str
    target: str
    labels: tuple[tuple[str, str], ...]

    def value(self, group: str) -> str:
        """Give one dimension: a fixed one, else the label of that name; "" where a call has none."""
        provider, _, model = self.target.partition("/")
        labels = dict(self.labels)
        fixed = {
            "workflow": self.workflow,
            "host": self.host,
            "kind": self.kind,
            "provider": provider,
            "model": model,
            "alias": "" if self.kind == "action" else self.name,
            "tool": self.name if self.kind == "action" else "",
            "step": labels.get("step", self.name),
        }
        return fixed[group] if group in fixed else labels.get(group, "")


class Row(Struct):
    """Sums under one set of dimensions. `ended` counts durations: bucket → calls."""

    calls: int = 0
    failed: int = 0
    use: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)

    def add(self, other: Row, sign: int = 1) -> None:
        self.calls += sign * other.calls
        self.failed += sign * other.failed
        for name, amount in other.use.items():
            self.use[name] += sign * amount
        for bucket, calls in other.ended.items():
            self.ended[bucket] += sign * calls

    def quantile(self, part: float) -> int:
        """Give the duration that `part` (0-1) of the calls did not exceed, in ms; 0 where there were none."""
        wanted = math.ceil(part * self.ended.total())
        for bucket in sorted(self.ended):
            wanted -= self.ended[bucket]
            if wanted <= 0:
                return round(2 ** (bucket / STEPS))
        return 0


type Table = dict[Dimensions, Row]


def bucket(ms: int) -> int:
    """Give the bucket of a duration: the smallest one whose end, 2^(bucket / STEPS) ms, it does not exceed."""
    return math.ceil(STEPS * math.log2(max(ms, 1)))


def merge(into: Table, table: Table) -> None:
    """Add a table to another."""
    for dimensions, row in table.items():
        into.setdefault(dimensions, Row()).add(row)


def by_day(task: Item, records: Mapping[str, Item], keys: Iterable[str]) -> dict[str, Table]:
    """Tabulate the records under `keys` by the day (UTC) on which each was held. `task` is its item of facts.

    A late settle's credit moves what the sweep had charged to where it belongs: to the labels and the target that only
    the settle knew.
    """
    days: dict[str, Table] = {}
    for key in keys:
        record = records[key]
        if record.get("kind") not in COUNTED:
            continue
        table = days.setdefault(_day(record), {})
        if record.get("state") == "credit":
            swept = records.get(f"rec:{key.removeprefix('credit:')}")
            if swept is None:
                continue
            table.setdefault(_dimensions(task, swept), Row()).add(_row(swept), -1)
            real = _row(record)
            real.use.update(_use(swept))
            table.setdefault(_dimensions(task, record), Row()).add(real)
        else:
            table.setdefault(_dimensions(task, record), Row()).add(_row(record))
    return days


def _day(record: Item) -> str:
    return f"{datetime.fromtimestamp(_whole(record.get('at')) / 1000, UTC):%Y-%m-%d}"


def _dimensions(task: Item, record: Item) -> Dimensions:
    labels = {**_labels(task.get("metadata")), **_labels(record.get("labels"))}
    return Dimensions(
        workflow=str(task.get("workflow", "")),
        host=str(record.get("host", "")),
        kind=str(record.get("kind", "")),
        name=str(record.get("name", "")),
        target=str(record.get("target", "")),
        labels=tuple(sorted(labels.items())),
    )


def _labels(value: Value) -> dict[str, str]:
    if isinstance(value, str):
        value = json.loads(value or "{}")
    if not isinstance(value, Mapping):
        return {}
    return {str(name)[:TEXT]: _text(part)[:TEXT] for name, part in value.items() if name}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(record: Item) -> Row:
    calls = int(record.get("kind") != "attempt")  # one more try of a call is no call
    row = Row(calls=calls, failed=calls * int(record.get("status") != "succeeded"), use=_use(record))
    if record.get("state") != "expired":  # nobody knows how long that one took
        row.ended[bucket(_whole(record.get("ended")) - _whole(record.get("at")))] = 1
    return row


def _use(record: Item) -> Counter[str]:
    use = record.get("use")
    return Counter({name: _whole(amount) for name, amount in use.items()} if isinstance(use, Mapping) else {})


def _whole(value: Value) -> int:
    return value if type(value) is int else 0


# ── as they lie in a store ──────────────────────────────────────────────────────────────────────────────────────────


def to_values(table: Table) -> list[Value]:
    """Give a table's rows as values of the state port, in an order that depends on nothing but the rows."""
    rows: list[Value] = []
    for dimensions, row in sorted(table.items(), key=lambda pair: _order(pair[0])):
        rows.append(
            {
                "by": [dimensions.workflow, dimensions.host, dimensions.kind, dimensions.name, dimensions.target],
                "labels": [[name, value] for name, value in dimensions.labels],
                "calls": row.calls,
                "failed": row.failed,
                "use": {name: amount for name, amount in sorted(row.use.items()) if amount},
                "ended": [[bucket, calls] for bucket, calls in sorted(row.ended.items()) if calls],
            }
        )
    return rows


def _order(dimensions: Dimensions) -> list[Any]:
    one = dimensions
    return [one.workflow, one.host, one.kind, one.name, one.target, one.labels]


def from_values(values: Any) -> Table:
    """Read what `to_values` gave."""
    table: Table = {}
    for value in values if isinstance(values, list) else ():
        workflow, host, kind, name, target = value["by"]
        dimensions = Dimensions(
            workflow=workflow,
            host=host,
            kind=kind,
            name=name,
            target=target,
            labels=tuple((label, text) for label, text in value["labels"]),
        )
        row = Row(value["calls"], value["failed"], Counter(value["use"]), Counter(dict(value["ended"])))
        table.setdefault(dimensions, Row()).add(row)
    return table
