"""Placeholders stand for one value each, the same for the whole task, and come back exactly."""

import hashlib
import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buspass.mediation import placeholders as module
from buspass.mediation.classes import CLASSES, PERSONAL
from buspass.mediation.placeholders import Placeholders

KEY = b"0123456789abcdef"
VALUES = {
    "email": ["alice@example.com", "bob@example.org", "info@müller.de"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819"],
    "credit_card": ["4111 1111 1111 1111", "378282246310005"],
    "ip_address": ["203.0.113.7", "2001:db8::1"],
    "national_id": ["54362315K", "536-90-4399"],
    "phone": ["+49 30 901820", "+1 (415) 555-2671"],
}
PIECES = st.one_of(st.sampled_from([f" {value} " for values in VALUES.values() for value in values]), st.text())


def test_a_placeholder_is_eight_digits_of_an_hmac_over_class_and_normal_value():
    digest = hmac.new(KEY, b"email\0alice@example.com\x000", hashlib.sha256).digest()
    expected = f"<EMAIL_{int.from_bytes(digest[:8]) % 10**8:08}>"
    assert Placeholders(KEY).hide("Hi Alice@Example.com!", ["email"]) == f"Hi {expected}!"


def test_the_same_value_has_the_same_placeholder_over_requests_and_another_under_another_key():
    hidden = Placeholders(KEY).hide("alice@example.com")
    assert Placeholders(KEY).hide("Alice@example.com") == hidden
    assert Placeholders(KEY[::-1]).hide("alice@example.com") != hidden
    assert re.fullmatch(r"<EMAIL_\d{8}>", hidden)


@pytest.mark.parametrize("class_", PERSONAL)
def test_each_class_is_hidden_and_comes_back_exactly(class_):
    table = Placeholders(KEY)
    text = "; ".join(VALUES[class_])
    hidden = table.hide(text)
    assert re.fullmatch("; ".join([rf"<{class_.upper()}_\d{{8}}>"] * len(VALUES[class_])), hidden)
    assert table.restore(hidden) == text


@settings(max_examples=50)
@given(st.lists(PIECES))
def test_any_text_comes_back_exactly(pieces):
    table = Placeholders(KEY)
    text = "".join(pieces)
    assert table.restore(table.hide(text)) == text


def test_a_table_that_was_kept_restores_in_a_later_request():
    first = Placeholders(KEY)
    hidden = first.hide("to alice@example.com")
    assert Placeholders(KEY, first.made).restore(hidden) == "to alice@example.com"


def test_only_placeholders_that_were_made_come_back():
    table = Placeholders(KEY)
    table.hide("alice@example.com")
    for text in ("<EMAIL_00000000>", "<SHOE_SIZE_12345678>", "<email_12345678>", "EMAIL_12345678", "<EMAIL_1234567>"):
        assert table.restore(text) == text


def test_only_permitted_classes_come_back():
    table = Placeholders(KEY)
    hidden = table.hide("alice@example.com 203.0.113.7")
    mail, address = hidden.split()
    assert table.restore(hidden, {"email"}) == f"alice@example.com {address}"
    assert table.restore(hidden, ()) == f"{mail} {address}"


def test_two_values_never_share_a_placeholder(monkeypatch):
    monkeypatch.setattr(module, "NUMBERS", 3)
    table = Placeholders(KEY)
    values = ["a@example.com", "b@example.com", "c@example.com"]
    made = [table.make("email", value) for value in values]
    assert len(set(made)) == 3
    assert [table.value(placeholder) for placeholder in made] == values
    assert [table.make("email", value) for value in values] == made
    with pytest.raises(ValueError, match="taken"):
        table.make("email", "d@example.com")


def test_a_value_in_two_spellings_comes_back_as_first_written():
    table = Placeholders(KEY)
    hidden = table.hide("4111 1111 1111 1111, 4111111111111111", ["credit_card"])
    assert table.restore(hidden) == "4111 1111 1111 1111, 4111 1111 1111 1111"


def test_what_is_hidden_is_hidden_once():
    table = Placeholders(KEY)
    hidden = table.hide("alice@example.com +49 30 901820")
    assert table.hide(hidden, CLASSES, ("DE",)) == hidden


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        Placeholders(b"short")


def test_the_table_can_not_be_changed_from_outside():
    table = Placeholders(KEY)
    hidden = table.hide("alice@example.com")
    table.made[hidden] = "eve@example.com"
    assert table.restore(hidden) == "alice@example.com"
