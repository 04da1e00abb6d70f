"""What a task does while it does it: its journal's new rows as lines, and in the end its bill.

Owns the layout and what is counted. Refuses to know who starts the task and whose terminal this is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from buspass.cli.printable import cut, money, printable

type Row = Mapping[str, Any]
type Ask = Callable[[Mapping[str, str | int]], Any]
"""Gives a page of `GET /v1/tasks/{id}/trace` for a query."""

WIDTH: Final = 160
"""Columns of a line at most: why a call was refused is what a reader needs."""
THOUGHT: Final = 40
"""Columns of what a row says; its facts stand behind."""
PAGE: Final = 500
LATE: Final = 900.0
"""Seconds after which no row can come any more before one that is shown: a call takes no longer at any host."""


class Tally:
    """What a run came to, by its journal. `cost` is USD; `held`: the most that was seen held at once, USD.

    `exhausted`: a call was refused for want of budget.
    """

    def __init__(self) -> None:
        self.thoughts = self.actions = self.refused = self.observed = 0
        self.exhausted = False
        self.cost = self.held = 0.0
        self.models: dict[str, tuple[str, str]] = {}
        self.functions: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        self.thoughts += row["kind"] == "inference"
        self.actions += row["kind"] == "action"
        self.refused += row["kind"] == "refusal"
        self.observed += bool(row.get("observed"))
        self.exhausted |= row.get("code") == "budget_exhausted"
        if row["kind"] == "inference" and row.get("target"):
            provider, _, model = str(row["target"]).partition("/")
            self.models[str(row["name"])] = (provider, model)
            self.functions.update(str(call[1]) for call in row.get("tool_calls") or ())

    def spent(self, task: Row) -> None:
        """Take the money from the task's own books."""
        budget = task["budget"]
        self.cost = budget["spent"].get("cost", 0.0)
        self.held = max(self.held, budget["held"].get("cost", 0.0))

    def bill(self, task: str, code: int) -> str:
        """Give the last line."""
        counts = [_counted(self.thoughts, "thought"), _counted(self.actions, "action")]
        if self.refused:
            counts.append(f"{self.refused} refused")
        if self.observed:
            counts.append(f"{self.observed} only observed")
        return " · ".join([f"exit {code}", *counts, money(self.cost), f"buspass trace {task}"])


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class Timeline:
    """Reads a task's journal as it grows. `say` gets a line at a time."""

    def __init__(self, task: Row, ask: Ask, say: Callable[[str], None]) -> None:
        self._ask, self._say = ask, say
        self._began = _time(task["created_at"])
        self._tools = bool(task["grant"]["tools"])
        self._seen: set[str] = set()
        self._cursor = ""
        self.tally = Tally()

    def look(self) -> None:
        """Show the rows that are new: in order of when they began, each as soon as it is settled."""
        cursor: str | None = self._cursor
        while cursor is not None:
            page = self._ask({"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
            self.tally.spent(page["task"])
            for row in page["records"]:
                if row["id"] not in self._seen:
                    self._seen.add(row["id"])
                    self.tally.add(row)
                    for line in self._lines(row):
                        self._say(line)
            cursor = page["next_cursor"]
            if cursor and datetime.now().timestamp() - _time(page["records"][-1]["at"]) > LATE:  # noqa: DTZ005
                self._cursor = cursor  # nothing can come before it any more: the next look begins here

    def _lines(self, row: Row) -> Iterator[str]:
        lead = f"{_time(row['at']) - self._began:>5.1f}s "
        facts = " ".join(self._facts(row))
        if text := self._text(row):
            yield cut(f"{lead}{cut(text, THOUGHT):<{THOUGHT}}  {facts}".rstrip(), WIDTH)
        if row["kind"] == "inference" and not self._tools:
            for call in row.get("tool_calls") or ():
                yield cut(f"{lead}{cut(f'  └ {call[1]} {_arguments(call[2])}', THOUGHT):<{THOUGHT}}  asked for", WIDTH)

    def _text(self, row: Row) -> str:
        match row["kind"]:
            case "inference" if _failed(row):
                return f"  ✗ {row.get('name')}"
            case "inference":
                return f"● {_thought(row)}"
            case "thought":
                return f"○ {_thought(row)}"
            case "action":
                return f"  └ {row.get('name')} {_arguments(row.get('arguments'))}"
            case "refusal":
                return f"  ✗ {row.get('name') or 'a call'} {_arguments(row.get('arguments'))}".rstrip()
            case "soft_limit":
                return "◔ soft limit"
            case "lifecycle" if row.get("operation") not in {"start", "complete"} and not _is_ours(row):
                return f"■ {row.get('operation')}"
        return ""

    def _facts(self, row: Row) -> Iterator[str]:
        match row["kind"]:
            case "inference" if _failed(row):
                yield f"{money(row['cost'])} "
            case "inference":
                yield f"{row.get('name')}  {money(row['cost'])} "
                left = (row.get("left") or {}).get("cost")
                yield f" left {money(left)}" if left is not None else ""
            case "action":
                yield f"{row.get('status') or row.get('state')}  {row['ms']} ms"
            case "lifecycle":
                yield str(row.get("reason") or "")
            case "soft_limit":
                yield str(row.get("detail") or "")
        if row.get("code"):
            yield f"{row['code']}: {row.get('detail') or ''}"
        if row.get("observed"):
            yield ", ".join(dict.fromkeys(f"{seen['verdict']} {seen['code']}" for seen in row["observed"]))


def _failed(row: Row) -> bool:
    """Whether nothing was thought: the provider failed, or refused."""
    return bool(row.get("code")) and "thought" not in row


def _is_ours(row: Row) -> bool:
    """Whether this is the kill with the agent's exit code, which the bill says."""
    return str(row.get("reason")).startswith("exit ")


def _time(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _thought(row: Row) -> str:
    if "thought" not in row:
        return "(thought not logged)"
    first = next((line.strip() for line in str(row["thought"]).splitlines() if line.strip()), "")
    return f'"{cut(first, THOUGHT - 4)}"' if first else "(no words)"


def _arguments(given: Any) -> str:
    """Arguments as people write them; what is no JSON object, as it is."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return printable(given)
    if not isinstance(given, dict):
        return ""
    parts = (f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items())
    return "{" + ", ".join(parts) + "}"
