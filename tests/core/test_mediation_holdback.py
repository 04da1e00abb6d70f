"""A stream under a plan gives what the whole text gives, however it is cut, and holds little back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buspass.mediation.classes import CLASSES
from buspass.mediation.holdback import Holdback
from buspass.mediation.inspect import Finding
from buspass.mediation.placeholders import Placeholders
from buspass.mediation.rewriting import ContentBlocked, Plan, rewrite
from buspass.mediation.scanner import HORIZON, WINDOW, Scanner, parts

KEY = b"0123456789abcdef"
TABLE = Placeholders(KEY)
HIDDEN = TABLE.hide("alice@example.com 203.0.113.7").split()
VALUES = [
    "alice@example.com", "bob@example.org", "4111 1111 1111 1111", "378282246310005", "DE89 3704 0044 0532 0130 00",
    "+49 30 901820", "030 901820", "203.0.113.7", "2001:db8::1", "536-90-4399", "AB 12 34 56 C", "BSN: 111222333",
    "password = hunter2", "postgres://app:s3cr3t@db.internal:5432/shop", "AKIA" + "IOSFODNN7EXAMPLE",
    "-----BEGIN RSA PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQ", "-----END RSA PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2ln", *HIDDEN, HIDDEN[0][:9], "<EMAIL_00000000>",
]  # fmt: skip
BETWEEN = [
    "",
    " ",
    "  ",
    "\n",
    "\\n",
    ", ",
    "\u00a0",
    '"',
    "-",
    "/",
    "。",
    "the",
    " and ",
    "KEY ",
    "x" * 300,
    "1 " * 200,
    "\0",
]
TEXTS = st.lists(st.one_of(st.sampled_from(VALUES), st.sampled_from(BETWEEN), st.text(max_size=5)), max_size=12).map(
    "".join
)
EXAMPLES = settings(max_examples=50)
PLANS = st.fixed_dictionaries({class_: st.sampled_from(["placeholder", "mask", "allow"]) for class_ in CLASSES})


def cut(text, data):
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20), label="cuts"))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


@EXAMPLES
@given(TEXTS, PLANS, st.booleans(), st.data())
def test_a_stream_gives_what_the_whole_text_gives(text, actions, restore, data):
    def plan():
        return Plan(actions=actions, placeholders=Placeholders(KEY, TABLE.made), restore=restore, regions=("DE",))

    whole, findings = rewrite(text, plan())
    holdback = Holdback(plan(), "answer")
    assert "".join(map(holdback.feed, cut(text, data))) + holdback.flush() == whole
    counts = {finding.class_: finding.count for finding in holdback.findings}
    assert counts == {finding.class_: finding.count for finding in findings}


@settings(EXAMPLES, max_examples=15)
@given(TEXTS)
def test_a_stream_of_single_characters_gives_what_the_whole_text_gives(text):
    plan = Plan(actions=dict.fromkeys(CLASSES, "mask"), regions=("DE",))
    holdback = Holdback(plan)
    assert "".join(map(holdback.feed, text)) + holdback.flush() == rewrite(text, plan)[0]


@EXAMPLES
@given(TEXTS, st.data())
def test_the_parts_are_the_text(text, data):
    scanner = Scanner(CLASSES, ("DE",))
    pieces = cut(text, data)
    assert (
        "".join(part.text for piece in pieces for part in scanner.feed(piece))
        + "".join(part.text for part in scanner.flush())
        == text
    )
    assert "".join(part.text for part in parts(text, CLASSES, ("DE",))) == text


@EXAMPLES
@given(TEXTS, st.data())
def test_a_stream_is_blocked_where_the_whole_text_is_and_shows_nothing_of_it(text, data):
    actions = {"credit_card": "block"}
    holdback, sent, blocked = Holdback(Plan(actions=actions)), "", False
    try:
        for piece in cut(text, data):
            sent += holdback.feed(piece)
        sent += holdback.flush()
    except ContentBlocked:
        blocked = True
    read = parts(text, ["secret", "credit_card"])
    first = next((at for at, part in enumerate(read) if part.class_ in {"secret", "credit_card"}), None)
    assert blocked == (first is not None)
    assert text.startswith(sent)
    if first is not None:
        assert len(sent) <= sum(len(part.text) for part in read[:first])
    else:
        assert sent == text


@EXAMPLES
@given(st.lists(st.one_of(TEXTS, st.sampled_from(["word ", " two words", "wo", "A:", " (", "pass ", "\t", "é "]))))
def test_where_nothing_begins_as_much_is_held_as_where_something_might(pieces):
    class Slow(Scanner):
        def _up_to(self, begin):
            return self._advance(ended=False)

    quick, slow = Scanner(CLASSES, ("DE",)), Slow(CLASSES, ("DE",))
    for piece in pieces:
        given_, otherwise = ([part.text for part in each.feed(piece)] for each in (quick, slow))
        assert "".join(given_) == "".join(otherwise)
        assert quick.held == slow.held
    assert quick.flush() == slow.flush()


@EXAMPLES
@given(TEXTS, st.data())
def test_what_is_held_has_a_bound(text, data):
    scanner = Scanner(CLASSES, ("DE",))
    for piece in cut(text * 3, data):
        scanner.feed(piece)
        assert scanner.held <= WINDOW


def test_prose_is_held_by_a_word_at_most():
    holdback, sent = Holdback(Plan(actions=dict.fromkeys(CLASSES, "mask"))), ""
    text = "Your parcel has left our house and will be with you soon, most likely tomorrow. "
    for at, char in enumerate(text, 1):
        sent += holdback.feed(char)
        assert at - len(sent) <= len("tomorrow.")
    assert sent == text


def test_a_script_without_spaces_is_not_held():
    holdback = Holdback(Plan(actions=dict.fromkeys(CLASSES, "mask")))
    assert holdback.feed("您的包裹明天到达") == "您的包裹明天到达"


@pytest.mark.parametrize(
    "value", ["4111 1111 1111 1111", "alice@example.com", "DE89 3704 0044 0532 0130 00", "+49 30 901820"]
)
def test_a_value_cut_anywhere_is_found(value):
    for at in range(1, len(value)):
        holdback = Holdback(Plan(actions=dict.fromkeys(CLASSES, "mask")), "text")
        sent = [holdback.feed(f"take {value[:at]}"), holdback.feed(f"{value[at:]} please"), holdback.flush()]
        assert value not in "".join(sent)
        assert sent[0] == "take "
        assert [finding.count for finding in holdback.findings] == [1]


def test_a_placeholder_cut_anywhere_is_restored():
    for at in range(1, len(HIDDEN[0])):
        holdback = Holdback(Plan(actions={}, placeholders=TABLE, restore=True))
        sent = [holdback.feed(f"to {HIDDEN[0][:at]}"), holdback.feed(f"{HIDDEN[0][at:]}, then"), holdback.flush()]
        assert "".join(sent) == "to alice@example.com, then"


def test_a_secret_ends_a_stream_before_any_of_it_is_sent():
    holdback = Holdback(Plan(actions={}), "choices[0].delta")
    sent = holdback.feed("the url is postgres://app:s3c")
    with pytest.raises(ContentBlocked) as caught:
        sent += holdback.feed("r3t@db.internal/x and more")
    assert sent == "the url is "
    assert caught.value.findings == (Finding(class_="secret", position="choices[0].delta", count=1),)


def test_a_value_anywhere_in_a_long_word_is_found_and_a_part_of_more_is_not():
    plan = Plan(actions={"credit_card": "mask"})
    for before in range(HORIZON - 24, WINDOW + 24):
        text = f"{'x' * before};4111111111111111;{'y' * WINDOW};a4111111111111111;{'z' * (before % 7)}"
        expected = text.replace(";4111111111111111;", ";***1111;")
        holdback = Holdback(plan)
        assert holdback.feed(text[:before]) + holdback.feed(text[before:]) + holdback.flush() == expected
        glued = f"{'x' * before}4111111111111111;{'y' * WINDOW}"
        streamed = Holdback(plan)
        assert (
            "".join(streamed.feed(glued[at : at + 50]) for at in range(0, len(glued), 50)) + streamed.flush() == glued
        )


def test_a_window_is_read_only_when_it_is_full():
    plan = Plan(actions={"credit_card": "mask"})
    for before in range(HORIZON - 20, HORIZON + 1):
        text = f"{'x' * before};4111111111111111;{'y' * WINDOW}"
        holdback = Holdback(plan)
        sent = [holdback.feed(text[at : at + 1]) for at in range(len(text))]
        assert "".join(sent) + holdback.flush() == text.replace("4111111111111111", "***1111")
