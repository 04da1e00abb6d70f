"""What the function app makes of forwarded requests, without a runtime."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from echo import EchoApplication

from buspass_azure import asgi
from buspass_azure.http_stream import INVOCATION_HEADER, Answered, Exchange, WebApp
from buspass_azure.invocation import LIMITS, Worker, make_function_app


def scope(path="/", method="GET", headers=None, query=b""):
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return {
        "type": "http", "method": method, "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": query, "headers": pairs, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 6),
    }  # fmt: skip


class Answer:
    """An exchange, and what came back in it."""

    def __init__(self, body=b"", **parts):
        incoming = [{"type": "http.request", "body": body}]
        self.messages = []

        async def receive():
            return incoming.pop()

        async def send(message):
            self.messages.append(message)

        self.exchange = Exchange(scope(**parts), receive, send)

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def answered(worker, **parts):
    answer = Answer(**parts)
    assert isinstance(await worker(answer.exchange), Answered)
    return answer


async def start(environ, limits):
    return EchoApplication(environ, limits)


async def test_a_request_reaches_the_application_as_it_was_sent():
    sent = {"X-Label": "a,b", "Cookie": "s=1; t=2", INVOCATION_HEADER: "i-1"}
    query = b"a=1&a=b%20c&empty="
    answer = await answered(Worker(start, {}), path="/v1/x", method="POST", headers=sent, query=query, body=b"\x00\xff")
    shown = json.loads(answer.body)
    assert (shown["method"], shown["path"], shown["query"]) == ("POST", "/v1/x", query.decode())
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
    assert asgi.to_scope(scope(headers={"X-Forwarded-For": forwarded}))["client"] == client


@pytest.mark.parametrize(
    ("host", "proto", "scheme", "server"),
    [
        ("x.example", "https", "https", ("x.example", 443)),
        ("x.example:81", "http", "http", ("x.example", 81)),
        ("x.example", "http, https", "https", ("x.example", 443)),
        ("x.example", "http", "http", ("x.example", 80)),
    ],
)
def test_scheme_and_server_are_what_the_client_called(host, proto, scheme, server):
    seen = asgi.to_scope(scope(headers={"Host": host, "X-Forwarded-Proto": proto}))
    assert (seen["scheme"], seen["server"]) == (scheme, server)


async def test_each_message_leaves_when_the_application_sends_it():
    answer = await answered(Worker(start, {}), path="/twice")
    assert [message.get("more_body") for message in answer.messages] == [None, True, None]
    assert [pair for pair in answer.messages[0]["headers"] if pair[0] == b"vary"] == [
        (b"vary", b"origin"),
        (b"vary", b"accept"),
    ]


async def test_the_application_starts_once_and_a_failed_start_is_tried_again():
    starts = []

    async def flaky(environ, limits):
        starts.append(limits)
        if len(starts) == 1:
            raise OSError("store out of reach")
        return EchoApplication(environ, limits)

    worker = Worker(flaky, {})
    assert (await answered(worker)).status == 500
    assert [(await answered(worker)).headers["x-served"] for _ in range(3)] == ["1", "2", "3"]
    assert starts == [LIMITS, LIMITS]


async def test_requests_that_arrive_while_the_application_starts_wait_for_the_one_start():
    starts = []

    async def slow(environ, limits):
        starts.append(limits)
        await asyncio.sleep(0)
        return EchoApplication(environ, limits)

    worker = Worker(slow, {})
    answers = await asyncio.gather(*(answered(worker) for _ in range(5)))
    assert len(starts) == 1
    assert sorted(answer.headers["x-served"] for answer in answers) == ["1", "2", "3", "4", "5"]


async def test_a_fault_is_a_problem_that_gives_nothing_away(caplog):
    answer = await answered(Worker(start, {}), path="/boom")
    assert answer.status == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["code"] == "internal"
    assert b"boom" not in answer.body
    assert "ValueError: boom" in caplog.text


async def test_a_fault_in_mid_answer_cuts_it(caplog):
    async def broken(environ, limits):
        async def application(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError("boom")

        return application

    answer = Answer()
    with pytest.raises(ValueError, match="boom"):
        await Worker(broken, {})(answer.exchange)
    assert [message["type"] for message in answer.messages] == ["http.response.start"]
    assert "ValueError: boom" in caplog.text


async def test_close_closes_what_was_started():
    application = EchoApplication({}, LIMITS)

    async def started(environ, limits):
        return application

    worker = Worker(started, {})
    await worker.close()
    assert not application.closed
    await answered(worker)
    await worker.close()
    assert application.closed


def test_one_anonymous_function_takes_every_path_and_method():
    found = make_function_app(start, {}).get_functions()
    (function,) = [each for each in found if each.get_function_name() == "gateway"]
    trigger = next(b for b in function.get_bindings_dict()["bindings"] if b["type"] == "httpTrigger")
    assert trigger["route"] == "{*path}"
    assert str(trigger["authLevel"]).upper().endswith("ANONYMOUS")
    assert not trigger.get("methods")


http_coordinator = SimpleNamespace(_context_references={})
"""Named as the runtime names its own, beside the function that it registers."""


async def test_what_the_runtime_keeps_of_an_invocation_is_dropped_with_it():
    async def take(exchange):
        http_coordinator._context_references[exchange.headers[INVOCATION_HEADER]] = "kept for ever"
        return Answered()

    app = WebApp()
    app.route(take)
    await app.get_app()(scope(headers={INVOCATION_HEADER: "i-1"}), None, None)
    assert http_coordinator._context_references == {}


async def test_the_timer_trigger_is_a_tick_of_the_application():
    application = await start({}, LIMITS)

    async def once(environ, limits):
        return application

    await Worker(once, {}).tick()
    assert application.ticked == 40.0


def test_the_function_app_has_a_timer_that_ticks_each_minute():
    (timer,) = [each for each in make_function_app(start, {}).get_functions() if each.get_function_name() == "tick"]
    assert json.loads(str(timer))["bindings"][0]["schedule"] == "0 * * * * *"
