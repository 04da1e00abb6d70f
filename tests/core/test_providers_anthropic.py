"""Anthropic's wire format: the request that leaves, the answers of tests/data/anthropic, failures, what it may cost."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from buspass.config.settings import Auth, Price, Provider, Target
from buspass.model import Ask, Failure, Usage
from buspass.ports.outbound import Response
from buspass.providers.anthropic import answer, request, usage
from buspass.providers.bounds import Bound, bound, ceiling, cost

DATA = Path(__file__).parents[1] / "data" / "anthropic"
PROVIDER = Provider(name="claude", api="anthropic", base_url="https://api.anthropic.com", auth=Auth(kind="header", header="x-api-key", secret="KEY"))  # fmt: skip
PRICE = Price(input=3_000_000, output=15_000_000, cached_input=300_000, version="test")  # USD 3, 15, 0.30 per million
TARGET = Target(provider="claude", model="claude-sonnet-4-5", weight=1, price=PRICE)
ASK = Ask(surface="anthropic.messages", model="plan", payload={"messages": [{"role": "user", "content": "Größe?"}]}, tools=(), n=1, max_output=500, input_bytes=9, messages=1, metadata={}, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "b1"})  # fmt: skip
CHAT = replace(ASK, surface="openai.chat", headers={})
MOST = Bound(input_tokens=300, output_tokens=256, max_output=256)


def sent(ask: Ask = ASK, provider: Provider = PROVIDER):
    return request(provider, TARGET, ask, MOST, "s3cret", 12.5, idle=5)


def recorded(name: str, status: int = 200):
    return Response(status=status, headers={}, body=(DATA / f"{name}.json").read_bytes())


def failure(response: Response) -> Failure:
    with pytest.raises(Failure) as caught:
        answer(response)
    return caught.value


@pytest.mark.parametrize("base", ["https://api.anthropic.com", "https://api.anthropic.com/v1"])
def test_a_request_goes_to_its_provider_with_the_bounded_output(base):
    out = sent(provider=replace(PROVIDER, base_url=base))
    assert (out.method, out.url, out.timeout, out.idle) == ("POST", "https://api.anthropic.com/v1/messages", 12.5, 5)
    assert json.loads(out.body) == {"model": "claude-sonnet-4-5", "messages": ASK.payload["messages"], "max_tokens": 256}  # fmt: skip
    assert "Größe?".encode() in out.body
    assert (out.headers["x-api-key"], out.headers["accept"]) == ("s3cret", "application/json")
    assert b"s3cret" not in out.body


def test_the_agents_version_and_betas_go_along_on_the_same_wire_only():
    assert (sent().headers["anthropic-version"], sent().headers["anthropic-beta"]) == ("2023-06-01", "b1")
    translated = sent(replace(CHAT, headers={"anthropic-beta": "b1"}))
    assert translated.headers["anthropic-version"] == "2026-10-21"
    assert "anthropic-beta" not in translated.headers
    sampled = sent(replace(CHAT, payload={**ASK.payload, "temperature": 0}))
    assert sampled.headers["anthropic-version"] == "2023-06-01"  # the newest takes no temperature


def test_a_stream_is_asked_for_as_one():
    out = sent(replace(ASK, stream=True))
    assert json.loads(out.body)["stream"] is True
    assert out.headers["accept"] == "text/event-stream"


ANSWERS = [
    ("text", Usage(input=19, output=10), "The order was delivered on 3 May.", [], "end_turn", "stop"),
    ("parallel_tool_use", Usage(input=312, output=48, reasoning=12), "I need the customer and the order.", [("toolu_01", "get_customer", '{"id": "C-1234"}'), ("toolu_02", "get_order", "{}")], "tool_use", "tool_calls"),
    ("cached", Usage(input=2006, output=4, cached=1500, cache_write=500, cache_write_1h=200), "Approved.", [], "stop_sequence", "stop"),
    ("refusal", Usage(input=25, output=1), "", [], "refusal", "content_filter"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "used", "text", "offers", "stop", "finish"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_an_answer_is_read_as_it_was_meant_on_both_surfaces(name, used, text, offers, stop, finish):
    own, chat = answer(recorded(name), ASK), answer(recorded(name), CHAT)
    for found in (own, chat):
        assert (found.usage, found.text) == (used, text)
        assert [(offer.id, offer.name, offer.arguments_text) for offer in found.offers] == offers
    assert (own.finish, chat.finish) == ((stop,), (finish,))
    assert own.document == json.loads((DATA / f"{name}.json").read_bytes())
    assert chat.document["choices"][0]["finish_reason"] == finish


USAGES = [
    (None, Usage(known=False)),
    ({}, Usage(known=False)),
    ({"input_tokens": 5}, Usage(known=False)),
    ({"input_tokens": 5, "output_tokens": -1}, Usage(known=False)),
    ({"input_tokens": 5, "output_tokens": True}, Usage(known=False)),
    ({"input_tokens": 0, "output_tokens": 0}, Usage()),
    ({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": None}, Usage(input=5, output=1)),
    ({"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 9}}, Usage(input=8, output=1, cache_write=3, cache_write_1h=3)),
    ({"input_tokens": 5, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 9}}, Usage(input=5, output=1, reasoning=1)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "read"), USAGES)
def test_usage_is_counted_or_unknown(said, read):
    assert usage(said) == read


STATUSES = [
    (400, "rejected", "no", False),
    (401, "forbidden", "no", True),
    (403, "forbidden", "no", True),
    (404, "forbidden", "no", True),
    (413, "rejected", "no", False),
    (429, "throttled", "no", True),
    (500, "failed", "unknown", False),
    (504, "failed", "unknown", False),
    (529, "throttled", "no", True),
]


@pytest.mark.parametrize(("status", "kind", "billed", "retryable"), STATUSES)
def test_a_status_says_what_failed_and_whether_it_may_have_cost(status, kind, billed, retryable):
    found = failure(recorded("error_overloaded", status))
    assert (found.status, found.kind, found.billed, found.retryable) == (status, kind, billed, retryable)


def test_an_empty_account_is_ours_to_mend_and_not_the_agents():
    found = failure(recorded("error_no_credit", 400))
    assert (found.kind, found.retryable, found.message) == ("forbidden", True, "")


def altered(**members) -> bytes:
    return json.dumps(json.loads((DATA / "text.json").read_bytes()) | members).encode()


MALFORMED = {
    "html": b"<html></html>",
    "truncated": b'{"type": "message", "content": [',
    "another type": altered(type="error"),
    "no stop reason": altered(stop_reason=None),
    "content is text": altered(content="x"),
    "a block is text": altered(content=["x"]),
    "a block without type": altered(content=[{"text": "x"}]),
    "a text without text": altered(content=[{"type": "text"}]),
    "input is text": altered(content=[{"type": "tool_use", "id": "t", "name": "f", "input": "{}"}]),
    "a call without id": altered(content=[{"type": "tool_use", "name": "f", "input": {}}]),
    "nested without end": b"[" * 200_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_200_that_is_no_answer_may_have_cost_something(body):
    found = failure(Response(status=200, headers={}, body=body))
    assert (found.kind, found.billed, found.retryable) == ("malformed", "unknown", False)


def test_what_a_cache_took_and_gave_has_its_own_price():
    assert cost(PRICE, Usage(input=1_000_000)) == 3_000_000
    assert cost(PRICE, Usage(input=1_000_000, cached=1_000_000)) == 300_000
    assert cost(PRICE, Usage(input=1_000_000, cache_write=1_000_000)) == 3_750_000
    assert cost(PRICE, Usage(input=1_000_000, cache_write=1_000_000, cache_write_1h=1_000_000)) == 6_000_000
    assert cost(PRICE, Usage(input=1, cached=9, cache_write=9, cache_write_1h=9)) == 1  # nonsense is not more money


@pytest.mark.parametrize(("caches", "micro"), [("no", 3_000_000), ("5m", 3_750_000), ("1h", 6_000_000)])
def test_what_may_be_written_to_a_cache_is_held_at_its_price(caches, micro):
    most = replace(bound(replace(ASK, caches=caches), TARGET, 1, api="anthropic"), input_tokens=1_000_000, output_tokens=0)  # fmt: skip
    assert ceiling([TARGET], most, limited=True) == micro
    long = 1_000_000 if caches == "1h" else 0
    written = Usage(input=1_000_000, cache_write=0 if caches == "no" else 1_000_000, cache_write_1h=long)
    assert cost(PRICE, written) <= micro
