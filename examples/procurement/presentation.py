"""What a person sees of a run: a line a second for both sides, then the table. Refuses to decide anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from procurement import page
from procurement.agent import LIMITS
from procurement.side import Side
from staging.screen import heading, paint


def beginning(model: str, real: bool) -> None:
    """What runs, and within which limits."""
    heading("The same program twice: straight at its provider and vendors, and through Buspass")
    rows = page.limits(LIMITS)
    for name, value in rows:
        print(f"  {name}: {value}")
    print(f"  model: {model}{', OpenAI’s own, for real money' if real else ', simulated, at its real prices'}")
    heading(f"{'s':>5}  {'vendor':<9} {'straight at it':<58} through Buspass")


def progress(seconds: float, vendor: str, sides: Sequence[Side]) -> None:
    """One line: the vendor's state, and of each side its calls to the dead vendor, tokens, dollars, and its doing."""
    colour = {"well": "green", "refuses": "red", "404 page": "red"}[vendor]
    cells = [
        f"{side.dead:>4} calls {sum(side.tokens[k] for k in ('input', 'output')) / 1000:>7.0f}k $ {side.cost:>7.2f}"
        f"  {side.doing[:27]:<27}"
        for side in sides
    ]
    print(f"{seconds:>5.0f}  {paint(f'{vendor:<9}', colour)} {'     '.join(cells)}".rstrip(), flush=True)


def closing(found: Mapping[str, Any]) -> None:
    """The table, and where to read on."""
    heading("Side by side")
    rows = page.rows(found)
    for name, straight, buspass in (("", "straight", "through Buspass"), *rows):
        print(f"  {name:<36}{straight:<42}{buspass}".rstrip())
    heading("Through Buspass")
    for change in found["buspass"]["breakers"]:
        print(f"  breaker: {change}")
    print(f"  {paint('as it must be' if found['ok'] else 'NOT as it must be', 'green' if found['ok'] else 'red')}")
    print(f"  {found['all_seconds']:.1f} s in all; logs, tools and configuration in {found['run']}")
