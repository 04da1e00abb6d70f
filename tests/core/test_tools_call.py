"""A tool call's body, its bound arguments and its fingerprint."""

import hashlib

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from buspass.config.settings import Auth, Tool
from buspass.errors import Problem
from buspass.model import Subject
from buspass.tools.call import arguments_of, bound, canonical, fingerprint, fitting

ANNA = Subject(type="customer", id="C-1234", proof="token")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"arguments": {}}, ({}, None)),
        ({"arguments": {"a": 1}, "tool_call_id": "call_1"}, ({"a": 1}, "call_1")),
        ({"arguments": {"a": 1}, "tool_call_id": None}, ({"a": 1}, None)),
    ],
)
def test_a_body_holds_arguments_and_perhaps_the_models_call_id(body, expected):
    assert arguments_of(body) == expected


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ([], "invalid_request", "JSON object"),
        ({}, "invalid_request", "arguments is missing"),
        ({"arguments": {}, "task": "t"}, "unsupported", "'task'"),
        ({"arguments": '{"a": 1}'}, "invalid_arguments", "not a string"),
        ({"arguments": [1]}, "invalid_arguments", "JSON object"),
        ({"arguments": None}, "invalid_arguments", "JSON object"),
        ({"arguments": {"a": 2**53}}, "invalid_arguments", "9007199254740992"),
        ({"arguments": {"a": ["\ud800"]}}, "invalid_arguments", "not portable"),
        ({"arguments": {}, "tool_call_id": ""}, "invalid_request", "tool_call_id"),
        ({"arguments": {}, "tool_call_id": 7}, "invalid_request", "tool_call_id"),
        ({"arguments": {}, "tool_call_id": "a\nb"}, "invalid_request", "tool_call_id"),
        ({"arguments": {}, "tool_call_id": "x" * 257}, "invalid_request", "tool_call_id"),
    ],
)
def test_a_bad_body_is_the_right_problem(body, code, told):
    with pytest.raises(Problem) as caught:
        arguments_of(body)
    assert caught.value.code == code
    assert told in caught.value.detail


def test_hallucinated_parameters_are_refused_with_those_that_exist():
    tool = Tool(
        name="get_order",
        description="",
        hosts=None,
        method="GET",
        url="http://x/",
        input={"type": "object", "properties": {"id": {"type": "string"}}},
        output=None,
        timeout=1,
        auth=Auth(kind="none"),
        keep={},
        statuses=(),
        idempotent=True,
    )
    assert fitting(tool, {"id": "x"}) is None
    problem = fitting(tool, {"id": "x", "verbose": True})
    assert problem is not None
    assert problem.code == "invalid_arguments"
    assert problem.errors == ({"path": "/verbose", "message": 'there is no parameter "verbose"', "allowed": ["id"]},)


@pytest.mark.parametrize(
    ("where", "arguments", "subject", "may"),
    [
        ({}, {"id": "anything"}, None, True),
        ({"id": "$subject.id"}, {"id": "C-1234"}, ANNA, True),
        ({"id": "$subject.id"}, {"id": "C-9999"}, ANNA, False),
        ({"id": "$subject.id"}, {"id": "c-1234"}, ANNA, False),
        ({"id": "$subject.id"}, {"id": ["C-1234"]}, ANNA, False),
        ({"id": "$subject.id"}, {}, ANNA, False),
        ({"id": "$subject.id"}, {"id": "C-1234"}, None, False),
        ({"id": "$subject.id"}, {"id": None}, None, False),
        ({"id": "$subject.id"}, {"id": 7}, Subject(type="customer", id="7", proof="token"), False),
        ({"id": "$subject.id"}, {"id": "$subject.id"}, ANNA, False),
        ({"id": "$arguments.id"}, {"id": "$arguments.id"}, ANNA, False),
        ({"n": 1}, {"n": 1}, None, True),
        ({"n": 1}, {"n": 1.0}, None, True),
        ({"n": 1}, {"n": True}, None, False),
        ({"n": 1}, {"n": "1"}, None, False),
        ({"n": None}, {"n": None}, None, True),
        ({"n": None}, {}, None, False),
        ({"n": [1, {"a": True}]}, {"n": [1, {"a": True}]}, None, True),
        ({"n": [1, {"a": True}]}, {"n": [1, {"a": 1}]}, None, False),
        ({"n": {"a": 1}}, {"n": {"a": 1, "b": 2}}, None, False),
        ({"id": "$subject.id", "n": 2}, {"id": "C-1234", "n": 3}, ANNA, False),
    ],
)
def test_bound_arguments_are_compared_strictly_and_never_filled_in(where, arguments, subject, may):
    before = dict(arguments)
    problem = next(bound(where, arguments, subject), None)
    assert (problem is None) is may
    assert arguments == before
    if problem is not None:
        assert problem.code == "denied"
        assert ANNA.id not in problem.detail


def test_a_fingerprint_is_of_the_meaning_not_of_the_text():
    one = fingerprint("refund", {"a": 1, "b": [1.5, "é"]})
    assert one == fingerprint("refund", {"b": [1.5, "é"], "a": 1.0})
    assert one == hashlib.sha256('["refund",{"a":1,"b":[1.5,"é"]}]'.encode()).hexdigest()
    assert len({one, fingerprint("refund2", {"a": 1, "b": [1.5, "é"]}), fingerprint("refund", {"a": 2})}) == 3


NAMES = st.one_of(
    st.text(max_size=3), st.sampled_from(["", "a", "\x7f", "\x00", "\b", "\uffff", "😀", "\u2028", "1.0"])
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**54), 2**54), st.floats(allow_nan=False, allow_infinity=False), NAMES
)
VALUES = st.recursive(
    LEAVES, lambda some: st.one_of(st.lists(some, max_size=3), st.dictionaries(NAMES, some, max_size=4)), max_leaves=8
)


@given(VALUES)
@example([1.0, -0.0, 1e16, 1e21, 1e-7, 5e-324])
@example({"\uffff": 1, "😀": 2})
@example(['\x7f\x00\b\t\n\f\r\x1f"\\/'])
@example([2**53 - 1, 2**53])
def test_the_quick_canonical_form_is_rfc_8785s(value):
    def plainly():
        try:
            return rfc8785.dumps(value)
        except rfc8785.CanonicalizationError:
            return "refused"

    try:
        found = canonical(value)
    except Problem:
        found = "refused"
    assert found == plainly()
