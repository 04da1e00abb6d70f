"""`buspass models` shows what a configuration's models cost, and by whose list."""

import json
import os

import pytest

from buspass import cli

SHOP = """version: 1
providers:
  p: {api: openai, base_url: https://p.example, auth: none}
prices: {p/m: {input: 1.25, output: 10}}
models:
  plan: {strategy: weighted, targets: [{provider: p, model: m, weight: 9}, {provider: p, model: n, weight: 1}]}
  mine: {targets: [{provider: p, model: m}]}
workflows: {w: {models: [plan, mine, anthropic/claude-sonnet-4-5]}}
"""


@pytest.fixture
def buspass(capsys, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("BUSPASS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").write_text(SHOP)

    def run(*words):
        code = cli.main(["models", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_aliases_stand_with_their_targets_prices_and_where_these_come_from(buspass):
    code, out, err = buspass("--config", "shop.yaml")
    assert (code, err) == (0, "")
    plan, unpriced, mine, sonnet, above = cells(out)[1:6]
    own = ["1.25", "1.25", "1.25", "1.25", "10.00", "file"]
    assert plan == ["plan", "p/m", "(9)", *own]
    assert unpriced == ["p/n", "(1)", "-", "-", "-", "-", "-", "none"]
    assert mine == ["mine", "p/m", *own]
    assert sonnet[2:] == ["3.00", "0.30", "3.75", "6.00", "15.00", "genai-prices", "0.2.3"]
    assert above == ["6.00", "0.60", "7.50", "12.00", "22.50", "input", "above", "200,000"]


def test_the_configuration_is_found_as_up_finds_it(buspass, monkeypatch, tmp_path):
    assert buspass()[0] == 2
    monkeypatch.setenv("BUSPASS_CONFIG", "shop.yaml")
    named = buspass()
    monkeypatch.delenv("BUSPASS_CONFIG")
    (tmp_path / "buspass.yaml").write_text(SHOP)
    assert named == buspass()
    assert named[0] == 0


def test_machines_get_usd_per_million_tokens(buspass):
    first, second, *_ = json.loads(buspass("--config", "shop.yaml", "--json")[1])["data"]
    assert (first["alias"], first["target"], first["weight"], first["strategy"]) == ("plan", "p/m", 9, "weighted")
    assert (first["price"]["input"], first["price"]["output"], first["price"]["version"]) == (1.25, 10.0, "file")
    assert second["price"] is None


def test_two_models_stand_side_by_side_tier_by_tier(buspass):
    code, out, _ = buspass("diff", "openai/gpt-4o", "anthropic/claude-sonnet-4-5")
    rows = cells(out)
    assert code == 0
    assert ["input", "2.50", "3.00", "+20%"] in rows
    assert ["output", "10.00", "15.00", "+50%"] in rows
    assert ["output", "above", "200,000", "10.00", "22.50", "+125%"] in rows
    both = json.loads(buspass("diff", "openai/gpt-4o", "anthropic/claude-sonnet-4-5", "--json")[1])
    assert both["anthropic/claude-sonnet-4-5"]["tiers"][0] == {
        "start": 200_000, "input": 6.0, "cached_input": 0.6, "cache_write": 7.5, "cache_write_1h": 12.0, "output": 22.5,
    }  # fmt: skip


def test_an_alias_is_compared_at_the_files_own_price(buspass):
    _, out, _ = buspass("diff", "mine", "openai/gpt-4o", "--config", "shop.yaml")
    assert ["input", "1.25", "2.50", "+100%"] in cells(out)
    _, out, _ = buspass("diff", "p/m", "openai/gpt-4o", "--config", "shop.yaml")
    assert ["price", "file", "genai-prices", "0.2.3"] in cells(out)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["diff", "openai/gpt-9", "openai/gpt-4o"], 1, "no price for 'openai/gpt-9': an alias, or PROVIDER/MODEL; near: openai/gpt-"),
        (["diff", "gpt-4o", "openai/gpt-4o"], 1, "no price for 'gpt-4o': an alias, or PROVIDER/MODEL"),
        (["diff", "plan", "mine", "--config", "shop.yaml"], 2, "plan has 2 targets; name one of them: p/m, p/n"),
        (["diff", "openai/gpt-4o"], 2, "which models? allowed: nothing, or diff A B"),
        (["list"], 2, "which models?"),
        (["--provider", "nobody"], 1, "no price list knows a provider 'nobody'"),
        (["--config", "none.yaml"], 2, "none.yaml:1:1 (document): cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_sentence(buspass, words, code, said):
    found = buspass(*words)
    assert found[:2] == (code, "")
    assert found[2].startswith(said)


def test_who_is_sent_here_by_a_missing_price_finds_the_list(buspass, tmp_path):
    (tmp_path / "buspass.yaml").write_text("version: 1\nworkflows: {w: {models: [openai/gpt-9], budget: {cost: 1}}}\n")
    code, _, err = buspass()
    assert code == 2
    assert err.splitlines()[0].endswith("no price for 'openai/gpt-9'; see 'buspass models', or add prices:")
    assert "buspass models --provider P" in err
    code, out, _ = buspass("--provider", "openai")
    assert code == 0
    assert ["openai/gpt-5-mini", "0.25", "0.025", "-", "-", "2.00", "genai-prices", "0.2.3"] in cells(out)
    assert json.loads(buspass("--provider", "openai", "--json")[1])["data"]["gpt-5-mini"]["output"] == 2.0
