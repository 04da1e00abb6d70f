"""Both providers' streams of tests/data, told to both surfaces: what was said, what it cost, and how it breaks."""

import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from buspass.model import Ask, Failure, Usage
from buspass.providers.wires import WIRES

DATA = Path(__file__).parents[1] / "data"


def ask(surface: str, n: int = 1) -> Ask:
    return Ask(surface=surface, model="plan", payload={}, tools=(), n=n, max_output=None, input_bytes=0, messages=1, metadata={}, stream=True)  # fmt: skip


CHAT, MESSAGES = ask("openai.chat"), ask("anthropic.messages")
ASKS = pytest.mark.parametrize("asked", [CHAT, MESSAGES], ids=["chat", "messages"])
APIS = pytest.mark.parametrize("api", ["openai", "anthropic"])


def recorded(api: str, name: str) -> bytes:
    return (DATA / api / f"{name}.sse").read_bytes()


def told(api: str, data: bytes, asked: Ask, *cuts: int):
    """All events, whole, and the decoder."""
    decoder, places = WIRES[api].decoder(asked), sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    events = [event for a, b in pairwise(places) for event in decoder.feed(data[a:b])]
    decoder.close()
    return events, decoder


def failure(api: str, data: bytes, asked: Ask = CHAT):
    decoder = WIRES[api].decoder(asked)
    with pytest.raises(Failure) as caught:  # noqa: PT012 - either may be the one that tells
        decoder.feed(data)
        decoder.close()
    return caught.value, decoder


USED = Usage(input=312, output=89, cached=100, reasoning=12)


@ASKS
def test_an_openai_stream_is_read_as_it_was_meant(asked):
    answer = told("openai", recorded("openai", "tools"), asked)[1].answer()
    assert (answer.text, answer.usage) == ("Größe: 😀", USED)
    assert [(o.id, o.name, o.arguments_text) for o in answer.offers] == [
        ("call_a1", "get_customer", '{"id": "C-1234"}'),
        ("call_a2", "get_order", "{}"),
    ]


@ASKS
def test_an_anthropic_stream_is_read_as_it_was_meant(asked):
    answer = told("anthropic", recorded("anthropic", "tools"), asked)[1].answer()
    cached = Usage(input=412, output=89, cached=100, reasoning=12)
    assert (answer.text, answer.thinking, answer.usage) == ("Größe: 😀", "Both are needed.\n", cached)
    assert [(o.id, o.name, o.arguments_text) for o in answer.offers] == [
        ("toolu_01", "get_customer", '{"id": "C-1234"}'),
        ("toolu_02", "get_order", "{}"),
    ]


def test_thinking_passes_untouched_and_unknown_blocks_leave_no_gap():
    events, decoder = told("anthropic", recorded("anthropic", "tools"), MESSAGES)
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2, 3, 4]
    assert decoder.answer().document["content"][:2] == [
        {"type": "thinking", "thinking": "Both are needed.\n", "signature": "EqQBCkYIBxgCKkA+/=="},
        {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"},
    ]
    signatures = [e["delta"]["signature"] for e in events if e.get("delta", {}).get("type") == "signature_delta"]
    assert signatures == ["EqQBCkYIBxgCKkA+/=="]


@APIS
@ASKS
def test_what_ends_a_stream_is_held_back_for_the_settle(api, asked):
    events, decoder = told(api, recorded(api, "tools"), asked)
    if asked is CHAT:
        assert {choice["finish_reason"] for event in events for choice in event["choices"]} == {None}
        assert decoder.answer().finish == ("tool_calls",)
    else:
        assert {"message_delta", "message_stop"}.isdisjoint(event["type"] for event in events)
        assert decoder.answer().finish == ("tool_use",)


@APIS
@ASKS
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_it_does_not_matter_where_the_network_cuts(api, asked, step):
    data = recorded(api, "tools")
    whole, decoder = told(api, data, asked)
    cut, again = told(api, data, asked, *range(0, len(data), step))
    assert cut == whole
    assert again.answer() == decoder.answer()


TOOL = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}
DELTAS = [*({"content": text} for text in "abcd"), {"content": "e", "role": "assistant"}, {"refusal": "no"}, {"content": ""}, {}]  # fmt: skip
SAID = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 1]), "delta": st.sampled_from([*DELTAS, *DELTAS, TOOL])},
    optional={
        "logprobs": st.sampled_from([None, {}, {"content": [{"token": "a"}]}]),
        "finish_reason": st.sampled_from([None, None, "stop"]),
    },
)
WRONG = st.sampled_from([{"index": index, "delta": {"content": "a"}} for index in (2, True, "0", None)] + [{"index": 0, "delta": 7}, 7])  # fmt: skip


@ASKS
@given(st.lists(SAID, max_size=12), st.lists(WRONG, max_size=1))
def test_more_of_a_text_is_what_any_choice_is(asked, choices, wrong):
    chunks = [{"id": "i", "created": 1, "choices": [choice]} for choice in choices + wrong]
    data = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)

    def events(decoder):
        found = []
        with suppress(Failure):
            for _ in range(2):  # what came before a failure, and it
                found += decoder.feed(data)
        return found, decoder.answer()

    quick, slow = (WIRES["openai"].decoder(replace(asked, n=2)) for _ in range(2))
    slow._more = lambda _: None
    assert events(quick) == events(slow)


@APIS
@ASKS
def test_nothing_of_the_provider_shows_but_what_is_listed(api, asked):
    events, _ = told(api, recorded(api, "tools"), asked)
    shown = repr(events)
    assert "obfuscation" not in shown
    assert "gpt-5" not in shown
    assert "claude" not in shown
    assert "web_search" not in shown


def test_a_local_server_may_do_it_its_own_way():
    events, decoder = told("openai", recorded("openai", "local"), CHAT)
    assert [event["choices"][0]["delta"].get("content") for event in events] == ["", "Yes", "."]
    assert (decoder.answer().usage, decoder.answer().finish) == (Usage(input=9, output=2), ("stop",))


def test_choices_stay_apart():
    _, decoder = told("openai", recorded("openai", "two_choices"), ask("openai.chat", n=2))
    answer = decoder.answer()
    assert (answer.text, answer.finish) == ("Yes.\n\nNo.", ("stop", "stop"))
    assert failure("openai", recorded("openai", "two_choices"))[0].kind == "malformed"  # one was asked for


def test_who_refuses_refuses_on_both_surfaces():
    assert told("openai", recorded("openai", "refusal"), CHAT)[1].answer().document["choices"][0]["message"]["refusal"]
    events, decoder = told("openai", recorded("openai", "refusal"), MESSAGES)
    assert decoder.answer().finish == ("refusal",)
    assert "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta") == "I can't help."


@APIS
def test_a_cut_stream_is_broken_and_its_usage_unknown(api):
    data = recorded(api, "tools")
    for end in range(
        len(data) // 10,
        data.index(b'"stop_reason": "tool_use"' if api == "anthropic" else b'"finish_reason": "tool_calls"'),
        97,
    ):
        found, decoder = failure(api, data[:end])
        assert (found.kind, found.billed) in {("broken", "unknown"), ("malformed", "unknown")}
        answer = decoder.answer()
        assert "Größe: 😀".startswith(answer.text)
        assert not answer.usage.known
    half = data.index(b'{\\"id\\": \\"C') + 20
    assert failure(api, data[:half])[1].answer().offers == ()  # half a call licenses nothing


def test_a_stream_without_its_usage_is_whole_and_not_free():
    data = recorded("openai", "tools")
    end = data.index(b"data: ", data.index(b'"finish_reason": "tool_calls"'))
    _, decoder = told("openai", data[:end], CHAT)
    assert (decoder.ended, decoder.answer().usage.known, decoder.answer().finish) == (True, False, ("tool_calls",))


def test_what_anthropic_said_of_the_input_is_kept_when_the_stream_breaks():
    data = recorded("anthropic", "tools")
    _, decoder = failure("anthropic", data[: data.index(b"event: message_delta")])
    assert decoder.answer().usage == Usage(input=412, output=2, cached=100, known=False)


@pytest.mark.parametrize(("api", "name", "kind"), [("openai", "error", "failed"), ("anthropic", "overloaded", "throttled")])  # fmt: skip
@ASKS
def test_an_error_event_fails_after_what_came_before_it(api, name, kind, asked):
    decoder = WIRES[api].decoder(asked)
    assert decoder.feed(recorded(api, name))
    for again in (decoder.close, lambda: decoder.feed(b"data: {}\n\n")):
        with pytest.raises(Failure) as caught:
            again()
        assert (caught.value.kind, caught.value.billed, caught.value.retryable) == (kind, "unknown", False)
    assert decoder.answer().text == "Half"


MALFORMED = {
    "html": b"<html><body>Welcome</body></html>",
    "nothing": b"",
    "no JSON": b"data: {\n\n",
    "NaN": b'data: {"choices": NaN}\n\n',
    "a list": b"data: []\n\n",
    "no UTF-8": b"data: \xff\n\n",
    "done at once": b"data: [DONE]\n\n",
    "choices are text": b'data: {"choices": "x"}\n\n',
    "a choice is text": b'data: {"choices": ["x"]}\n\n',
    "delta is a list": b'data: {"choices": [{"index": 0, "delta": []}]}\n\n',
    "content is a number": b'data: {"choices": [{"index": 0, "delta": {"content": 7}}]}\n\n',
    "a call is text": b'data: {"choices": [{"index": 0, "delta": {"tool_calls": ["x"]}}]}\n\n',
    "a call without id": b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}\n\n',
    "stop before start": b'data: {"type": "message_stop"}\n\n',
    "message is text": b'data: {"type": "message_start", "message": "x"}\n\n',
    "nested without end": b"data: " + b"[" * 200_000 + b"\n\n",
}


@APIS
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_stream_may_have_cost_something(api, data):
    found, _ = failure(api, data)
    assert (found.kind, found.billed, found.retryable) == ("malformed", "unknown", False) or (
        found.kind == "broken" and b"choices" in data and api == "openai"
    )


BROKEN = [
    b'{"type": "message_start", "message": {}}',
    b'{"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}}',
    b'{"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "", "name": "f"}}',
    b'{"type": "content_block_start", "content_block": {"type": "text"}}',
    b'{"type": "message_delta", "delta": []}',
    b'{"type": "message_stop"}',
]


@pytest.mark.parametrize("event", BROKEN)
def test_anthropic_events_out_of_order_are_malformed(event):
    start = b'data: {"type": "message_start", "message": {"id": "m", "usage": null}}\n\n'
    assert failure("anthropic", start + b"data: " + event + b"\n\n")[0].kind == "malformed"


@APIS
@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_a_failure_or_an_answer_and_nothing_else(api, data):
    """Flip bytes of a recorded stream: whatever comes of it, no other exception does."""
    body = bytearray(recorded(api, "tools"))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] = data.draw(st.sampled_from(b'{}[]":,0x\n\xff'))
    for asked in (CHAT, MESSAGES):
        decoder = WIRES[api].decoder(asked)
        try:
            decoder.feed(bytes(body))
            decoder.close()
        except Failure:
            pass
        decoder.answer()
