"""Bars as SVG, drawn by hand: nothing is loaded for it. Owns the drawing. Refuses to know what the bars mean."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, LABEL, BAR = 720, 250, 22
FONT = 'font-family="system-ui, sans-serif"'
COLOURS = ("#2f6f8f", "#c2703d", "#8a8f98", "#5b8c5a")


def bars(title: str, unit: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Each row is a label with its least, middle and most; a bar is as long as the middle, a line spans the others."""
    most = max((row[3] for row in rows), default=1) or 1
    scale = (WIDTH - LABEL - 110) / most
    height = 40 + len(rows) * (BAR + 10)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-size="13" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="22" font-weight="600" fill="#222">{escape(title)} ({escape(unit)})</text>',
    ]
    for number, (label, least, middle, top) in enumerate(rows):
        y = 36 + number * (BAR + 10)
        colour = COLOURS[0] if label.startswith("buspass") or "governed" in label else COLOURS[2]
        long, x0, x1 = middle * scale, LABEL + least * scale, LABEL + top * scale
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end" fill="#222">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{long:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{x0:.1f} {y + BAR / 2}H{x1:.1f}" stroke="#111" stroke-width="1.5"/>',
            f'<text x="{max(long, top * scale) + LABEL + 6:.1f}" y="{y + 16}" fill="#222">{figure(middle)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def figure(value: float) -> str:
    """To three digits, as people read them."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"
