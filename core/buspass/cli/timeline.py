"""A task's journal as lines of text: each thought with its cost, below it the actions that it caused, and where.

Owns the layout, for whoever has the document of `GET /v1/tasks/{id}/trace`. Refuses to fetch one, and to colour it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from buspass.cli.printable import WIDTH, cut, money, printable

type Row = Mapping[str, Any]

THOUGHT: Final = 60
"""Characters of a thought that are shown at most."""
HOST: Final = 12
"""Characters of a host's name that are shown at most."""
STEP: Final = 3
"""Columns that a caused row is moved to the right; after DEPTH levels no further."""
DEPTH: Final = 4
COUNTED: Final = ("tokens", "model_calls", "tool_calls")
_CLOCK: Final = 9
_LIFE: Final = {"start": "▶", "resume": "▶", "suspend": "‖", "complete": "■", "kill": "■", "expire": "■"}


def render(trace: Mapping[str, Any]) -> list[str]:
    """Give the lines of a journal, at most 100 columns wide.

    `trace` is `{task, records}` of `GET /v1/tasks/{id}/trace`. Times are seconds since the task began, costs USD.
    """
    task, rows = trace["task"], trace["records"]
    width = max((len(cut(row.get("host") or "", HOST)) for row in rows), default=0)
    began = _time(task["created_at"])
    lines = _title(task)
    for row, depth in _order(rows):
        lead = f"{_time(row['at']) - began:>{_CLOCK - 1}.3f}s  {cut(row.get('host') or '', HOST):<{width}}  "
        blank = " " * len(lead)
        indent = " " * (STEP * min(depth, DEPTH))
        room = WIDTH - len(lead) - len(indent)
        first, *rest = _said(row, room, caused=depth > 0)
        lines.append((lead + indent + cut(first, room)).rstrip())
        lines += [(blank + indent + cut(line, room)).rstrip() for line in rest]
    return [*lines, *_bill(task)]


def _time(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _order(rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Give each row with its depth, below the row that caused it; what no row shown has caused stands by itself."""
    places = {row["id"]: place for place, row in reversed(list(enumerate(rows)))}
    below: dict[int | None, list[int]] = {}
    for place, row in enumerate(rows):
        cause = places.get(row.get("cause") or "")
        # a cause is earlier than its effect: anything else would be a circle
        below.setdefault(cause if cause is not None and cause < place else None, []).append(place)
    waiting = [(place, 0) for place in reversed(below.get(None, []))]
    while waiting:
        place, depth = waiting.pop()
        yield rows[place], depth
        waiting += [(effect, depth + 1) for effect in reversed(below.get(place, []))]


def _said(row: Row, room: int, *, caused: bool) -> list[str]:
    """Give a row's own lines; `room` is how many columns they have."""
    match row["kind"]:
        case "inference":
            return [f"● {_thought(row)}", f"  {_facts(row)}", *_failure(row), *_observed(row)]
        case "thought":
            return [f"○ {_thought(row)}"]
        case "action":
            corner = "└ " if caused else "▪ "
            return [corner + _call(row, room - len(corner)), *_failure(row), *_observed(row)]
        case "refusal":
            return [f"✗ {row.get('name') or 'a call'} refused: {row.get('code')}", f"  {row.get('detail') or ''}"]
        case "lifecycle":
            operation = str(row.get("operation"))
            reason = f": {row['reason']}" if row.get("reason") else ""
            return [f"{_LIFE.get(operation, '·')} {operation}{reason}"]
        case "credit":
            return [f"± credit for {row.get('name') or 'a call'}: {money(row.get('cost') or 0)}{_left(row)}"]
        case "soft_limit":
            return [f"◔ soft limit: {row.get('detail') or row.get('name')}"]
        case other:
            return [f"· {other} {row.get('name') or ''}"]


def _observed(row: Row) -> list[str]:
    """What would have refused or changed the call, had its workflow been enforced."""
    return [
        f"  ◌ {seen['verdict']} {seen['code']}: {seen.get('detail') or seen['rule']}"
        for seen in row.get("observed") or ()
    ]


def _thought(row: Row) -> str:
    if row.get("erased"):
        return "(thought erased)"
    if "thought" not in row:
        return "(thought not logged)"
    first = next((line.strip() for line in str(row["thought"]).splitlines() if line.strip()), "")
    if not first:
        tools = [str(call[1]) for call in row.get("tool_calls") or ()]
        return f"(no words, asks for {', '.join(tools)})" if tools else "(no words)"
    return f"“{cut(first, THOUGHT)}”"


def _facts(row: Row) -> str:
    target = f" → {row['target']}" if row.get("target") else ""
    status = "" if row.get("status") in (None, "succeeded") else f"{row['status']}  "
    estimated = " (estimated)" if row.get("estimated") else ""
    return f"{row.get('name')}{target}  {status}{row['ms']} ms  {money(row.get('cost') or 0)}{estimated}{_left(row)}"


def _left(row: Row) -> str:
    """What was left after the row: of the money, or where that has no limit of the first account that has one."""
    left = row.get("left") or {}
    if "cost" in left:
        return f"  left {money(left['cost'])}"
    return next((f"  left {amount:,} {account}" for account, amount in left.items()), "")


def _call(row: Row, room: int) -> str:
    """An action; its arguments give way where the line is too long, its status and time don't."""
    tail = f"  {row.get('status') or row.get('state')}  {row['ms']} ms"
    if row.get("cost"):
        tail += f"  {money(row['cost'])}"
    if "arguments" in row:
        arguments = json.dumps(row["arguments"], ensure_ascii=False)
    else:
        arguments = "(arguments erased)" if row.get("erased") else "(arguments not logged)"
    name = f"{row.get('name')} "
    return f"{name}{cut(arguments, max(room - len(name) - len(tail), 8))}{tail}"


def _failure(row: Row) -> list[str]:
    if not row.get("code"):
        return []
    return [f"  ✗ {row['code']}: {row.get('detail') or ''}"]


def _title(task: Row) -> list[str]:
    principal, subject = task["principal"], task["subject"]
    behalf = f"for {subject['type']}:{subject['id']} " if subject else ""
    agent = f"by {principal['identity']}:{principal['agent']}"
    return [cut(line, WIDTH) for line in (f"{task['id']}  {task['workflow']}  {task['status']}", behalf + agent)]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _bill(task: Row) -> list[str]:
    budget = task["budget"]
    spent, limits = budget["spent"], budget["limits"]
    limit = f" of {money(limits['cost'])}" if "cost" in limits else ""
    parts = [_counted(spent.get(name, 0), name.removesuffix("s").replace("_", " ")) for name in COUNTED]
    line = f"spent {money(spent.get('cost', 0))}{limit}, {', '.join(parts)}"
    held = budget["held"].get("cost", 0)
    return [printable(line + (f"; {money(held)} held by calls in flight" if held else ""))]
