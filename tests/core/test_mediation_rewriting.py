"""A plan applied to JSON: every string is looked into, positions are exact, and nothing says a value."""

import pytest

from buspass.mediation.classes import CLASSES
from buspass.mediation.inspect import Finding
from buspass.mediation.placeholders import Placeholders
from buspass.mediation.rewriting import ContentBlocked, Plan, rewrite

KEY = b"0123456789abcdef"
REQUEST = {
    "model": "plan",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "I am alice@example.com at 203.0.113.7"}]},
    ],
    "tools": [{"parameters": {"properties": {"password": {"type": "string"}}}}],
    "temperature": 0.2,
    "stream": None,
    "n": 1,
}


def test_every_string_is_looked_into_and_the_rest_is_left_alone():
    changed, findings = rewrite(REQUEST, Plan(actions={"email": "mask", "ip_address": "allow"}))
    assert changed["messages"][1]["content"][0]["text"] == "I am a***@e***.com at 203.0.113.7"
    assert findings == (
        Finding(class_="email", position="messages[1].content[0].text", count=1),
        Finding(class_="ip_address", position="messages[1].content[0].text", count=1),
    )
    assert changed | {"messages": None} == REQUEST | {"messages": None}
    assert REQUEST["messages"][1]["content"][0]["text"] == "I am alice@example.com at 203.0.113.7"


def test_paths_stand_below_where_the_value_stands():
    _, findings = rewrite(["x", {"to": "alice@example.com"}], Plan(actions={"email": "allow"}), at="arguments")
    assert [finding.position for finding in findings] == ["arguments[1].to"]


def test_placeholders_are_put_in_and_come_back():
    table = Placeholders(KEY)
    plan = Plan(actions=dict.fromkeys(["email", "ip_address"], "placeholder"), placeholders=table)
    changed, _ = rewrite(REQUEST, plan)
    assert "alice" not in str(changed)
    back, findings = rewrite(changed, Plan(actions={}, placeholders=table, restore=True))
    assert back == REQUEST
    assert findings == ()


def test_placeholders_stay_where_nothing_says_restore():
    table = Placeholders(KEY)
    hidden = table.hide("alice@example.com")
    assert rewrite(hidden, Plan(actions={"email": "mask"}, placeholders=table)) == (hidden, ())


@pytest.mark.parametrize(
    ("class_", "text", "masked"),
    [
        ("email", "alice@mail.example.com", "a***@m***.com"),
        ("iban", "DE89 3704 0044 0532 0130 00", "DE***0 00"),
        ("credit_card", "4111 1111 1111 1111", "***1111"),
        ("ip_address", "203.0.113.7", "203.0.***"),
        ("ip_address", "2001:db8::1", "2001:0db8:***"),
        ("national_id", "536-90-4399", "***"),
        ("phone", "+49 30 901820", "+49***20"),
        ("secret", "sk" + "-proj-abc123DEF456ghi789", "***"),
    ],
)
def test_a_mask_leaves_what_its_owner_recognizes(class_, text, masked):
    assert rewrite(f"so {text} it is", Plan(actions={class_: "mask"}))[0] == f"so {masked} it is"


def test_what_was_masked_is_not_found_again():
    plan = Plan(actions=dict.fromkeys(CLASSES, "mask"), regions=("DE",))
    text = "alice@example.com DE89 3704 0044 0532 0130 00, 4111 1111 1111 1111 and +49 30 901820; 203.0.113.7"
    masked, findings = rewrite(text, plan)
    assert len(findings) == 5
    assert rewrite(masked, plan) == (masked, ())


def test_what_is_blocked_is_told_by_class_and_position_alone():
    with pytest.raises(ContentBlocked) as caught:
        rewrite(
            {"a": ["4111 1111 1111 1111", "alice@example.com"]}, Plan(actions={"credit_card": "block", "email": "mask"})
        )
    assert caught.value.findings == (Finding(class_="credit_card", position="a[0]", count=1),)
    assert str(caught.value) == "credit_card at a[0]"


def test_secrets_are_blocked_by_every_plan_that_does_not_name_them():
    text = "postgres://app:s3cr3t@db/x"
    with pytest.raises(ContentBlocked, match=r"^secret at $"):
        rewrite(text, Plan(actions={}))
    assert rewrite(text, Plan(actions={"secret": "allow"}))[0] == text


def test_a_member_that_is_named_a_password_is_a_secret():
    with pytest.raises(ContentBlocked, match=r"^secret at login\.password$"):
        rewrite({"login": {"password": "hunter2!"}}, Plan(actions={}))
    assert rewrite({"password": "hunter2!"}, Plan(actions={"secret": "mask"}))[0] == {"password": "***"}
    for value in ({"password": "required"}, {"password": ""}, {"passwords": "hunter2!"}, {"secret": "${A1_KEY}"}):
        assert rewrite(value, Plan(actions={})) == (value, ())


def test_names_of_members_are_reported_and_never_shown():
    plan = Plan(actions={"email": "placeholder"}, placeholders=Placeholders(KEY))
    changed, findings = rewrite({"to": {"alice@example.com": "bob@example.com"}}, plan)
    assert list(changed["to"]) == ["alice@example.com"]
    assert "bob" not in str(changed)
    assert [finding.document() for finding in findings] == [
        {"class": "email", "position": "to.<name>", "count": 1},
        {"class": "email", "position": "to.<name>", "count": 1},
    ]
    with pytest.raises(ContentBlocked, match="email at <name>"):
        rewrite({"alice@example.com": 1}, Plan(actions={"email": "block"}))


def test_a_card_number_may_be_a_number():
    masked, findings = rewrite({"card": 4111111111111111, "n": 41111}, Plan(actions={"credit_card": "mask"}))
    assert masked == {"card": "***1111", "n": 41111}
    assert findings == (Finding(class_="credit_card", position="card", count=1),)
    assert rewrite([4111111111111112, True], Plan(actions={"credit_card": "mask"})) == ([4111111111111112, True], ())


def test_a_plan_that_can_not_be_kept_is_refused():
    with pytest.raises(ValueError, match="no such action: \\['shred'\\]"):
        Plan(actions={"email": "shred"})
    with pytest.raises(ValueError, match="no such class"):
        Plan(actions={"shoe_size": "mask"})
    with pytest.raises(ValueError, match="placeholders are needed"):
        Plan(actions={"email": "placeholder"})
    with pytest.raises(ValueError, match="placeholders are needed"):
        Plan(actions={}, restore=True)


def test_a_long_secret_is_masked_once_and_to_its_end():
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0B\n" * 60 + "-----END PRIVATE KEY-----"
    changed, findings = rewrite(f"here: {key}\nthanks", Plan(actions={"secret": "mask"}))
    assert changed == "here: ***\nthanks"
    assert [finding.count for finding in findings] == [1]
