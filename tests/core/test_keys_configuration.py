"""Pools in buspass.yaml: money for ever or for a period, of its own or of another pool; what can't work is refused."""

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


@pytest.mark.parametrize("period", ["hour", "day", "week", "month"])
def test_a_pool_may_be_renewed_and_draw_from_another(tmp_path: Path, period: str) -> None:
    found = settings(
        tmp_path, f"pools: {{p: {{cost: 2/{period}, parent: q, shards: 4}}, q: {{cost: 7/month}}}}\n" + WORKFLOW
    )
    assert found.pools["p"] == Pool(name="p", cost=2_000_000, period=period, parent="q", shards=4)  # type: ignore[arg-type]
    assert found.pools["q"] == Pool(name="q", cost=7_000_000, period="month")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pools: {p: {cost: 2, parent: q}}\n" + WORKFLOW, "pools.p.parent: no pool 'q'; allowed: p"),
        (
            "pools: {p: {cost: 2, parent: p}}\n" + WORKFLOW,
            "pools.p.parent: the pools are each other's parents in a ring",
        ),
        (
            "pools: {p: {cost: 2, parent: q}, q: {cost: 2, parent: r}, r: {cost: 2, parent: q}}\n" + WORKFLOW,
            "pools.q.parent: the pools are each other's parents in a ring",
        ),
        (
            "pools: {p: {cost: 2/month, parent: q}, q: {cost: 3/day}}\n" + WORKFLOW,
            "pools.p.parent: 'q' is renewed each day, sooner than this pool",
        ),
        (
            "pools: {p: {cost: 2, parent: q}, q: {cost: 3/month}}\n" + WORKFLOW,
            "pools.p.parent: 'q' is renewed each month, sooner than this pool",
        ),
        (
            "pools: {p: {cost: 2/day, parent: q}, q: {cost: 0.4/month}}\n" + WORKFLOW,
            "workflows.w.pool: one task's budget.cost is more than the pool ever holds",
        ),
        ("pools: {p: {cost: 2, shards: 0}}\n" + WORKFLOW, "pools.p.shards"),
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
