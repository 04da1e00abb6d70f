"""Hand-worked costs of calls: from the usage that a provider writes, by the price that is published, to the micro-dollar."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest

from buspass.config import compose, prices
from buspass.config.document import parse
from buspass.providers import anthropic_usage, openai_usage
from buspass.providers.bounds import cost

PRICES = Path(__file__).parents[1] / "data" / "prices"
ROWS: Any = parse((PRICES / "golden.yaml").read_bytes(), "golden").data["rows"]
LISTED: Any = parse((PRICES / "listed.yaml").read_bytes(), "listed").data
SETTLED = datetime(2026, 11, 1, tzinfo=UTC)
PUBLISHED = ("input", "output", "cached_input", "cache_write", "cache_write_1h")
READERS = {"openai": openai_usage.usage, "anthropic": anthropic_usage.usage}
by_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['target']}: {row['what']}")


def terms(row: Any) -> list[tuple[int, Decimal]]:
    """The hand's own arithmetic: (tokens, USD per million)."""
    pairs = [term.split(" x ") for term in row["sum"].split(" + ")]
    return [(int(tokens), Decimal(price)) for tokens, price in pairs]


@by_row
def test_a_calls_cost_is_what_a_hand_works_out(row: Any) -> None:
    name, _, model = row["target"].partition("/")
    listed = prices.listed(name, model, SETTLED)
    assert listed is not None
    used = READERS[row["api"]](row["says"])
    assert used.known
    assert cost(compose.whole(listed, row["api"]), used) == row["cost"]
    assert used.input + used.output == sum(tokens for tokens, _ in terms(row)), "every token is paid for once"


@by_row
def test_the_hand_worked_by_published_prices_and_did_not_slip(row: Any) -> None:
    total = sum((tokens * price for tokens, price in terms(row)), Decimal(0))
    assert int(total.to_integral_value(ROUND_CEILING)) == row["cost"]
    target = LISTED["prices"][row["target"]]
    published = [
        {name: page[name] for name in PUBLISHED if name in page} for page in (target, *target.get("tiers", []))
    ]
    used = {price for _, price in terms(row)}
    assert any(used <= {Decimal(str(price)) for price in page.values()} for page in published), "of one tier"


def test_every_kind_of_price_has_a_row() -> None:
    """Cache reads and writes, reasoning and tiers of each wire format, as far as its providers list them."""
    read = [(row["api"], READERS[row["api"]](row["says"])) for row in ROWS]
    for api in READERS:
        for part in ("cached", "cache_write", "reasoning"):
            assert any(getattr(used, part) for name, used in read if name == api), (api, part)
    assert any(used.cache_write_1h for _, used in read)
    tiered = [row for row in ROWS if "tiers" in LISTED["prices"][row["target"]]]
    assert {row["api"] for row in tiered} == set(READERS)
    assert {row["target"] for row in ROWS} == set(LISTED["prices"]), "each listed model is worked through"
