"""Arguments become one request to one path; answers become results, facts and an outcome, never text for a model."""

import json

import pytest
from msgspec.structs import replace

from buspass.config.settings import Auth, Host, Step, Tool
from buspass.errors import Problem
from buspass.ports.outbound import Ambiguous, NotSent, Response, TimedOut
from buspass.tools import auth as tool_auth
from buspass.tools import catalog, http

GET = Tool(
    name="get_order",
    description="One order.",
    hosts=None,
    method="GET",
    url="http://data.example/orders/{id}",
    input={"type": "object", "properties": {"id": {"type": "string"}}},
    output={"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
    timeout=3.0,
    auth=Auth(kind="none"),
    keep={},
    statuses=(404,),
    idempotent=True,
)
POST = replace(GET, name="refund", method="POST", url="http://pay.example/refunds/{id}/pay", idempotent=False)
LOOSE = replace(GET, output=None)


def answer(status=200, body=b'{"total": 1}', kind="application/json"):
    return Response(status=status, headers={"content-type": kind}, body=body)


def sent(tool, arguments, **options):
    return http.request(tool, arguments, **{"headers": {}, "deadline_s": 10.0, **options})


@pytest.mark.parametrize(
    ("url", "arguments", "expected"),
    [
        ("http://h/o/{id}", {"id": "O-1"}, "http://h/o/O-1"),
        ("http://h/o/{id}", {"id": "a/b?c#d%2e é"}, "http://h/o/a%2Fb%3Fc%23d%252e%20%C3%A9"),
        ("http://h/o/{id}", {"id": "..."}, "http://h/o/..."),
        ("http://h/o/{id}", {"id": 7}, "http://h/o/7"),
        ("http://h/o/{id}", {"id": True}, "http://h/o/true"),
        ("http://h/{a}/{b}?v=1", {"a": "{b}", "b": "y", "q": "z"}, "http://h/%7Bb%7D/y?v=1&q=z"),
        ("http://h/o", {"q": ["a b", "c&d"], "n": 1.5, "x": None}, "http://h/o?q=a%20b&q=c%26d&n=1.5"),
        ("http://h/o", {"flag": False, "list": []}, "http://h/o?flag=false"),
        ("http://h:81/o#frag", {"id": "x"}, "http://h:81/o?id=x"),
    ],
)
def test_arguments_stay_inside_their_segment_or_their_query(url, arguments, expected):
    request = sent(replace(GET, url=url), arguments)
    assert (request.method, request.url, request.body) == ("GET", expected, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": ""},
        {"id": "."},
        {"id": ".."},
        {"id": "../admin"},
        {"id": "x/.."},
        {"id": "x/./y"},
        {"id": "..\\admin"},
        {},
        {"id": None},
        {"id": ["a"]},
        {"id": {"a": 1}},
        {"id": "x", "q": {"a": 1}},
        {"id": "x", "q": [None]},
        {"id": "x", "q": [["y"]]},
    ],
)
def test_what_no_url_can_carry_is_invalid_arguments(arguments):
    with pytest.raises(Problem) as caught:
        sent(GET, arguments)
    assert caught.value.code == "invalid_arguments"
    assert caught.value.errors[0]["path"] in {"/id", "/q"}


def test_a_post_carries_the_rest_as_json_and_the_headers_given():
    request = sent(POST, {"id": "O-1", "why": "é", "n": None}, headers={"Txn-Token": "t"}, deadline_s=2.0)
    assert request.url == "http://pay.example/refunds/O-1/pay"
    assert json.loads(request.body) == {"why": "é", "n": None}
    assert request.headers == {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Txn-Token": "t",
    }
    assert request.timeout == 2.0
    assert sent(POST, {"id": "x"}).timeout == 3.0
    assert request.limit == GET.max_bytes


def test_without_time_left_nothing_is_built():
    with pytest.raises(Problem, match="deadline_exceeded"):
        sent(GET, {"id": "x"}, deadline_s=0.0)


@pytest.mark.parametrize(
    ("tool", "response", "value"),
    [
        (GET, answer(), {"total": 1}),
        (GET, answer(201, b'{"total": 1.5, "more": [1]}'), {"total": 1.5, "more": [1]}),
        (replace(GET, output=None), answer(404, b'{"error": "no order"}'), {"error": "no order"}),
        (LOOSE, answer(204, b""), None),
        (LOOSE, answer(200, b" \n"), None),
        (replace(GET, output={"type": ["object", "null"]}), answer(204, b""), None),
        (LOOSE, answer(200, b'"text"', "text/plain"), "text"),
    ],
)
def test_a_result_is_the_parsed_json_of_a_success_or_a_listed_status(tool, response, value):
    assert http.result(tool, response) == value


@pytest.mark.parametrize(
    ("tool", "response", "kind"),
    [
        (GET, answer(500, b'{"total": 1}'), "error_status"),
        (GET, answer(300), "error_status"),
        (GET, answer(302), "error_status"),
        (GET, answer(400, b"SECRET"), "error_status"),
        (GET, answer(200, b"<html>SECRET", "text/html"), "error_page"),
        (GET, answer(200, b"  <!doctype SECRET", "application/json"), "error_page"),
        (GET, answer(200, b"SECRET"), "not_json"),
        (GET, answer(200, b'{"total": NaN}'), "not_json"),
        (GET, answer(200, b'{"total": 1, "total": 2}'), "not_json"),
        (GET, answer(200, b"\xff"), "not_json"),
        (GET, answer(200, b"[" * 100_000), "not_json"),
        (GET, answer(404, b"SECRET"), "not_json"),
        (GET, answer(204, b""), "empty"),
        (GET, answer(200, b'"' + b"x" * GET.max_bytes + b'"'), "too_large"),
        (GET, answer(200, b'{"total": "SECRET"}'), "schema"),
        (GET, answer(200, b'{"SECRET": 1}'), "schema"),
        (GET, answer(404, b'{"SECRET": 1}'), "schema"),
    ],
    ids=range(17),
)
def test_any_other_answer_is_an_upstream_error_that_withholds_the_body(tool, response, kind):
    with pytest.raises(Problem) as caught:
        http.result(tool, response)
    problem = caught.value
    assert problem.code == "upstream_error"
    assert problem.extra["upstream"] == {"status": response.status, "kind": kind}
    assert "SECRET" not in json.dumps(problem.document())
    assert bool(problem.errors) is (kind == "schema")


@pytest.mark.parametrize(
    ("given", "idempotent", "not_idempotent"),
    [
        (answer(200), "succeeded", "succeeded"),
        (answer(204, b"<html>"), "succeeded", "succeeded"),
        (answer(404), "succeeded", "succeeded"),
        (answer(400), "failed", "failed"),
        (answer(429), "failed", "failed"),
        (answer(303), "failed", "unknown"),
        (answer(500), "failed", "unknown"),
        (answer(503), "failed", "unknown"),
        (NotSent("refused"), "failed", "failed"),
        (TimedOut("late"), "failed", "unknown"),
        (Ambiguous("broken"), "failed", "unknown"),
    ],
    ids=repr,
)
def test_the_outcome_follows_the_table(given, idempotent, not_idempotent):
    assert http.outcome(GET, given) == idempotent
    assert http.outcome(POST, given) == not_idempotent


@pytest.mark.parametrize(
    ("tool", "error", "code", "doubt"),
    [
        (GET, NotSent("SECRET"), "upstream_error", False),
        (POST, NotSent("SECRET"), "upstream_error", False),
        (GET, TimedOut("SECRET"), "upstream_timeout", False),
        (POST, TimedOut("SECRET"), "upstream_timeout", True),
        (POST, Ambiguous("SECRET"), "upstream_error", True),
        (GET, Ambiguous("SECRET"), "upstream_error", False),
    ],
)
def test_without_an_answer_the_client_hears_whether_it_may_have_happened(tool, error, code, doubt):
    problem = http.failure(tool, error)
    assert problem.code == code
    assert ("do not repeat" in problem.detail) is doubt
    assert "SECRET" not in json.dumps(problem.document())


def test_a_doubtful_status_says_do_not_repeat():
    with pytest.raises(Problem, match="do not repeat"):
        http.result(POST, answer(500))


RESULT = {
    "ok": True,
    "n": 3,
    "whole": 4.0,
    "largest": 2**53 - 1,
    "id": "O-1",
    "list": [{"x": "y"}],
    "a/b": {"~": 7},
    "none": None,
}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({}, {}),
        ({"ok": "/ok", "n": "/n", "w": "/whole", "l": "/largest"}, {"ok": True, "n": 3, "w": 4, "l": 2**53 - 1}),
        ({"x": "/list/0/x", "t": "/a~1b/~0"}, {"x": "y", "t": 7}),
        ({"a": "/missing", "b": "/list/1", "c": "/list/-", "d": "/list/00", "e": "/id/0", "f": "/none"}, {}),
    ],
)
def test_facts_are_what_the_pointers_find(keep, kept):
    found = http.facts(replace(GET, keep=keep), RESULT)
    assert found == kept
    assert [type(value) for value in found.values()] == [type(value) for value in kept.values()]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"v": 1.5}, "schema"),
        ({"v": []}, "schema"),
        ({"v": {}}, "schema"),
        ({"v": 2**53}, "schema"),
        ({"v": "é" * 600}, "too_large"),
    ],
)
def test_facts_that_a_store_can_not_keep_exactly_are_refused(value, kind):
    with pytest.raises(Problem) as caught:
        http.facts(replace(GET, keep={"v": "/v"}), value)
    assert caught.value.extra["upstream"] == {"kind": kind}


def host(name):
    empty = dict.fromkeys(("signer", "state", "queue", "blobs"), "")
    return Host(name=name, url=f"https://{name}.example/", cloud=name, region="r", **empty)


HOSTS = {name: host(name) for name in ("aws", "azure", "onprem")}
TOOLS = {"get_order": GET, "refund": replace(POST, hosts=("azure", "aws"))}
ROUTE = {name: Step(tool=name) for name in TOOLS}


def test_the_list_of_tools_says_where_each_is_called():
    listed = catalog.functions(ROUTE, TOOLS, HOSTS, "onprem")
    assert [entry["url"] for entry in listed] == [
        "https://onprem.example/v1/tools/get_order",
        "https://azure.example/v1/tools/refund",
    ]
    assert listed[0]["type"] == "function"
    assert listed[0]["function"] == {
        "name": "get_order",
        "description": "One order.",
        "parameters": {**GET.input, "additionalProperties": False},
    }
    assert catalog.functions(ROUTE, TOOLS, HOSTS, "aws")[1]["url"] == "https://aws.example/v1/tools/refund"
    assert catalog.functions({}, TOOLS, HOSTS, "aws") == []


def test_a_refusal_does_not_grow_with_the_name_that_was_asked_for():
    refused = catalog.granted("x" * 100_000, ROUTE, TOOLS, HOSTS, "aws")
    assert "x" * 128 in refused.detail
    assert len(refused.detail) < 400


def test_a_tool_outside_the_route_or_the_host_is_not_granted():
    assert catalog.granted("refund", ROUTE, TOOLS, HOSTS, "aws") is None
    outside = catalog.granted("wire_money", ROUTE, TOOLS, HOSTS, "aws")
    elsewhere = catalog.granted("refund", ROUTE, TOOLS, HOSTS, "onprem")
    assert outside is not None
    assert elsewhere is not None
    assert outside.code == elsewhere.code == "tool_not_granted"
    assert outside.errors[0]["allowed"] == ["get_order", "refund"]
    assert elsewhere.extra["url"] == "https://azure.example/v1/tools/refund"


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (Auth(kind="none"), {}, {}),
        (Auth(kind="bearer", secret="S"), {"secret": "s3\n"}, {"Authorization": "Bearer s3"}),
        (Auth(kind="header", header="x-key", secret="S"), {"secret": "s3"}, {"x-key": "s3"}),
        (Auth(kind="txn", audience="a"), {"txn_token": "jwt", "secret": "s3"}, {"Txn-Token": "jwt"}),
        (
            Auth(kind="none"),
            {"traceparent": "00-a-b-01", "idempotency_key": "k", "txn_token": "jwt"},
            {"traceparent": "00-a-b-01", "Idempotency-Key": "k"},
        ),
    ],
)
def test_each_kind_of_auth_sends_its_header_and_no_other(kind, given, expected):
    assert tool_auth.headers(kind, **given) == expected


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Auth(kind="bearer", secret="S"), {}),
        (Auth(kind="bearer", secret="S"), {"secret": " \n"}),
        (Auth(kind="header", header="x", secret="S"), {"secret": "a\r\nHost: evil"}),
        (Auth(kind="txn", audience="a"), {"secret": "s"}),
    ],
)
def test_without_a_usable_credential_nothing_is_sent(kind, given):
    with pytest.raises(Problem, match="internal") as caught:
        tool_auth.headers(kind, **given)
    assert "evil" not in caught.value.detail
