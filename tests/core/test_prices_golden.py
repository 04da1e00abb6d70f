"""What a call costs, against rows worked out by hand from the providers' published prices."""

from pathlib import Path

import pytest
import yaml

from buspass.config import prices
from buspass.config.compose import whole
from buspass.config.settings import Target
from buspass.model import Usage
from buspass.providers.bounds import Bound, ceiling, cost

ROWS = yaml.safe_load((Path(__file__).parents[1] / "data" / "prices" / "golden.yaml").read_text("utf-8"))


def priced(target):
    provider, _, model = target.partition("/")
    found = prices.listed(provider, model)
    assert found is not None
    return whole(found, provider)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['target']} {row['sum']}")
def test_a_call_costs_what_the_published_price_says(row):
    assert cost(priced(row["target"]), Usage(**row["usage"])) == row["micro"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['target']} {row['sum']}")
def test_a_hold_of_that_size_covers_it(row):
    usage, price = row["usage"], priced(row["target"])
    target = Target(provider="p", model="m", weight=1, price=price)
    caches = "1h" if "cache_write_1h" in usage else "auto"
    most = Bound(
        input_tokens=usage["input"], output_tokens=usage["output"], max_output=usage["output"] or 1, caches=caches
    )
    assert ceiling([target], most, limited=True) >= row["micro"]


def test_every_kind_of_token_and_every_priced_api_has_a_row():
    assert {row["target"].partition("/")[0] for row in ROWS} == {"openai", "azure-openai", "anthropic"}
    kinds = {"input", "output", "cached", "cache_write", "cache_write_1h", "reasoning"}
    assert {name for row in ROWS for name in row["usage"]} == kinds
