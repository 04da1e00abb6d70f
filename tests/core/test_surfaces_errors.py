"""Our problems in OpenAI's envelope, as its official SDK understands them."""

import httpx
import openai
import pytest

from buspass.errors import CODES, Problem
from buspass.surfaces import openai_chat as surface

EXCEPTIONS = [
    ("invalid_request", openai.BadRequestError),
    ("unauthenticated", openai.AuthenticationError),
    ("budget_exhausted", openai.APIStatusError),
    ("denied", openai.PermissionDeniedError),
    ("task_killed", openai.PermissionDeniedError),
    ("not_found", openai.NotFoundError),
    ("fenced", openai.ConflictError),
    ("unsupported", openai.UnprocessableEntityError),
    ("budget_held", openai.RateLimitError),
    ("upstream_error", openai.InternalServerError),
    ("no_target_available", openai.InternalServerError),
    ("upstream_timeout", openai.InternalServerError),
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
            return httpx.Response(status, headers=headers, json=document)

        with httpx.Client(transport=httpx.MockTransport(serve)) as transport:
            client = openai.OpenAI(api_key="k", base_url="http://gateway/v1", max_retries=2, http_client=transport)
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model="plan", messages=[{"role": "user", "content": "x"}])
        return caught.value, len(requests), pauses

    return run


@pytest.mark.parametrize(("code", "exception"), EXCEPTIONS, ids=[code for code, _ in EXCEPTIONS])
def test_the_sdk_raises_the_exception_that_fits(ask, code, exception):
    error, _, _ = ask(Problem(code, "what to mend"))
    assert type(error) is exception
    assert (error.code, error.status_code) == (code, CODES[code].status)
    assert "what to mend" in error.message


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_sdk_repeats_exactly_what_a_repetition_can_mend(ask, code):
    _, requests, _ = ask(Problem(code, "x"))
    assert requests == (3 if CODES[code].retryable else 1)


def test_the_sdk_waits_as_long_as_it_is_told(ask):
    _, _, pauses = ask(Problem("budget_held", "x", retry_after=6.2))
    assert pauses == [7.0, 7.0]


def test_an_envelope_names_the_field_and_carries_our_members():
    found = Problem("unsupported", "no", errors=[{"path": "stream", "message": "no"}], limit="cost")
    found.task, found.call = "t1", "c1"
    status, headers, document = surface.problem(found)
    error = document["error"]
    assert (status, headers["x-should-retry"]) == (422, "false")
    assert error["param"] == "stream"
    assert error.items() >= {"task": "t1", "call": "c1", "limit": "cost", "retryable": False}.items()
    assert error["errors"] == [{"path": "stream", "message": "no"}]
    assert error["type"] == "invalid_request_error"


def test_a_problem_without_a_field_has_no_param():
    assert surface.problem(Problem("denied", "no"))[2]["error"]["param"] is None
    assert (
        surface.problem(Problem("invalid_request", "no", errors=[{"path": "", "message": "x"}]))[2]["error"]["param"]
        is None
    )
