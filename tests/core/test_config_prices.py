"""What a model costs is what the provider's public list says, in whole pico-dollars, or nothing is said."""

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from genai_prices.types import ClauseEquals, ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices
from genai_prices.types import Tier as Row

from buspass.config import compose, prices
from buspass.config.build import Surroundings
from buspass.config.build import compile as build
from buspass.config.document import parse
from buspass.config.settings import Auth, Price

GOLDEN = parse((Path(__file__).parents[1] / "data" / "prices" / "listed.yaml").read_bytes(), "listed").data
SETTLED = datetime(2026, 11, 1, tzinfo=UTC)
ROWS = ("input", "output", "cached_input", "cache_write", "cache_write_1h")


def pico(row):
    return {name: int(Decimal(str(row[name])) * 10**6) if name in row else None for name in ROWS}


def as_written(price):
    return {name: getattr(price, name) for name in ROWS}


def built(text, tmp_path):
    where = Surroundings(folder=tmp_path, environ={"HOME": "/home/me"}, bind="127.0.0.1", port=8700)
    return build(parse(f"version: 1\n{text}".encode(), "f"), where)


@pytest.fixture
def only(monkeypatch):
    """Let a list `lab` be all there is, with one model of these prices."""

    def put(given):
        model = ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=given)
        lab = SimpleNamespace(id="lab", provider_match=None, models=[model], find_model=lambda _, all_providers: model)
        monkeypatch.setattr(prices, "_providers", lambda: [lab])

    return put


@pytest.mark.parametrize("target", GOLDEN["prices"])
def test_a_golden_row_is_as_it_was(target):
    name, _, model = target.partition("/")
    found, wanted = prices.listed(name, model, SETTLED), GOLDEN["prices"][target]
    assert as_written(found) == pico(wanted)
    assert [(tier.start, as_written(tier)) for tier in found.tiers] == [
        (tier["start"], pico(tier)) for tier in wanted.get("tiers", [])
    ]
    assert found.version == GOLDEN["version"]


@pytest.mark.parametrize("target", GOLDEN["unpriced"])
def test_what_is_not_surely_known_has_no_price(target):
    assert prices.listed(*target.split("/", 1), SETTLED) is None


def test_every_price_of_the_built_in_providers_is_whole_and_sane():
    for name in compose.IMPLICIT:
        found = prices.models(name, SETTLED)
        assert len(found) > 20
        for model, price in found.items():
            for row in (price, *price.tiers):
                assert 0 < row.cached_input <= row.input <= 10**9, model
                assert 0 < row.output <= 10**9, model


def test_a_dated_name_is_found_as_the_provider_writes_it():
    assert prices.listed("anthropic", "claude-sonnet-4-5-20250929") == prices.listed("anthropic", "claude-sonnet-4-5")


def test_the_day_decides_which_price_is_in_force(only):
    def cost(dollars):
        return ModelPrice(input_mtok=Decimal(dollars), output_mtok=Decimal(dollars))

    new = StartDateConstraint(start_date=date(2026, 6, 1))
    only([ConditionalPrice(prices=cost(1)), ConditionalPrice(constraint=new, prices=cost(2))])
    assert prices.listed("lab", "m", datetime(2026, 5, 31, tzinfo=UTC)).input == 1_000_000
    assert prices.listed("lab", "m", datetime(2026, 6, 1, tzinfo=UTC)).input == 2_000_000


def test_a_price_with_more_decimals_than_ours_is_rounded_up(only):
    only(ModelPrice(input_mtok=Decimal("0.0000001"), output_mtok=Decimal("0.1234561")))
    found = prices.listed("lab", "m")
    assert (found.input, found.output) == (1, 123_457)


def test_a_row_that_has_no_tier_stays_where_others_rise(only):
    tiered = TieredPrices(base=Decimal(1), tiers=[Row(start=300, price=Decimal(4)), Row(start=100, price=Decimal(2))])
    only(ModelPrice(input_mtok=tiered, output_mtok=Decimal(5)))
    found = prices.listed("lab", "m")
    assert (found.input, found.output, found.cached_input) == (1_000_000, 5_000_000, 1_000_000)
    assert [(tier.start, tier.input, tier.output) for tier in found.tiers] == [
        (100, 2_000_000, 5_000_000),
        (300, 4_000_000, 5_000_000),
    ]


def test_a_fee_for_each_call_is_more_than_its_tokens_cost(only):
    base = {"input_mtok": Decimal(1), "output_mtok": Decimal(1)}
    only(ModelPrice(**base, web_searches_kcount=Decimal(10)))
    assert prices.listed("lab", "m").input == 1_000_000
    only(ModelPrice(**base, requests_kcount=Decimal(5)))
    assert prices.listed("lab", "m") is None


def test_what_the_file_says_of_caches_is_taken_and_the_rest_filled_in(tmp_path):
    text = """prices:
  o/a: {input: 1, output: 2}
  o/b: {input: 1, output: 2, cached_input: 0.1, cache_write: 1.5}
  c/a: {input: 1, output: 2}
  c/b: {input: 1, output: 2, cache_write: 1.5, cache_write_1h: 3}
providers:
  o: {api: openai, base_url: https://o.example, auth: none}
  c: {api: anthropic, base_url: https://c.example, auth: none}
workflows: {w: {models: [o/a, o/b, c/a, c/b], budget: {cost: 1}}}
"""
    plain = {"input": 1_000_000, "output": 2_000_000, "version": "file"}
    found = {alias: model.targets[0].price for alias, model in built(text, tmp_path).models.items()}
    assert found == {
        "o/a": Price(**plain, cached_input=1_000_000, cache_write=1_000_000, cache_write_1h=1_000_000),
        "o/b": Price(**plain, cached_input=100_000, cache_write=1_500_000, cache_write_1h=1_500_000),
        "c/a": Price(**plain, cached_input=1_000_000),  # 1.25 and 2 times the input, as Anthropic's list says
        "c/b": Price(**plain, cached_input=1_000_000, cache_write=1_500_000, cache_write_1h=3_000_000),
    }


def test_an_implicit_alias_brings_anthropic_with_its_key_in_its_own_header(tmp_path):
    found = built("workflows: {w: {models: [anthropic/claude-opus-4-5], budget: {cost: 1}}}", tmp_path)
    provider = found.providers["anthropic"]
    assert (provider.api, provider.base_url) == ("anthropic", "https://api.anthropic.com")
    assert provider.auth == Auth(kind="header", header="x-api-key", secret="ANTHROPIC_API_KEY")
    assert found.models["anthropic/claude-opus-4-5"].targets[0].price.output == 25_000_000


def test_weights_reach_the_settings(tmp_path):
    text = """providers: {p: {api: openai, base_url: https://p.example, auth: none}}
models: {m: {strategy: weighted, targets: [{provider: p, model: a, weight: 95}, {provider: p, model: b}]}}
workflows: {w: {models: [m]}}
"""
    model = built(text, tmp_path).models["m"]
    assert (model.strategy, [target.weight for target in model.targets]) == ("weighted", [95, 1])


def test_a_file_that_prices_its_models_itself_loads_no_lists(tmp_path):
    (tmp_path / "b.yaml").write_text(
        "version: 1\nprices: {openai/x: {input: 1, output: 1}}\nworkflows: {w: {models: [openai/x]}}\n"
    )
    code = (
        "import sys; from pathlib import Path; from buspass.config.build import load; "
        f"load(Path({str(tmp_path / 'b.yaml')!r}), environ={{'HOME': '/h'}}); print('genai_prices' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert run.stdout == "False\n"
