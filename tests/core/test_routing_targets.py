"""Under `strategy: weighted` one random number decides the whole order, by weight."""

from collections import Counter
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from buspass.config.settings import Model, Target
from buspass.errors import Problem
from buspass.routing.targets import candidates, name
from buspass.testing.house import Domain

A, B, C = (Target(provider="p", model=model, weight=weight, price=None) for model, weight in [("a", 6), ("b", 3), ("c", 1)])  # fmt: skip
PLAN = Model(alias="plan", targets=(A, B, C), strategy="weighted", first_token=30, total=120, attempts=2, max_output=4096)  # fmt: skip


def test_the_first_is_drawn_in_proportion_to_the_weights():
    assert [candidates(PLAN, draw=draw)[0].model for draw in range(10)] == [*"aaaaaabbbc"]


def test_the_same_draw_gives_the_same_order_and_each_target_stands_in_it_once():
    for draw in range(1000):
        found = candidates(PLAN, draw=draw)
        assert found == candidates(PLAN, draw=draw)
        assert sorted(map(name, found)) == ["p/a", "p/b", "p/c"]


def test_who_follows_a_failure_is_drawn_by_weight_too():
    rng, rounds = Random(1), 20_000
    seen = Counter(candidates(PLAN, draw=rng.getrandbits(512)) for _ in range(rounds))
    for order in permutations((A, B, C)):
        first, second, _ = order
        share = first.weight / 10 * second.weight / (10 - first.weight)
        assert seen[order] / rounds == pytest.approx(share, abs=0.015)


def test_a_weight_of_nothing_is_tried_only_when_the_others_are_spent():
    plan = replace(PLAN, targets=(replace(A, weight=0), B, C))
    assert {candidates(plan, draw=draw)[2].model for draw in range(100)} == {"a"}
    only = candidates(plan, {"p/a"}, draw=7)
    assert [target.model for target in only] == ["a"]


def test_what_policy_and_health_leave_shares_the_calls_of_the_rest():
    drawn = [candidates(PLAN, {"p/b", "p/c"}, draw=draw) for draw in range(4)]
    assert [order[0].model for order in drawn] == [*"bbbc"]
    assert {order[0].model for order in (candidates(PLAN, None, {"p/a", "p/b"}, draw=draw) for draw in range(9))} == {
        "c"
    }
    with pytest.raises(Problem, match="denied"):
        candidates(PLAN, {"p/x"}, draw=1)


def test_under_priority_a_draw_changes_nothing():
    plan = replace(PLAN, strategy="priority")
    assert {candidates(plan, draw=draw) for draw in range(50)} == {(A, B, C)}


async def test_the_gateway_draws_anew_for_each_call(tmp_path, service, upstream):
    shared = Path(__file__).parents[1] / "data" / "domain"
    (tmp_path / "policies").symlink_to(shared / "policies")
    text = (shared / "buspass.yaml").read_text(encoding="utf-8")
    config = tmp_path / "buspass.yaml"
    config.write_text(text.replace("backed: {targets:", "backed: {strategy: weighted, targets:"), encoding="utf-8")
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(config, tmp_path, services) as domain:
        agent = await domain.agent()
        answers = [await agent.chat(model="backed") for _ in range(16)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["buspass-target"] for answer in answers} == {"first/planner-1", "second/planner-1"}
