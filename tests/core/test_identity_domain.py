"""The domain key: read from text, kept to itself, one derived key a purpose."""

import base64

import pytest

from buspass.errors import ConfigError
from buspass.identity.domain import LABELS, DomainKey

SECRET = bytes(range(200, 232))
STANDARD = base64.b64encode(SECRET).decode()
URLSAFE = base64.urlsafe_b64encode(SECRET).decode()


@pytest.mark.parametrize(
    "text",
    [SECRET.hex(), SECRET.hex().upper(), STANDARD, STANDARD.rstrip("="), URLSAFE, URLSAFE.rstrip("="), f" {URLSAFE}\n"],
)
def test_every_usual_writing_is_the_same_key(text):
    assert STANDARD != URLSAFE
    assert DomainKey.from_text(text).derive("jwk-mac") == DomainKey(SECRET).derive("jwk-mac")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("  \n", "it is empty"),
        (SECRET.hex()[:-2], "62 hexadecimal digits"),
        (URLSAFE[:-4], "40 characters of base64"),
        (URLSAFE + "AAAA", "48 characters of base64"),
        ("correct horse battery staple", "28 characters that are neither"),
    ],
)
def test_another_text_is_refused_with_the_way_to_make_one_and_never_shown(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        DomainKey.from_text(text)
    assert "openssl rand -base64 32" in str(caught.value)
    assert len(text.strip()) < 10 or text.strip() not in str(caught.value)


def test_keys_differ_by_purpose_and_domain_and_are_the_same_on_every_host():
    key, same, other = DomainKey(SECRET), DomainKey(SECRET), DomainKey(bytes(32))
    derived = {label: key.derive(label) for label in LABELS}
    assert len(set(derived.values())) == 4
    assert {len(value) for value in derived.values()} == {32}
    assert derived == {label: same.derive(label) for label in LABELS}
    assert not set(derived.values()) & {other.derive(label) for label in LABELS}
    assert SECRET not in derived.values()


def test_the_derivation_is_fixed_since_stored_macs_depend_on_it():
    assert (
        DomainKey(SECRET).derive("journal-mac").hex()
        == "be08d633c18a8a912a9ef89fcb1bded0a82da1d8a28073e9c2e9342f4153ccb2"
    )


def test_an_unknown_purpose_a_short_key_and_a_careless_print():
    with pytest.raises(ValueError, match="allowed are journal-mac, jwk-mac, placeholder, task-key-wrap"):
        DomainKey(SECRET).derive("something")
    with pytest.raises(ConfigError, match="31 bytes"):
        DomainKey(SECRET[:-1])
    assert repr(DomainKey(SECRET)) == str(DomainKey(SECRET)) == "DomainKey(…)"
