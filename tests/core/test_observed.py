"""What `GET /v1/observed/{workflow}` counts, and what the yaml that it proposes loosens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from buspass.cli.observed import allowing, report
from buspass.config.build import load
from buspass.config.settings import Settings
from buspass.loosening import Allowance, Seen, allowance
from buspass.testing.house import Domain

DATA = Path(__file__).parents[1] / "data" / "domain"


@pytest.fixture
async def watched(tmp_path: Path, service: Any, upstream: Any) -> AsyncIterator[Domain]:
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(DATA / "observed.yaml", tmp_path, services) as domain:
        yield domain


async def asked(domain: Domain, workflow: str = "work", **query: str) -> Any:
    client = await domain.host()
    headers = {"authorization": f"Bearer {domain.apps['onprem'].house.operator_key}"}
    answer = await client.get(f"/v1/observed/{workflow}", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_it_counts_what_was_met_by_rule_over_all_tasks_of_the_workflow(watched: Domain) -> None:
    for _ in range(2):
        agent = await watched.agent(budget={"calls": 2})
        for id_ in ("1", "2", "3"):
            await agent.call("item", {"id": id_})
    await (await watched.agent(workflow="bounded")).chat(model="other")
    await agent.call("rm", {})
    found = await asked(watched)
    assert (found["enforce"], found["tasks"], found["calls"], found["met"], found["complete"]) == (
        "observe", 2, 6, 4, True,
    )  # fmt: skip
    rows = {(row["code"], row["name"], row["rule"]): (row["count"], row["tasks"]) for row in found["would"]}
    assert rows == {
        ("denied", "item", "argument_bound: id"): (4, 2),
        ("budget_exhausted", "item", "calls"): (2, 2),
    }
    (refused,) = found["refused"]
    assert (refused["code"], refused["name"], refused["count"]) == ("tool_not_granted", "rm", 1)
    example = found["would"][0]["examples"][0]
    assert example["task"].startswith("t_")
    assert "must equal" in example["detail"]
    allowed = found["allow"]["workflows"]["work"]
    assert (allowed["enforce"], allowed["tools"][:2]) == ("on", ["item", "check"])
    assert "budget" not in allowed, "it was the client that asked for less"
    lines = "\n".join(report(found))
    assert "work: 6 calls in 2 tasks observed" in lines
    assert "refused even so:" in lines
    assert yaml.safe_load(allowing(found)) == found["allow"]


async def test_only_operators_see_it_and_only_of_workflows_that_are_there(watched: Domain) -> None:
    agent = await watched.agent()
    answer = await agent.client.get("/v1/observed/work", headers=agent.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")
    headers = {"authorization": f"Bearer {watched.apps['onprem'].house.operator_key}"}
    for path, status in (("nothing", 404), ("work?days=0", 400), ("work?hours=1", 400), ("work?days=9", 200)):
        assert (await agent.client.get(f"/v1/observed/{path}", headers=headers)).status_code == status


async def test_what_began_before_is_not_counted(watched: Domain) -> None:
    agent = await watched.agent()
    await agent.chat(model="other")
    watched.clock.advance(2 * 86_400)  # type: ignore[attr-defined]  # the tests' clock
    assert (await asked(watched, days="1"))["calls"] == 0
    assert (await asked(watched, days="3"))["calls"] == 1
    assert "nothing was observed" in "\n".join(report(await asked(watched, days="1")))


# ── the yaml ──


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(
        DATA / "observed.yaml", environ={"BUSPASS_DATA": str(tmp_path_factory.mktemp("data")), "BUSPASS_HOST": "onprem"}
    )


def seen(code: str, rule: str = "", name: str = "pay", **more: Any) -> Seen:
    given: dict[str, Any] = {"verdict": "would_deny", "kind": "action", "count": 1, **more}
    return Seen(code=code, rule=rule, name=name, **given)


def allowed(settings: Settings, *rows: Seen, workflow: str = "work", acted: bool = True) -> Allowance:
    return allowance(settings.workflows[workflow], settings, rows, acted=acted)


ITEM = {"tool": "item", "where": {"id": "1"}}
AFTER = {"tool": "check", "where": {"approved": True, "order": "$arguments.order"}, "within": "60000ms"}
PAY = {"tool": "pay", "after": [AFTER], "max_calls": 1}


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        (seen("model_not_granted", "other"), {"models": ["plan", "slow", "other"]}),
        (seen("tool_not_granted", "away"), {"tools": [ITEM, "check", PAY, "away"]}),
        (seen("denied", "argument_bound: id", "item"), {"tools": ["item", "check", PAY]}),
        (seen("call_limit", "max_calls", below=2), {"tools": [ITEM, "check", PAY | {"max_calls": 3}]}),
        (
            seen("prerequisite_missing", "after check (done)"),
            {"tools": [ITEM, "check", {"tool": "pay", "max_calls": 1}]},
        ),
        (
            seen("prerequisite_missing", "after check (where)"),
            {"tools": [ITEM, "check", PAY | {"after": [{"tool": "check", "within": "60000ms"}]}]},
        ),
        (
            seen("prerequisite_missing", "after check (within)"),
            {"tools": [ITEM, "check", PAY | {"after": [{"tool": "check", "where": AFTER["where"]}]}]},
        ),
        (seen("thought_required", "require_thought"), {"require_thought": False}),
        (seen("budget_exhausted", "calls", below=160, limit=1000), {"budget": {"calls": 1500}}),
        (seen("budget_held", "cost", below=123_456, limit=1_000_000), {"budget": {"cost": 1.5}}),
        (seen("budget_exhausted", "tokens", below=1, limit=10), {}),
    ],
    ids=lambda value: f"{value.code} {value.rule}" if isinstance(value, Seen) else "",
)
def test_each_control_is_loosened_by_what_was_not_met(settings: Settings, row: Seen, changed: dict[str, Any]) -> None:
    assert allowed(settings, row).workflow == {"enforce": "on", **changed}


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (seen("denied", "never_on_a_monday"), "change its Rego"),
        (seen("policy_unavailable"), "mend its Rego"),
        (seen("idempotency_mismatch", "the model's own tool call"), "mend the agent"),
        (seen("unpriced", "second/planner-9"), "add it to prices:"),
        (seen("unbounded", "messages[0].content[1]"), "nothing bounds"),
        (seen("too_many_in_flight"), "more than 64"),
        (seen("max_tokens", "policy"), "sooner"),
        (seen("model_not_granted", "plan"), "key or policy grants less"),
        (seen("tool_not_granted", "item"), "key or policy grants less"),
        (seen("tool_not_granted", "own"), "agent's own function"),
        (seen("budget_exhausted", "tokens", below=1, limit=10), "its client or policy asked"),
        (
            seen("placeholder", "email to a model", verdict="would_block"),
            "replaced by a placeholder on its way to a model",
        ),
    ],
    ids=lambda value: f"{value.code} {value.rule}" if isinstance(value, Seen) else "",
)
def test_what_no_configuration_allows_is_said(settings: Settings, row: Seen, word: str) -> None:
    found = allowed(settings, row)
    assert found.workflow == {"enforce": "on"}
    assert len(found.notes) == 1
    assert word in found.notes[0]


def test_functions_that_an_agent_runs_itself_pass_where_the_route_is_empty(settings: Settings) -> None:
    found = allowed(settings, seen("tool_not_granted", "own", "plan", kind="inference"), acted=False)
    assert found.workflow == {"enforce": "on", "tools": []}


def test_a_blocked_class_is_no_longer_blocked(settings: Settings) -> None:
    row = seen("content_blocked", "credit_card to a model", "plan", verdict="would_block")
    assert allowed(settings, row, workflow="private").workflow["personal_data"] == {"block": []}
