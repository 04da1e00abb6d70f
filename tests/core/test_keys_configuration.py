"""Pools in buspass.yaml: one flat amount each; what is not built and what can't work is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from buspass.config.build import load
from buspass.config.settings import Pool
from buspass.errors import ConfigError

WORKFLOW = "workflows: {w: {models: [openai/gpt-5-mini], budget: {cost: 0.5}, pool: p}}\n"


def settings(folder: Path, text: str):  # type: ignore[no-untyped-def]
    (folder / "f.yaml").write_text("version: 1\n" + text)
    return load(folder / "f.yaml", environ={"BUSPASS_DATA": str(folder)})


def test_a_pool_is_exact_and_a_workflow_names_it(tmp_path: Path) -> None:
    found = settings(tmp_path, "pools: {p: {cost: 2.000001}, q: {cost: 7}}\n" + WORKFLOW)
    assert found.pools == {"p": Pool(name="p", cost=2_000_001), "q": Pool(name="q", cost=7_000_000)}
    assert found.workflows["w"].pool == "p"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pools: {p: {cost: 200/day}}\n" + WORKFLOW, "pools.p.cost: not available yet: money for a period of time"),
        ("pools: {p: {cost: 2, parent: q}, q: {cost: 3}}\n" + WORKFLOW, "pools.p.parent: not available yet"),
        ("pools: {q: {cost: 2}}\n" + WORKFLOW, "workflows.w.pool: no pool 'p'; allowed: q"),
        (WORKFLOW, "workflows.w.pool: no pool 'p'; allowed: none is defined"),
        ("pools: {p: {cost: 0.4}}\n" + WORKFLOW, "workflows.w.pool: one task's budget.cost is more than the pool"),
        (
            "pools: {p: {cost: 2}}\nworkflows: {w: {models: [openai/gpt-5-mini], pool: p}}\n",
            "workflows.w.pool: a task draws its cost from the pool, so the workflow needs budget: {cost: …}",
        ),
        (
            "pools: {p: {cost: 2}}\nidentity: [{name: key, issuer: https://i.example, audience: a, claims: {agent: sub}}]\n"
            + WORKFLOW,
            "identity[0].name: 'key' is the keys' own name",
        ),
    ],
)
def test_what_cannot_work_is_told(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    assert any(says in line for line in caught.value.problems), caught.value.problems
