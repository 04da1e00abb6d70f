"""Text from elsewhere made safe for a terminal and fitted into columns.

Thoughts, arguments and reasons are written by models and by whoever misleads them: an escape sequence among them must
not move a cursor or hide a line. Refuses to know what a text means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

WIDTH: Final = 100
"""Columns that a table or timeline takes at most."""
LEAST: Final = 6
"""Characters that a column keeps, however little room there is."""


def printable(text: Any) -> str:
    """Give the text on one line, with every character that a terminal would act on as its escape in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def cut(text: Any, width: int) -> str:
    """Give the text safe and no longer than `width`, with … where something was left out."""
    safe = printable(text)
    return safe if len(safe) <= width else safe[: max(width - 1, 0)] + "…"


def money(dollars: float) -> str:
    """Give USD with six decimals below a dollar, so that a small model's call is not $0.00, else with two to six."""
    shown = f"{abs(dollars):.6f}"
    head, _, decimals = shown.partition(".")
    return ("-" if dollars < 0 else "") + f"${head}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], flexible: Sequence[int]) -> list[str]:
    """Give lines of aligned columns, at most WIDTH wide: the `flexible` ones (by index) are cut where they must be."""
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widest = max(flexible, key=lambda column: widths[column])
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
    return [_line(row, widths) for row in cells]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
