"""Which target takes a call, and what follows when it does not."""

import pytest

from buspass.config.settings import Model, Target
from buspass.errors import Problem
from buspass.model import Failure
from buspass.routing.attempts import GiveUp, Retry, after
from buspass.routing.targets import candidates, name

FIRST = Target(provider="local", model="qwen3-8b", weight=1, price=None)
SECOND = Target(provider="openai", model="gpt-5-nano", weight=1, price=None)
PLAN = Model(alias="plan", targets=(FIRST, SECOND), strategy="priority", first_token=30, total=120, attempts=2, max_output=4096)  # fmt: skip
THROTTLED = Failure("throttled", billed="no", retryable=True, status=429, retry_after=7.0)


def step(failure: Failure, untried=(SECOND,), attempts_left=1, seconds_left=10.0):
    return after(failure, untried, attempts_left=attempts_left, seconds_left=seconds_left)


def given_up(failure: Failure, **more) -> GiveUp:
    found = step(failure, **more)
    assert isinstance(found, GiveUp)
    return found


def test_targets_are_tried_as_they_are_written():
    assert candidates(PLAN) == (FIRST, SECOND)
    assert name(SECOND) == "openai/gpt-5-nano"


def test_policy_narrows_the_targets():
    assert candidates(PLAN, {"openai/gpt-5-nano", "somebody/else"}) == (SECOND,)
    with pytest.raises(Problem) as caught:
        candidates(PLAN, {"somebody/else"})
    assert caught.value.code == "denied"


def test_who_is_unavailable_is_passed_over():
    assert candidates(PLAN, unavailable={"local/qwen3-8b"}) == (SECOND,)
    with pytest.raises(Problem) as caught:
        candidates(PLAN, {"local/qwen3-8b"}, {"local/qwen3-8b"})
    assert (caught.value.code, caught.value.retryable) == ("no_target_available", True)


UNBILLED = [
    Failure("unreachable", billed="no", retryable=True),
    THROTTLED,
    Failure("forbidden", billed="no", retryable=True, status=401),
]


@pytest.mark.parametrize("failure", UNBILLED, ids=lambda failure: failure.kind)
def test_a_surely_unbilled_failure_goes_on_under_the_same_hold(failure):
    assert step(failure) == Retry(target=SECOND)


AMBIGUOUS = [
    (Failure("timeout", billed="unknown", retryable=False), "upstream_timeout", {"kind": "timeout"}),
    (Failure("broken", billed="unknown", retryable=False), "upstream_error", {"kind": "broken"}),
    (Failure("failed", billed="unknown", retryable=False, status=503), "upstream_error", {"kind": "failed", "status": 503}),
    (Failure("malformed", billed="unknown", retryable=False, status=200), "upstream_error", {"kind": "malformed", "status": 200}),
    (Failure("failed", billed="unknown", retryable=True, status=500), "upstream_error", {"kind": "failed", "status": 500}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "code", "upstream"), AMBIGUOUS, ids=[f"{row[0].kind}{row[0].status}" for row in AMBIGUOUS]
)
def test_an_ambiguous_failure_is_charged_and_never_sent_again(failure, code, upstream):
    found = given_up(failure)
    assert (found.charge, found.problem.code, found.problem.retryable) == ("estimated", code, False)
    assert found.problem.extra["upstream"] == upstream


def test_an_agents_own_mistake_is_told_to_it_and_tried_nowhere_else():
    failure = Failure("rejected", billed="no", retryable=False, status=400, message="temperature is not supported")
    found = given_up(failure)
    assert (found.charge, found.problem.code) == ("nothing", "invalid_request")
    assert found.problem.detail.endswith("temperature is not supported")
    wordless = given_up(Failure("rejected", billed="no", retryable=False, status=413))
    assert wordless.problem.detail.endswith("status 413")


@pytest.mark.parametrize("more", [{"untried": ()}, {"attempts_left": 0}], ids=["no target left", "no attempt left"])
def test_the_last_target_that_is_busy_ends_the_call_uncharged(more):
    found = given_up(THROTTLED, **more)
    assert (found.charge, found.problem.code, found.problem.retry_after) == ("nothing", "no_target_available", 7.0)
    assert found.problem.retryable


def test_a_key_that_a_provider_refuses_is_the_operators_to_mend():
    found = given_up(Failure("forbidden", billed="no", retryable=True, status=401, message="sk-123"), untried=())
    assert (found.charge, found.problem.code) == ("nothing", "upstream_error")
    assert "sk-123" not in str(found.problem.document())
    assert "operator" in found.problem.detail


@pytest.mark.parametrize("seconds_left", [0.0, -1.0])
def test_nothing_is_sent_after_the_deadline(seconds_left):
    found = given_up(THROTTLED, seconds_left=seconds_left)
    assert (found.charge, found.problem.code) == ("nothing", "deadline_exceeded")
