"""What an attempt can use at most, and what tokens cost: integers, never below the truth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from buspass.config.settings import Price, Target, Tier
from buspass.errors import Problem
from buspass.model import Ask, Usage
from buspass.providers.bounds import OVERHEADS, Bound, bound, ceiling, cost, plain_ceiling, rates
from buspass.providers.openai_usage import usage

PRICE = Price(input=250_000, output=2_000_000, cached_input=25_000, version="test")  # USD 0.25, 2.00, 0.025 per million
FREE = Price(input=0, output=0, cached_input=0, version="test")
TARGET = Target(provider="sim", model="planner-1", weight=1, price=PRICE)
ASK = Ask(surface="openai.chat", model="plan", payload={"messages": [{"role": "user", "content": "x" * 100}]}, tools=(), n=1, max_output=None, input_bytes=104, messages=1, metadata={})  # fmt: skip
SIZES = st.integers(0, 10**7)
PRICES = st.integers(0, 10**9)


TIERS = st.lists(st.builds(Tier, start=SIZES, input=PRICES, output=PRICES, cached_input=PRICES), max_size=2)
ANY_PRICE = st.builds(
    Price,
    input=PRICES,
    output=PRICES,
    cached_input=PRICES,
    version=st.just("test"),
    cache_write=st.none() | PRICES,
    cache_write_1h=st.none() | PRICES,
    tiers=st.just(()) | st.just(()) | TIERS.map(tuple),
)
CACHES = st.sampled_from(["no", "auto", "5m", "1h"])
BOUNDS = st.builds(Bound, input_tokens=SIZES, output_tokens=SIZES, max_output=st.just(1), caches=CACHES)


@given(st.lists(st.none() | ANY_PRICE, max_size=3), BOUNDS)
def test_the_ceiling_of_plain_prices_is_the_ceiling(prices, most):
    found = plain_ceiling([rates(price) for price in prices], most)
    assert (found is None) == any(price is None or price.tiers for price in prices)
    if found is not None:
        assert found == ceiling([replace(TARGET, price=price) for price in prices], most, limited=True)


def test_a_flat_ask_is_bounded_as_one_that_is_looked_through():
    assert bound(replace(ASK, flat=True), TARGET, 256) == bound(ASK, TARGET, 256)


def test_the_alias_limit_is_applied_where_the_client_has_none():
    assert bound(ASK, TARGET, 256).max_output == 256
    assert bound(replace(ASK, max_output=9000), TARGET, 256).max_output == 9000


def test_policy_narrows_the_answer_and_never_widens_it():
    assert bound(replace(ASK, max_output=900), TARGET, 256, at_most=100).max_output == 100
    assert bound(ASK, TARGET, 256, at_most=1000).max_output == 256


def test_each_choice_is_paid_for():
    most = bound(replace(ASK, n=8), TARGET, 256)
    assert (most.output_tokens, most.max_output) == (8 * 256, 256)
    assert most.tokens == most.input_tokens + 8 * 256


@given(SIZES, st.integers(1, 500), st.integers(0, 128))
def test_input_is_bounded_by_bytes_and_what_the_provider_adds(size, messages, tools):
    ask = replace(ASK, input_bytes=size, messages=messages, tools=tuple(map(str, range(tools))))
    most = bound(ask, TARGET, 1).input_tokens
    assert most >= size + 4 * messages + 12 * tools + 3  # OpenAI's own count of its template
    assert bound(replace(ask, input_bytes=size + 1), TARGET, 1).input_tokens == most + 1
    assert bound(replace(ask, messages=messages + 1), TARGET, 1).input_tokens > most
    assert bound(replace(ask, tools=(*ask.tools, "one")), TARGET, 1).input_tokens > most


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", None])
def test_content_without_a_formula_is_unbounded(kind):
    pictures = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]}]}
    with pytest.raises(Problem) as caught:
        bound(replace(ASK, payload=pictures), TARGET, 1)
    assert caught.value.code == "unbounded"
    assert caught.value.errors[0]["path"] == "messages[0].content[1]"


def test_an_answer_without_a_limit_is_unbounded():
    with pytest.raises(Problem, match="unbounded"):
        bound(ASK, TARGET, 0)


def test_a_wire_format_without_measured_overhead_is_unbounded():
    assert "smoke-signals" not in OVERHEADS
    with pytest.raises(Problem, match="unbounded"):
        bound(ASK, TARGET, 1, api="smoke-signals")


COSTS = [
    (Usage(input=0, output=0), 0),
    (Usage(input=1, output=0), 1),  # a quarter of a micro-dollar
    (Usage(input=4, output=0), 1),
    (Usage(input=5, output=0), 2),
    (Usage(input=1_000_000, output=0), 250_000),
    (Usage(input=0, output=1_000_000), 2_000_000),
    (Usage(input=1_000_000, output=0, cached=1_000_000), 25_000),
    (Usage(input=2006, output=300, cached=1920, reasoning=256), 670),  # 21.5 + 48 + 600 micro-dollars
    (Usage(input=3, output=0, cached=50), 1),  # nonsense is not negative money
]


@pytest.mark.parametrize(("usage", "micro"), COSTS)
def test_cost_is_rounded_up_once(usage, micro):
    assert cost(PRICE, usage) == micro


def test_a_target_without_a_price_costs_nothing():
    assert cost(None, Usage(input=10, output=10)) == 0


@given(PRICES, PRICES, PRICES, SIZES, SIZES, SIZES)
def test_usage_within_the_bound_never_costs_more_than_the_ceiling(dear, out, cheap, given_, made, cached):
    price = Price(input=dear, output=out, cached_input=cheap, version="test")
    most = Bound(input_tokens=given_, output_tokens=made, max_output=max(1, made))
    spent = cost(price, Usage(input=given_, output=made, cached=min(cached, given_)))
    assert spent <= ceiling([replace(TARGET, price=price)], most, limited=True)


# USD 3, 15, 0.30, 3.75, 6 per million; above 200,000 tokens of input 6, 22.50, 0.60, 7.50, 12
LONG = Price(
    input=3_000_000,
    output=15_000_000,
    cached_input=300_000,
    cache_write=3_750_000,
    cache_write_1h=6_000_000,
    version="test",
    tiers=(
        Tier(
            start=200_000,
            input=6_000_000,
            output=22_500_000,
            cached_input=600_000,
            cache_write=7_500_000,
            cache_write_1h=12_000_000,
        ),
    ),
)
TIERED = [
    (Usage(input=200_000, output=1000), 600_000 + 15_000),  # at its start a tier is not reached
    (Usage(input=200_001, output=1000), 1_200_006 + 22_500),  # above it all tokens cost more, the answer's too
    (Usage(input=250_000, output=0, cached=250_000), 150_000),  # what came from the cache is input as well
    (Usage(input=250_000, output=0, cache_write=250_000), 1_875_000),
    (Usage(input=250_000, output=0, cache_write=250_000, cache_write_1h=250_000), 3_000_000),
    (Usage(input=100_000, output=0, cache_write=100_000, cache_write_1h=40_000), 225_000 + 240_000),
]


@pytest.mark.parametrize(("usage", "micro"), TIERED)
def test_the_row_of_the_real_input_is_settled(usage, micro):
    assert cost(LONG, usage) == micro


def test_the_dearest_row_that_the_bound_can_reach_is_held():
    most = Bound(input_tokens=199_999, output_tokens=1000, max_output=1000)
    assert ceiling([replace(TARGET, price=LONG)], most, limited=True) == 599_997 + 15_000
    assert (
        ceiling([replace(TARGET, price=LONG)], replace(most, input_tokens=200_000), limited=True) == 1_200_000 + 22_500
    )


def test_a_tier_that_is_cheaper_is_no_reason_to_hold_less():
    price = replace(LONG, tiers=(Tier(start=10, input=1, output=1, cached_input=1),))
    most = Bound(input_tokens=1_000_000, output_tokens=0, max_output=1)
    assert ceiling([replace(TARGET, price=price)], most, limited=True) == 3_000_000


def test_what_openai_writes_to_its_cache_unasked_is_held_too():
    most = bound(ASK, TARGET, 1, api="openai")
    assert most.caches == "auto"
    most = replace(most, input_tokens=1000, output_tokens=0)
    assert ceiling([replace(TARGET, price=LONG)], most, limited=True) == 3750
    assert ceiling([replace(TARGET, price=LONG)], replace(most, caches="no"), limited=True) == 3000
    assert bound(ASK, TARGET, 1, api="anthropic").caches == "no"


@given(
    st.lists(st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES), min_size=1, max_size=4),
    st.lists(SIZES, min_size=3, max_size=3, unique=True),
    st.tuples(SIZES, SIZES, SIZES, SIZES, SIZES),
)
def test_no_usage_within_the_bound_costs_more_than_is_held_whatever_the_tiers(rows, starts, sizes):
    most_in, used_in, made, cached, written = sizes
    base, *above = [
        dict(zip(("input", "output", "cached_input", "cache_write", "cache_write_1h"), row, strict=True))
        for row in rows
    ]
    tiers = tuple(Tier(start=start, **row) for start, row in zip(sorted(starts), above, strict=False))
    price = Price(**base, version="test", tiers=tiers)
    usage = Usage(
        input=min(used_in, most_in), output=made, cached=cached, cache_write=written, cache_write_1h=written // 2
    )
    most = Bound(input_tokens=most_in, output_tokens=made, max_output=max(1, made), caches="1h")
    assert cost(price, usage) <= ceiling([replace(TARGET, price=price)], most, limited=True)


def test_the_dearest_target_is_held():
    most = Bound(input_tokens=1000, output_tokens=1000, max_output=1000)
    assert ceiling([replace(TARGET, price=FREE), TARGET], most, limited=True) == 2250


def test_a_target_without_a_price_is_refused_only_where_cost_is_limited():
    most = Bound(input_tokens=1000, output_tokens=1000, max_output=1000)
    targets = [TARGET, replace(TARGET, price=None)]
    assert ceiling(targets, most, limited=False) == 2250
    with pytest.raises(Problem) as caught:
        ceiling(targets, most, limited=True)
    assert caught.value.code == "unpriced"
    assert "sim/planner-1" in caught.value.detail


def test_what_an_openai_model_wrote_to_its_cache_is_settled_at_the_price_of_writing():
    said = {
        "prompt_tokens": 1000,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 300},
    }
    used = usage(said)
    assert (used.input, used.cached, used.cache_write) == (1000, 200, 300)
    row = Price(input=1_000_000, output=0, cached_input=100_000, cache_write=1_250_000, version="v")
    assert cost(row, used) == 500 + 20 + 375
    assert usage(said | {"prompt_tokens": 400}).cache_write == 0  # parts that exceed the whole
