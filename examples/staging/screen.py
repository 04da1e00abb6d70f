"""Colour and headings for a terminal. Refuses to know what is shown."""

from __future__ import annotations

import os
import sys

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def paint(text: str, colour: str) -> str:
    """Colour for terminals only (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def heading(text: str) -> None:
    print(f"\n{paint(text, 'bold')}")
