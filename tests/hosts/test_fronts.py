"""The hosts as processes, by their real runtimes: what goes in and out is the same at each."""

import asyncio
import os
import signal
import time

import httpx
import pytest
from started import SECONDS

# What a platform adds to a request, tells of itself or keeps to one hop; everything else must be the same.
PLATFORM = {
    "connection", "host", "x-amzn-trace-id", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto",
}  # fmt: skip

REQUESTS = [
    pytest.param("GET", "/v1/tasks?status=open&label=a&label=b%20c", {}, b"", id="query"),
    pytest.param("POST", "/v1/chat", {"content-type": "application/json"}, '{"a": "ü ✅"}'.encode(), id="json"),
    pytest.param("PUT", "/v1/x", {"content-type": "application/octet-stream"}, bytes(range(256)), id="binary"),
    pytest.param("POST", "/v1/x", {"content-type": "application/json"}, b'{"a": "\xff"}', id="invalid-utf-8"),
    pytest.param("DELETE", "/v1/x", {}, b"", id="delete"),
    pytest.param("GET", "/v1/get%20customer%2Fall", {}, b"", id="encoded-path"),
    pytest.param("GET", "/v1/%C3%BC/%E2%9C%85", {}, b"", id="unicode-path"),
    pytest.param("GET", "/", {}, b"", id="root"),
    pytest.param("GET", "/v1/x", {"cookie": "a=1; b=2"}, b"", id="cookies"),
    pytest.param("GET", "/v1/x", {"X-Label": "größer".encode("latin-1")}, b"", id="latin-1"),
]


def comparable(response):
    shown = response.json()
    shown["headers"] = [pair for pair in shown["headers"] if pair[0] not in PLATFORM]
    return response.status_code, {n: v for n, v in shown.items() if n not in {"deadline", "request_bytes"}}


@pytest.mark.parametrize(("method", "path", "headers", "body"), REQUESTS)
def test_every_host_hands_on_the_same_request(fronts, method, path, headers, body):
    seen = {
        name: comparable(httpx.request(method, url + path, headers=headers, content=body, timeout=SECONDS))
        for name, url in fronts.items()
    }
    assert all(one == seen["onprem"] for one in seen.values()), seen


@pytest.mark.parametrize("path", ["/mirror", "/binary", "/twice", "/empty", "/large/4000000"])
def test_every_host_hands_back_the_same_answer(fronts, path):
    def answered(url):
        response = httpx.post(url + path, content=b'{"a": 1}', timeout=SECONDS)
        vary = ", ".join(response.headers.get_list("vary"))
        return response.status_code, response.headers["content-type"], vary, response.content

    seen = {name: answered(url) for name, url in fronts.items()}
    assert all(one == seen["onprem"] for one in seen.values())


def test_repeated_headers_arrive_with_every_value(front):
    response = httpx.get(front + "/v1/x", headers=[("X-A", "1"), ("X-A", "2")], timeout=SECONDS)
    values = ",".join(value for name, value in response.json()["headers"] if name == "x-a")
    assert values.replace(", ", ",") == "1,2"


def test_each_cookie_comes_back_by_itself(front):
    response = httpx.get(front + "/cookies", timeout=SECONDS)
    assert [cookie.split(";")[0] for cookie in response.headers.get_list("set-cookie")] == ["a=1", "b=2"]
    assert "httponly" in response.headers.get_list("set-cookie")[0].lower()


def test_head_is_answered_without_a_body(front):
    response = httpx.head(front + "/mirror", timeout=SECONDS)
    assert (response.status_code, response.content) == (201, b"")


async def test_twenty_requests_in_parallel_get_each_its_own_answer(front):
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        bodies = [f'{{"request": {number}}}' for number in range(20)]
        answers = await asyncio.gather(*(client.post(front + "/mirror", content=body) for body in bodies))
    assert [answer.text for answer in answers] == bodies


async def in_parallel(url, count, seconds):
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(client.get(f"{url}/slow/{seconds}") for _ in range(count)))
        return time.perf_counter() - began, [answer.text for answer in answers]


async def test_an_instance_serves_one_invocation_at_a_time_and_instances_work_in_parallel(fronts):
    async with asyncio.timeout(SECONDS):  # the front listens when one of them polls: the other may still be starting
        while len(set((await in_parallel(fronts["lambda"], 4, 0.05))[1])) < 2:
            pass
    elapsed, processes = await in_parallel(fronts["lambda"], 20, 0.05)
    assert len(set(processes)) == 2
    assert elapsed > 20 / 2 * 0.05


def test_a_function_sees_the_variables_it_was_given_and_its_deadline(fronts):
    assert httpx.get(fronts["lambda"] + "/environ/SHOWN", timeout=SECONDS).text == "here"
    assert httpx.get(fronts["lambda"] + "/environ/AWS_REGION", timeout=SECONDS).text == "eu-central-1"
    deadline = httpx.get(fronts["lambda"] + "/", timeout=SECONDS).json()["deadline"]
    assert 30 < deadline < 60, "what is left of a minute: a busy machine takes of it"


@pytest.mark.parametrize("length", [6 * 1024 * 1024 + 1, 6 * 1024 * 1024 - 10])
def test_what_lambda_cannot_carry_in_is_refused_before_the_function(fronts, length):
    response = httpx.post(fronts["lambda"] + "/mirror", content=b"x" * length, timeout=SECONDS)
    assert response.status_code == 413


def test_what_lambda_cannot_carry_out_is_a_problem(fronts):
    response = httpx.get(fronts["lambda"] + "/large/7000000", timeout=SECONDS)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")


def test_a_crash_costs_its_own_invocation_and_the_instance_is_replaced(launch):
    with launch(
        ["-m", "buspass.testing.lambda_runtime", "--handler", "lambda_echo.handler", "--instances", "1"]
    ) as front:
        before = httpx.get(front.url + "/slow/0", timeout=SECONDS).text
        crashed = httpx.get(front.url + "/exit", timeout=SECONDS)
        assert (crashed.status_code, crashed.text) == (502, "Internal Server Error")
        after = httpx.get(front.url + "/slow/0", timeout=SECONDS).text
        assert after != before
        os.kill(int(after), signal.SIGKILL)
        assert httpx.get(front.url + "/slow/0", timeout=SECONDS).text not in {before, after}
    assert front.status == 0


def test_an_instance_that_overruns_its_time_out_is_killed(launch):
    arguments = ["-m", "buspass.testing.lambda_runtime", "--handler", "lambda_echo.handler"]
    with launch([*arguments, "--instances", "1", "--timeout", "2"]) as front:
        before = httpx.get(front.url + "/slow/0", timeout=SECONDS).text
        began = time.perf_counter()
        assert httpx.get(front.url + "/block/50", timeout=SECONDS).status_code == 502
        assert time.perf_counter() - began < 40
        assert httpx.get(front.url + "/slow/0", timeout=SECONDS).text != before


def test_stopping_a_front_ends_its_instances(launch):
    with launch(
        ["-m", "buspass.testing.lambda_runtime", "--handler", "lambda_echo.handler", "--instances", "1"]
    ) as front:
        instance = int(httpx.get(front.url + "/slow/0", timeout=SECONDS).text)
    with pytest.raises(ProcessLookupError):
        os.kill(instance, 0)


def test_a_function_that_cannot_be_imported_says_so_and_listens_nowhere(launch):
    front = launch(["-m", "buspass.testing.lambda_runtime", "--handler", "nothing_here.handler"])
    assert front.process.stdout.read() == ""
    front.process.stdout.close()
    assert front.process.wait(SECONDS) == 1
