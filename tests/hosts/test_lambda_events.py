"""What the Lambda host makes of events and of answers, without a runtime."""

import base64
import json
import logging
from types import SimpleNamespace

import pytest
from echo import EchoApplication
from started import recorded_events

from buspass_aws import asgi
from buspass_aws.invocation import LIMITS, make_handler


def context(milliseconds=30_000):
    return SimpleNamespace(
        function_name="f",
        memory_limit_in_mb="512",
        invoked_function_arn="arn:aws:lambda:eu-central-1:000000000000:function:f",
        aws_request_id="0d5a3f7d",
        get_remaining_time_in_millis=lambda: milliseconds,
    )


def event(path="/", method="GET", **members):
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7", "userAgent": "t"}
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {},
        "requestContext": {"domainName": "x", "http": http, "requestId": "r-1", "stage": "$default"},
        "isBase64Encoded": False,
        **members,
    }


@pytest.fixture(autouse=True)
def _logger():
    """Powertools sets its logger up once a process: undo that, so that each test's output is its own."""
    yield
    logger = logging.getLogger("buspass")
    logger.handlers.clear()
    logger.filters.clear()
    for mark in ("init", "powertools_handler"):
        logger.__dict__.pop(mark, None)


@pytest.fixture
def application():
    return EchoApplication({}, LIMITS)


@pytest.fixture
def started(application):
    async def start(environ, limits):
        assert limits == LIMITS
        application.environ = environ
        return application

    return start


@pytest.fixture
def handler(application, started):
    handler = make_handler(started, {"SHOWN": "here"})
    yield handler
    handler.close()
    assert application.closed


@pytest.mark.parametrize("recorded", recorded_events())
def test_an_event_reaches_the_application_as_the_request_that_was_sent(handler, recorded):
    payload = handler(recorded["event"], context())
    shown = json.loads(payload["body"])
    headers = dict(shown.pop("headers"))
    expected = dict(recorded["request"])
    wanted = expected.pop("headers")
    assert {name: shown[name] for name in expected} == expected
    assert {name: headers[name] for name in wanted} == wanted
    assert payload["statusCode"] == 200
    assert payload["isBase64Encoded"] is False


@pytest.mark.parametrize("recorded", recorded_events())
def test_the_scope_says_who_called_and_where(recorded):
    scope = asgi.to_request(recorded["event"]).scope
    assert scope["client"] == ("203.0.113.7", 0)
    assert scope["server"] == ("k3u7example.lambda-url.eu-central-1.on.aws", 443)
    assert scope["scheme"] == "https"


def without(name):
    members = event()
    del members[name]
    return members


@pytest.mark.parametrize(
    ("malformed", "said"),
    [
        ({}, "Function URL"),
        ({"Records": [{"eventSource": "aws:sqs"}]}, "Function URL"),
        ({**event(), "version": "1.0"}, "Function URL"),
        ({**event(), "requestContext": "x"}, "Function URL"),
        (without("rawPath"), "rawPath"),
        (event(headers={"a": 7}), "malformed"),
        (event(headers=["a"]), "malformed"),
        (event(body="%%%", isBase64Encoded=True), "not base64"),
        (event(body="\ud800"), "malformed"),
        (event(cookies=[1]), "malformed"),
        (event(headers={"x-forwarded-port": "https"}), "malformed"),
    ],
)
def test_what_is_no_http_event_is_refused_with_the_reason(malformed, said):
    with pytest.raises(asgi.EventError, match=said):
        asgi.to_request(malformed)


def answer(body, *headers, status=200):
    return asgi.to_payload(asgi.Answer(status=status, headers=list(headers), body=body))


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", b"plain", "plain"),
        ("text/html; charset=UTF-8", "größer".encode(), "größer"),
        ("application/json", b"{}", "{}"),
        ("application/problem+json", b"{}", "{}"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("text/plain; charset=latin-1", "größer".encode("latin-1"), None),
        ("text/plain", b"\xff\xfe", None),
        ("application/octet-stream", b"text all the same", None),
        ("image/png", b"\x89PNG", None),
    ],
)
def test_a_body_goes_as_text_only_where_it_is_text(content_type, body, text):
    payload = answer(body, (b"Content-Type", content_type.encode()))
    assert payload["isBase64Encoded"] is (text is None)
    assert payload["body"] == (base64.b64encode(body).decode() if text is None else text)
    assert payload["headers"] == {"content-type": content_type}


def test_a_compressed_body_goes_in_base64():
    payload = answer(b"plain", (b"content-type", b"text/plain"), (b"content-encoding", b"gzip"))
    assert payload["isBase64Encoded"] is True


def test_repeated_headers_are_joined_and_cookies_are_kept_apart():
    payload = answer(b"", (b"vary", b"a"), (b"Vary", b"b"), (b"set-cookie", b"x=1, 2"), (b"Set-Cookie", b"y=3"))
    assert payload["headers"] == {"vary": "a, b"}
    assert payload["cookies"] == ["x=1, 2", "y=3"]


def size(payload):
    return len(json.dumps(payload, ensure_ascii=False).encode())


def test_an_answer_that_lambda_cannot_carry_becomes_a_problem():
    payload = answer(b"x" * (asgi.PAYLOAD_BYTES + 1), (b"content-type", b"text/plain"))
    assert payload["statusCode"] == 502
    assert payload["headers"]["content-type"] == "application/problem+json"
    document = json.loads(payload["body"])
    assert document["code"] == "upstream_error"
    assert "6291457 bytes" in document["detail"]


def test_the_largest_answer_that_fits_is_carried():
    envelope = size(answer(b"", (b"content-type", b"text/plain")))
    body = b"x" * (asgi.PAYLOAD_BYTES - envelope)
    assert answer(body, (b"content-type", b"text/plain"))["statusCode"] == 200
    assert answer(body + b"x", (b"content-type", b"text/plain"))["statusCode"] == 502


def test_text_that_escapes_would_swell_over_the_limit_goes_in_base64():
    body = b'"' * (asgi.PAYLOAD_BYTES * 2 // 3)
    payload = answer(body, (b"content-type", b"text/plain"))
    assert payload["statusCode"] == 200
    assert base64.b64decode(payload["body"]) == body


def test_one_application_serves_every_invocation_on_one_loop(handler, application):
    assert [handler(event(), context())["headers"]["x-served"] for _ in range(3)] == ["1", "2", "3"]
    assert application.served == 3


def test_the_application_starts_with_the_environment_it_was_given(handler):
    assert handler(event("/environ/SHOWN"), context())["body"] == "here"


def test_the_application_is_told_the_time_that_is_left(handler):
    assert json.loads(handler(event(), context(30_000))["body"])["deadline"] == 29.5


def test_a_call_that_overruns_is_ended_before_lambda_kills_the_instance(handler):
    payload = handler(event("/slow/5"), context(300))
    assert payload["statusCode"] == 504
    assert json.loads(payload["body"])["code"] == "deadline_exceeded"
    assert handler(event("/mirror"), context())["statusCode"] == 201


def test_a_fault_is_a_problem_and_the_instance_lives_on(capsys, started):
    handler = make_handler(started, {})
    payload = handler(event("/boom"), context())
    assert (payload["statusCode"], json.loads(payload["body"])["code"]) == (500, "internal")
    assert "boom" not in payload["body"]
    assert "ValueError: boom" in capsys.readouterr().out
    assert handler(event("/mirror"), context())["statusCode"] == 201
    handler.close()


SCHEDULED = {"version": "0", "source": "aws.events", "detail-type": "Scheduled Event", "detail": {}, "resources": []}


def test_a_schedule_of_eventbridge_is_a_tick_of_the_timer_and_no_request(handler, application):
    assert handler(SCHEDULED, context(60_000)) == {"looked": 7}
    assert (application.ticked, application.served) == (30.0, 0)


def test_a_tick_that_fails_is_logged_and_the_instance_lives_on(capsys, started):
    handler = make_handler(started, {"TICK": "fails"})
    assert handler(SCHEDULED, context()) == {"looked": 0}
    assert "RuntimeError: no store" in capsys.readouterr().out
    assert handler(event("/mirror"), context())["statusCode"] == 201
    handler.close()


def test_the_log_and_the_metrics_hold_no_secret(capsys, monkeypatch, started):
    monkeypatch.setenv("POWERTOOLS_LOGGER_LOG_EVENT", "true")
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "DEBUG")
    handler = make_handler(started, {})
    secret = {"headers": {"authorization": "Bearer s3cret"}, "rawQueryString": "key=s3cret", "body": "s3cret"}
    handler(event("/mirror", method="POST", **secret), context())
    handler.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "s3cret" not in json.dumps(lines)
    access = next(line for line in lines if line.get("message") == "request")
    assert {name: access[name] for name in ("method", "path", "status", "correlation_id")} == {
        "method": "POST", "path": "/mirror", "status": 201, "correlation_id": "r-1",
    }  # fmt: skip
    measured = [line for line in lines if "_aws" in line]
    assert {"Requests", "Latency", "ServerErrors"} <= set().union(*measured)


def test_a_start_that_fails_fails_the_init():
    async def start(environ, limits):
        raise RuntimeError("no configuration")

    with pytest.raises(RuntimeError, match="no configuration"):
        make_handler(start, {})
