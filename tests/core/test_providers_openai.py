"""OpenAI's wire format: the request that leaves, the answers of tests/data/openai, the failures and what they cost."""

import copy
import json
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from buspass.config.settings import Auth, Provider, Target
from buspass.model import Ask, Failure, Usage
from buspass.ports.outbound import Ambiguous, NotSent, Response, TimedOut
from buspass.providers import failures, openai, openai_plain
from buspass.providers.bounds import Bound
from buspass.providers.decoding import told
from buspass.providers.document import MOST as LARGEST
from buspass.providers.document import count
from buspass.providers.openai import answer, request, usage
from buspass.surfaces.chat_answer import render

DATA = Path(__file__).parents[1] / "data" / "openai"
PROVIDER = Provider(
    name="openai", api="openai", base_url="https://api.openai.com/v1", auth=Auth(kind="bearer", secret="KEY")
)
TARGET = Target(provider="openai", model="gpt-5-mini", weight=1, price=None)
ASK = Ask(surface="openai.chat", model="plan", payload={"messages": [{"role": "user", "content": "Größe?"}]}, tools=(), n=1, max_output=None, input_bytes=9, messages=1, metadata={})  # fmt: skip
MOST = Bound(input_tokens=300, output_tokens=512, max_output=256)


def sent(ask: Ask = ASK, provider: Provider = PROVIDER):
    return request(provider, TARGET, ask, MOST, "s3cret", 12.5)


def recorded(name: str, status: int = 200, **headers):
    return Response(status=status, headers=headers, body=(DATA / f"{name}.json").read_bytes())


def failure(response: Response) -> Failure:
    with pytest.raises(Failure) as caught:
        answer(response)
    return caught.value


def test_a_request_names_the_targets_model_and_goes_to_its_provider():
    out = sent()
    assert (out.method, out.url, out.timeout) == ("POST", "https://api.openai.com/v1/chat/completions", 12.5)
    assert out.headers["content-type"] == "application/json"
    document = json.loads(out.body)
    assert document["model"] == "gpt-5-mini"
    assert "Größe?".encode() in out.body


@pytest.mark.parametrize(
    ("payload", "member"),
    [
        ({}, "max_completion_tokens"),
        ({"max_completion_tokens": 9}, "max_completion_tokens"),
        ({"max_tokens": 9}, "max_tokens"),
    ],
)
def test_the_bounded_output_is_what_is_sent(payload, member):
    document = json.loads(sent(replace(ASK, payload={**ASK.payload, **payload})).body)
    assert document[member] == 256
    assert len(document.keys() & {"max_tokens", "max_completion_tokens"}) == 1


def test_a_credential_goes_where_the_provider_wants_it_and_nowhere_else():
    assert sent().headers["authorization"] == "Bearer s3cret"
    header = sent(provider=replace(PROVIDER, auth=Auth(kind="header", header="Api-Key", secret="KEY")))
    assert header.headers["api-key"] == "s3cret"
    assert "authorization" not in header.headers
    none = sent(provider=replace(PROVIDER, auth=Auth(kind="none")))
    for out in (sent(), header, none):
        assert b"s3cret" not in out.body
        assert "s3cret" not in out.url
    assert "s3cret" not in str(none.headers)


ANSWERS = [
    ("text", Usage(input=19, output=10), "The order was delivered on 3 May.", [], ("stop",)),
    ("parallel_tool_calls", Usage(input=312, output=48), "I need the customer and the order.", ["call_a1 get_customer", "call_a2 get_order"], ("tool_calls",)),
    ("refusal", Usage(input=25, output=9), "I can't help with that.", [], ("stop",)),
    ("length", Usage(input=19, output=3), "The order was", [], ("length",)),
    ("cached_and_reasoning", Usage(input=2006, output=300, cached=1920, reasoning=256), "Approved.", [], ("stop",)),
    ("two_choices", Usage(input=12, output=4), "Yes.\n\nNo.", [], ("stop", "stop")),
    ("missing_usage", Usage(known=False), "Local models may not count.", [], ("stop",)),
    ("zero_usage", Usage(input=0, output=0), "", [], ("stop",)),
    ("hidden_thought", Usage(input=100, output=520), "Counted in the total only.", [], ("stop",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "used", "text", "offers", "finish"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_an_answer_is_read_as_it_was_meant(name, used, text, offers, finish):
    found = answer(recorded(name))
    assert (found.usage, found.text, found.finish) == (used, text, finish)
    assert [f"{offer.id} {offer.name}" for offer in found.offers] == offers


def test_arguments_stay_as_the_model_wrote_them():
    found = answer(recorded("parallel_tool_calls"))
    assert found.offers[0].arguments_text == '{"id": "C-1234"}'
    assert dict(found.texts())["tool_calls[0].arguments"] == '{"id": "C-1234"}'


def test_half_an_emoji_becomes_something_that_can_be_sent_on():
    document = json.loads((DATA / "text.json").read_bytes())
    document["choices"][0]["message"]["content"] = "cut \ud83d whole \U0001f600"
    found = answer(Response(status=200, headers={}, body=json.dumps(document).encode()))
    assert found.text == "cut \ufffd whole \U0001f600"
    json.dumps(found.document, ensure_ascii=False).encode()


USAGES = [
    (None, Usage(known=False)),
    ([], Usage(known=False)),
    ({}, Usage(known=False)),
    ({"prompt_tokens": 5}, Usage(known=False)),
    ({"prompt_tokens": 5, "completion_tokens": None}, Usage(known=False)),
    ({"prompt_tokens": -5, "completion_tokens": 1}, Usage(known=False)),
    ({"prompt_tokens": 5.0, "completion_tokens": 1}, Usage(known=False)),
    ({"prompt_tokens": True, "completion_tokens": 1}, Usage(known=False)),
    ({"prompt_tokens": 2**60, "completion_tokens": 1}, Usage(known=False)),
    ({"prompt_tokens": 5, "completion_tokens": 1}, Usage(input=5, output=1)),
    ({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 2}, Usage(input=5, output=1)),
    ({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}}, Usage(input=5, output=1)),
    ({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(input=5, output=1)),
    ({"prompt_tokens": 5, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 9}}, Usage(input=5, output=1, reasoning=1)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "read"), USAGES)
def test_usage_is_counted_or_unknown_and_never_in_the_agents_favour(said, read):
    assert usage(said) == read


STATUSES = [
    (301, "forbidden", "no", True),
    (400, "rejected", "no", False),
    (401, "forbidden", "no", True),
    (402, "forbidden", "no", True),
    (403, "forbidden", "no", True),
    (404, "forbidden", "no", True),
    (408, "failed", "unknown", False),
    (409, "forbidden", "no", True),
    (413, "rejected", "no", False),
    (422, "rejected", "no", False),
    (429, "throttled", "no", True),
    (499, "failed", "unknown", False),
    (500, "failed", "unknown", False),
    (502, "failed", "unknown", False),
    (503, "failed", "unknown", False),
    (504, "failed", "unknown", False),
    (529, "failed", "unknown", False),
]


@pytest.mark.parametrize(("status", "kind", "billed", "retryable"), STATUSES)
def test_a_status_says_what_failed_and_whether_it_may_have_cost(status, kind, billed, retryable):
    found = failure(Response(status=status, headers={}, body=b"<html>"))
    assert (found.status, found.kind, found.billed, found.retryable) == (status, kind, billed, retryable)


RAISED = [
    (NotSent("refused"), "unreachable", "no", True),
    (TimedOut("late"), "timeout", "unknown", False),
    (Ambiguous("reset"), "broken", "unknown", False),
]


@pytest.mark.parametrize(("error", "kind", "billed", "retryable"), RAISED)
def test_an_error_of_the_wire_is_billed_unless_nothing_left(error, kind, billed, retryable):
    found = failures.unsent(error)
    assert (found.kind, found.billed, found.retryable, found.status) == (kind, billed, retryable, None)


def altered(**members) -> bytes:
    document = json.loads((DATA / "parallel_tool_calls.json").read_bytes())
    document["choices"][0]["message"].update(members)
    return json.dumps(document).encode()


MALFORMED = {
    "empty": b"",
    "html": b"<html><body>Bad gateway</body></html>",
    "truncated": b'{"choices": [{"index": 0',
    "not an object": b"[]",
    "not UTF-8": b'{"choices": "\xff"}',
    "NaN": b'{"choices": NaN}',
    "no choices": b'{"id": "x"}',
    "empty choices": b'{"choices": []}',
    "choice is text": b'{"choices": ["x"]}',
    "no message": b'{"choices": [{"index": 0, "finish_reason": "stop"}]}',
    "no finish": b'{"choices": [{"index": 0, "message": {}}]}',
    "no index": b'{"choices": [{"finish_reason": "stop", "message": {}}]}',
    "content is a number": altered(content=7),
    "calls are an object": altered(tool_calls={}),
    "call is text": altered(tool_calls=["x"]),
    "call without function": altered(tool_calls=[{"id": "c", "type": "function"}]),
    "call without id": altered(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
    "call with arguments parsed": altered(tool_calls=[{"id": "c", "function": {"name": "f", "arguments": {}}}]),
    "nested without end": b"[" * 200_000,
    "a number without end": b'{"choices": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_200_that_is_no_answer_may_have_cost_something(body):
    found = failure(Response(status=200, headers={}, body=body))
    assert (found.kind, found.billed, found.retryable) == ("malformed", "unknown", False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "99999"}, 3600.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)
def test_a_provider_says_how_long_to_wait(headers, seconds):
    assert failure(recorded("error_rate_limit", 429, **headers)).retry_after == seconds


def test_only_what_the_agent_can_mend_is_repeated_to_it():
    assert failure(recorded("error_bad_request", 400)).message.startswith("Invalid value for 'messages[1].content'")
    assert failure(recorded("error_bad_key", 401)).message == ""
    assert failure(recorded("error_rate_limit", 429)).message == ""


MESSAGES = [
    ({"error": {"message": "two\nlines\tand\x00more"}}, "two lines and more"),
    ({"error": {"message": "your key sk-proj-abcd****wxyz is bad"}}, "your key [redacted] is bad"),
    ({"error": {"message": "got 'Authorization: Bearer abc.def'"}}, "got 'Authorization: [redacted]"),
    ({"error": {"message": "org-Ab12Cd34Ef is over"}}, "[redacted] is over"),
    ({"error": {"message": "token eyJhbGciOi.eyJzdWIiOi.c2ln"}}, "token [redacted]"),
    ({"error": {"message": "key 0123456789abcdef0123456789abcdef"}}, "key [redacted]"),
    (
        {"error": {"message": "unknown structured_outputs_json_schema_name"}},
        "unknown structured_outputs_json_schema_name",
    ),
    ({"error": "plain words"}, "plain words"),
    ({"message": "vLLM's older shape"}, "vLLM's older shape"),
    ({"error": {"message": 7}}, ""),
    ({"error": None}, ""),
    ([], ""),
]


@pytest.mark.parametrize(("document", "words"), MESSAGES)
def test_a_providers_words_are_cleaned(document, words):
    assert failures.message(json.dumps(document).encode()) == words


def test_a_providers_words_are_few():
    assert len(failures.message(json.dumps({"error": {"message": "no. " * 10_000}}).encode())) == 500
    assert failures.message(b"<html>") == ""
    assert failures.message(b"[" * 200_000) == ""


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
WRONG = (None, 0, "", "x", [], [CALL], {}, CALL, "tool_calls", "end_turn", True)


def outcome(read, document):
    try:
        return read(document)
    except (ValueError, TypeError) as error:  # a TypeError in both, or in neither
        return str(error)


def test_an_answer_in_its_own_format_is_what_its_blocks_would_say():
    """For those who speak it no blocks are made."""
    chance = random.Random(3)
    said = 0
    for _ in range(3000):
        document = {"id": "x", "choices": [copy.deepcopy(CHOICE) for _ in range(chance.randrange(1, 3))]}
        for choice in document["choices"]:
            message = choice["message"]
            message |= chance.choice(({}, {"refusal": "no"}, {"content": None, "tool_calls": [CALL, CALL]}))
            if chance.random() < 0.6:
                holder = chance.choice((choice, message, document))
                holder[chance.choice((*holder, "refusal", "tool_calls", "usage"))] = copy.deepcopy(chance.choice(WRONG))

        def slowly(document):
            choices = [openai._choice(choice) for choice in openai.items(document, "choices", least=1)]
            return told("openai.chat", openai._head(document), choices, usage(document.get("usage")), document)

        def fast(document):
            return openai._as_it_is(document, openai.items(document, "choices", least=1))

        first = outcome(fast, document)
        said += not isinstance(first, str)
        assert first == outcome(slowly, document), document
    assert 500 < said < 2900


def test_what_is_read_in_one_look_is_what_an_agent_would_get_of_it_anyway(monkeypatch):
    """Its document too: just what the agent's surface makes of the provider's."""
    monkeypatch.setattr(openai, "_ANSWERED", iter(()))  # so the long way never asks for the look
    chance, fitting = random.Random(4), 0
    count = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    members = {"created": 1, "service_tier": "default", "system_fingerprint": "", "object": "x", "model": "m"}
    values = (*WRONG, None, -1, 1.0, LARGEST, 2**70, "é\U0001f98a", "4111 1111", {"content": []}, count, [CHOICE])
    for _ in range(4000):
        document = {"id": "x", **members, "choices": [copy.deepcopy(CHOICE)], "usage": dict(count)}
        choice = document["choices"][0]
        choice["message"] |= chance.choice(({}, {}, {"refusal": None, "tool_calls": None}, {"tool_calls": [CALL]}))
        choice |= chance.choice(({}, {}, {"logprobs": None}, {"logprobs": {"content": [], "x": 1}}))
        for holder in (document, choice, choice["message"], document["usage"]):
            if chance.random() < 0.2:
                holder[chance.choice((*holder, "x"))] = copy.deepcopy(chance.choice(values))
            if chance.random() < 0.1:
                holder.pop(chance.choice((*holder,)))
        body = json.dumps(document).encode()
        plain = openai_plain.answer(body)
        if plain is None:
            continue
        fitting += 1
        slow = openai._as_it_is(document, openai.items(document, "choices", least=1))
        assert replace(plain, document={}, rendered=False) == replace(slow, document={}), document
        assert render(plain, "plan") == render(slow, "plan"), document
    assert 500 < fitting < 3500


def test_a_host_that_is_warm_reads_plain_answers_in_one_look(monkeypatch):
    body = json.dumps({"id": "x", "created": 1, "choices": [CHOICE]}).encode()
    response = Response(status=200, headers={}, body=body)
    for before, rendered in ((openai.WARM - 1, False), (openai.WARM, True)):
        monkeypatch.setattr(openai, "_ANSWERED", iter((before,)))
        assert answer(response, ASK).rendered == rendered


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"x","created":1,"choices":[' + json.dumps(CHOICE).encode() + b'],"choices":[]}',
        b'{"id":"\\ud800"}',
        b"[" * 3000,
    ],
)
def test_what_is_not_plain_is_left_to_the_long_way(body):
    assert openai_plain.answer(body) is None


def test_usage_is_what_its_counts_say_one_by_one():
    """They are read without a look at each where all are counts."""
    chance = random.Random(5)
    counts = (None, 0, 1, 5, 7, -1, LARGEST - 1, LARGEST, True, 2.0, "3", [], {})
    known = 0
    for _ in range(3000):
        said = {name: chance.choice(counts) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        said = {name: value for name, value in said.items() if chance.random() < 0.9}
        if chance.random() < 0.5:
            said["prompt_tokens"], said["completion_tokens"] = chance.choice(counts[1:5]), chance.choice(counts[1:5])
        given, made, total = (count(said, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
        expected = Usage(known=False)
        if given is not None and made is not None:
            expected = Usage(input=given, output=max(made, (total or 0) - given))
            known += 1
        assert usage(said) == expected, said
    assert 500 < known < 2900
