"""What is refused spends nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


def code(answer: httpx.Response) -> str:
    document = answer.json()
    return str(document.get("error", document).get("code", ""))


REFUSED = {
    "denied by policy": ("item", {"id": "secret"}, "denied"),
    "not in the route": ("nothing", {}, "tool_not_granted"),
    "prerequisite missing": ("deploy", {"order": "o-1", "amount": 1}, "prerequisite_missing"),
    "wrong arguments": ("item", {"id": 7}, "invalid_arguments"),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_agt_1915_what_is_denied_spends_nothing_of_the_budget(house: Any, service: Any, why: str) -> None:
    """microsoft/agent-governance-toolkit#1915: the agent's call counter rose before approval was asked for.

    So "denied or pending approvals permanently consumed the agent's call budget even though no tool ever ran", and
    whoever could provoke denials could use a budget up. Twelve refusals here leave a budget of three calls whole.
    """
    name, arguments, expected = REFUSED[why]
    domain = await house()
    agent = await domain.agent(budget={"calls": 3, "tool_calls": 3})
    for _ in range(12):
        answer = await agent.call(name, arguments)
        assert code(answer) == expected
    budget = (await agent.get()).json()["budget"]
    assert set(budget["spent"].values()) == set(budget["held"].values()) == {0}
    assert budget["available"] == {**budget["available"], "calls": 3, "tool_calls": 3}
    assert not service.requests
    assert [(await agent.call("item", {"id": "1"})).status_code for _ in range(4)] == [200, 200, 200, 402]


async def test_agt_1915_a_refused_action_does_not_use_up_its_cap(house: Any, service: Any) -> None:
    """`max_calls: 1` counts the one that ran."""
    agent = await (await house()).agent()
    deploy = {"order": "o-1", "amount": 1}
    for _ in range(3):
        assert code(await agent.call("deploy", deploy)) == "prerequisite_missing"
    assert (await agent.call("run_tests", {"order": "o-1"})).status_code == 200
    assert (await agent.call("deploy", deploy)).status_code == 200
    assert code(await agent.call("deploy", deploy)) == "call_limit"
    assert service.got("/pay") == [deploy]


async def test_agt_1915_a_refused_model_call_spends_nothing_either(house: Any, provider: Any) -> None:
    agent = await (await house()).agent(budget={"model_calls": 1, "cost": 1})
    for _ in range(12):
        assert code(await agent.chat(model="not-granted")) == "model_not_granted"
    assert (await agent.get()).json()["budget"]["spent"]["cost"] == 0
    assert not provider.requests
    assert (await agent.chat()).status_code == 200
