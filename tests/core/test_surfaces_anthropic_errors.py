"""Our problems in Anthropic's envelope, as its official SDK understands them."""

import anthropic
import httpx2
import pytest

from buspass.errors import CODES, Problem
from buspass.surfaces import anthropic_messages as surface
from buspass.surfaces.registry import SURFACES

EXCEPTIONS = [
    ("invalid_request", anthropic.BadRequestError),
    ("unauthenticated", anthropic.AuthenticationError),
    ("denied", anthropic.PermissionDeniedError),
    ("task_killed", anthropic.PermissionDeniedError),
    ("not_found", anthropic.NotFoundError),
    ("fenced", anthropic.ConflictError),
    ("unsupported", anthropic.UnprocessableEntityError),
    ("budget_held", anthropic.RateLimitError),
    ("upstream_error", anthropic.InternalServerError),
]


@pytest.fixture
def ask(monkeypatch):
    """Asks through the official SDK (two retries) a server that always has this problem: (exception, requests)."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def run(problem: Problem):
        requests = []

        def serve(request):
            requests.append(request)
            status, headers, document = surface.problem(problem)
            return httpx2.Response(status, headers=headers, json=document)

        with httpx2.Client(transport=httpx2.MockTransport(serve)) as transport:
            client = anthropic.Anthropic(api_key="k", base_url="http://gateway", max_retries=2, http_client=transport)
            with pytest.raises(anthropic.APIStatusError) as caught:
                client.messages.create(model="plan", max_tokens=9, messages=[{"role": "user", "content": "x"}])
        return caught.value, len(requests), pauses

    return run


@pytest.mark.parametrize(("code", "exception"), EXCEPTIONS, ids=[code for code, _ in EXCEPTIONS])
def test_the_sdk_raises_the_exception_that_fits(ask, code, exception):
    error, _, _ = ask(Problem(code, "what to mend"))
    assert isinstance(error, exception)
    assert error.status_code == CODES[code].status
    assert error.body["error"]["code"] == code
    assert "what to mend" in error.message


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_sdk_repeats_exactly_what_a_repetition_can_mend(ask, code):
    _, requests, _ = ask(Problem(code, "x"))
    assert requests == (3 if CODES[code].retryable else 1)


def test_the_sdk_waits_as_long_as_it_is_told(ask):
    _, _, pauses = ask(Problem("budget_held", "x", retry_after=6.2))
    assert pauses == [7.0, 7.0]


def test_an_envelope_carries_our_members():
    found = Problem("unsupported", "no", errors=[{"path": "stream", "message": "no"}], limit="cost")
    found.task, found.call = "t1", "c1"
    status, headers, document = surface.problem(found)
    assert (status, headers["x-should-retry"], document["type"]) == (422, "false", "error")
    error = document["error"]
    assert (error["type"], error["message"], error["code"]) == ("invalid_request_error", "no", "unsupported")
    assert error.items() >= {"task": "t1", "call": "c1", "limit": "cost", "retryable": False}.items()
    assert error["errors"] == [{"path": "stream", "message": "no"}]


@pytest.mark.parametrize("name", SURFACES)
def test_a_problem_in_a_stream_may_tell_what_it_cost(name):
    found = SURFACES[name].stream_problem(Problem("task_killed", "stopped"), {"cost": 0.5})
    assert found.endswith(b"\n\n")
    assert b'"buspass":{"cost":0.5}' in found
    assert b'"code":"task_killed"' in found
    assert b"buspass" not in SURFACES[name].stream_problem(Problem("denied", "no"))
