"""Inspection says what stands where, as policy will read it, and never the value."""

import pytest

from buspass.mediation.inspect import Finding, inspect


def test_nothing_is_found_and_no_text_is_read_without_classes():
    def texts():
        raise AssertionError("read")
        yield "messages[0].content", ""

    assert inspect(texts()) == ()


def test_a_finding_has_class_position_and_count():
    texts = [("a", "x@example.com, y@example.com, 203.0.113.7"), ("b", "z@example.com"), ("c", "nothing")]
    found = inspect(texts, ["ip_address", "email"])
    assert found == (
        Finding(class_="email", position="a", count=2),
        Finding(class_="ip_address", position="a", count=1),
        Finding(class_="email", position="b", count=1),
    )
    assert found[0].document() == {"class": "email", "position": "a", "count": 2}


def test_only_what_is_asked_for_is_found():
    assert inspect([("a", "x@example.com 203.0.113.7")], ["phone"]) == ()


def test_a_region_adds_its_own_telephone_numbers():
    texts = [("a", "030 901820")]
    assert inspect(texts, ["phone"]) == ()
    assert inspect(texts, ["phone"], ("DE",)) == (Finding(class_="phone", position="a", count=1),)


def test_placeholders_and_the_rest_of_a_long_secret_are_no_findings():
    key = "-----BEGIN PRIVATE KEY-----\nMIIE\nMIIF\n-----END PRIVATE KEY-----"
    assert inspect([("a", f"<EMAIL_12345678> {key}")], ["secret"]) == (Finding(class_="secret", position="a", count=1),)


def test_an_unknown_class_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="no such class"):
        inspect([("a", "")], ["shoe_size"])
