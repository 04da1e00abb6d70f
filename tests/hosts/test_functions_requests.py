"""What the Functions host makes of requests and of answers, without a runtime."""

import asyncio
import json

import azure.functions as func
import pytest
from echo import EchoApplication

from buspass_azure import asgi
from buspass_azure.invocation import LIMITS, Worker, make_function_app


def request(url="https://x.example/", method="GET", headers=None, body=b""):
    return func.HttpRequest(method=method, url=url, headers=headers or {}, params={}, route_params={}, body=body)


async def start(environ, limits):
    return EchoApplication(environ, limits)


async def test_a_request_reaches_the_application_as_it_was_sent():
    url = "https://x.example/v1/get%20customer%2Fall/%C3%BC?a=1&a=b%20c&empty="
    answer = await Worker(start, {})(request(url, "post", {"X-Label": "a,b", "Cookie": "s=1; t=2"}, b"\x00\xff"))
    shown = json.loads(answer.get_body())
    assert shown["method"] == "POST"
    assert shown["path"] == "/v1/get customer/all/ü"
    assert shown["raw_path"] == "/v1/get%20customer%2Fall/%C3%BC"
    assert shown["query"] == "a=1&a=b%20c&empty="
    assert shown["headers"] == [["cookie", "s=1; t=2"], ["x-label", "a,b"]]
    assert shown["body"] == "AP8="
    assert shown["request_bytes"] == LIMITS.request_bytes


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", None),
        ("203.0.113.7:50123", ("203.0.113.7", 50123)),
        ("198.51.100.1, 203.0.113.7:50123", ("203.0.113.7", 50123)),
        ("203.0.113.7", ("203.0.113.7", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("2001:db8::1", ("2001:db8::1", 0)),
    ],
)
def test_the_client_is_whom_the_platform_saw(forwarded, client):
    assert asgi.to_scope(request(headers={"X-Forwarded-For": forwarded}))["client"] == client


def test_the_root_of_the_app_is_a_path():
    assert asgi.to_scope(request("https://x.example"))["raw_path"] == b"/"
    assert asgi.to_scope(request("http://x.example:81/a"))["server"] == ("x.example", 81)


def test_repeated_headers_are_joined_and_each_cookie_is_kept():
    pairs = [
        (b"vary", b"a"),
        (b"Vary", b"b"),
        (b"set-cookie", b"x=1"),
        (b"Set-Cookie", b"y=2"),
        (b"content-type", b"a/b"),
    ]
    answer = asgi.to_response(418, pairs, b"\x00")
    assert (answer.status_code, answer.get_body()) == (418, b"\x00")
    assert answer.headers.get_all("vary") == ["a, b"]
    assert answer.headers.get_all("set-cookie") == ["x=1", "y=2"]
    assert answer.headers.get_all("content-type") == ["a/b"]


async def test_the_application_starts_once_and_a_failed_start_is_tried_again():
    starts = []

    async def flaky(environ, limits):
        starts.append(limits)
        if len(starts) == 1:
            raise OSError("store out of reach")
        return EchoApplication(environ, limits)

    worker = Worker(flaky, {})
    assert (await worker(request())).status_code == 500
    assert [(await worker(request())).headers["x-served"] for _ in range(3)] == ["1", "2", "3"]
    assert starts == [LIMITS, LIMITS]


async def test_requests_that_arrive_while_the_application_starts_wait_for_the_one_start():
    starts = []

    async def slow(environ, limits):
        starts.append(limits)
        await asyncio.sleep(0)
        return EchoApplication(environ, limits)

    worker = Worker(slow, {})
    answers = await asyncio.gather(*(worker(request()) for _ in range(5)))
    assert len(starts) == 1
    assert sorted(answer.headers["x-served"] for answer in answers) == ["1", "2", "3", "4", "5"]


async def test_a_fault_is_a_problem_that_gives_nothing_away(caplog):
    answer = await Worker(start, {})(request("https://x.example/boom"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.get_body())["code"] == "internal"
    assert b"boom" not in answer.get_body()
    assert "ValueError: boom" in caplog.text


async def test_close_closes_what_was_started():
    application = EchoApplication({}, LIMITS)

    async def started(environ, limits):
        return application

    worker = Worker(started, {})
    await worker.close()
    assert not application.closed
    await worker(request())
    await worker.close()
    assert application.closed


def test_one_anonymous_function_takes_every_path_and_method():
    (function,) = make_function_app(start, {}).get_functions()
    trigger = next(b for b in function.get_bindings_dict()["bindings"] if b["type"] == "httpTrigger")
    assert trigger["route"] == "{*path}"
    assert str(trigger["authLevel"]).upper().endswith("ANONYMOUS")
    assert not trigger.get("methods")
