"""The tables of a run, for the screen and for docs/procurement.md. Refuses to know how a run is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from procurement.side import priced

PAGE: Final = Path(__file__).parents[2] / "docs" / "procurement.md"
MARKS: Final = re.compile(r"(<!-- a run writes this -->\n).*?(<!-- to here -->)", re.DOTALL)
OTHERS: Final[Mapping[str, Mapping[str, float]]] = {
    "gpt-5-mini": {"input": 0.25, "cached_input": 0.025, "output": 2.00},
    "gpt-6.1-sol": {"input": 2.00, "cached_input": 0.10, "output": 10.00},
    "claude-opus-5-5": {"input": 4.00, "cached_input": 0.20, "output": 20.00},
    "gpt-6-astra": {"input": 10.00, "cached_input": 1.00, "output": 50.00},
}
"""USD per million tokens of other models (for inputs that are not long), to price the same tokens at."""


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is compared: a name, and a cell for each side."""
    return [
        (name, cell(found["straight"]), cell(found["buspass"]))
        for name, cell in (
            ("calls to the dead vendor", lambda side: f"{side['dead_calls']}"),
            ("error pages shown to the model", lambda side: f"{side['pages_shown_to_the_model']}"),
            ("model calls", lambda side: f"{side['model_calls']}"),
            ("tokens", _tokens),
            (f"dollars, {found['model']}", lambda side: f"{side['cost']:.2f}"),
            ("seconds until the agent was done", lambda side: f"{side['seconds']:.0f}"),
            ("parts ordered", lambda side: f"{side['ordered']} of {side['wanted']}"),
            ("dearest, above the last price", lambda side: f"{side['dearest']:.1f} %"),
            ("paid for the parts, EUR", lambda side: f"{side['paid']:,.2f}"),
        )
    ]


def _tokens(side: Mapping[str, Any]) -> str:
    tokens = side["tokens"]
    share = 100 * tokens["cached"] / max(tokens["input"], 1)
    return f"{tokens['all']:,} ({share:.0f} % of the input cached)"


def limits(found: Mapping[str, int]) -> list[tuple[str, str]]:
    """The agent's limits, each with whose default it is."""
    return [
        ("model calls are repeated", f"{found['model_retries']} times (openai SDK 3.52, and LangChain 1.5 over it)"),
        ("rounds of model and tools", f"{found['rounds']:,} (LangChain 1.5: recursion_limit 9_999, two steps a round)"),
        ("tool calls are repeated", f"{found['tool_retries']} times (httpx, and every framework)"),
    ]


def tables(found: Mapping[str, Any]) -> str:
    """The page's part that a run writes."""
    text = _table(("", "straight", "through Buspass"), rows(found))
    cost = [
        (name, *(f"{priced(found[side]['tokens'], price):.2f}" for side in ("straight", "buspass")))
        for name, price in OTHERS.items()
    ]
    text += "\nThe same tokens at other models' prices, in dollars:\n\n"
    return text + _table(("model", "straight", "through Buspass"), cost)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def write(found: Mapping[str, Any], file: Path = PAGE) -> None:
    """Put a run's tables into the page."""
    text, count = MARKS.subn(lambda marks: f"{marks[1]}\n{tables(found)}\n{marks[2]}", file.read_text("utf-8"))
    if count != 1:
        raise ValueError(f"{file} has no place for the tables")
    file.write_text(text, "utf-8")
