"""The factory's parts and its vendors' rules: always the same ones.

Owns what is true in the example. Pure data and functions; refuses to know HTTP, agents and gateways. Money is in euros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`last`: the last price paid for one piece; its vendor sells at that and above. `needed`: pieces to be bought."""

    id: str
    name: str
    vendor: str
    last: float
    stock: int
    needed: int

    @property
    def ceiling(self) -> float:
        """What the company pays at most."""
        return round(self.last * 1.25, 2)


def _part(number: int, name: str, vendor: str, last: float, stock: int, needed: int) -> Part:
    return Part(id=f"P-{number}", name=name, vendor=vendor, last=last, stock=stock, needed=needed)


PARTS: Final = {
    part.id: part
    for part in (
        _part(2201, "pump housing, cast iron", "Halvorsen Castings", 148.00, 6, 40),
        _part(2207, "impeller, bronze", "Halvorsen Castings", 212.50, 2, 24),
        _part(3110, "shaft seal 32 mm", "Ostwald Seals", 38.40, 15, 120),
        _part(3118, "shaft seal 45 mm", "Ostwald Seals", 51.90, 9, 80),
        _part(4402, "bearing 6206-2RS", "Moreau Bearings", 12.80, 44, 400),
        _part(4409, "bearing 6312", "Moreau Bearings", 46.20, 11, 90),
        _part(5015, "servo motor 2.2 kW", "Tanaka Drives", 684.00, 1, 8),
        _part(5021, "frequency converter 4 kW", "Tanaka Drives", 529.00, 0, 6),
    )
}


def replied(part: Part, price: float) -> tuple[str, float, str]:
    """A vendor's answer to an offer: status, price, and what the e-mail says."""
    if price >= part.last:
        return "accepted", price, f"Agreed, {price:.2f} EUR a piece for {part.id}. We confirm as soon as you order."
    counter = round(part.last + (part.last - price) / 2, 2)
    return (
        "counter",
        counter,
        f"{price:.2f} EUR is below our cost for {part.id}; we can do {counter:.2f} EUR.",
    )
