"""The page of benchmarks says what the results say, and nothing else. Nothing is measured here."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = json.loads((ROOT / "bench" / "results.json").read_text("utf-8"))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    names = ("page", "goals", "chart")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def test_the_page_and_its_plots_belong_to_the_results(bench):
    made = bench["page"].written(RESULTS)
    assert {path for path in made if path.endswith(".svg")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("benchmarks-*.svg")
    }
    for path, text in made.items():
        assert (ROOT / path).read_text("utf-8") == text, f"{path} is not of bench/results.json: python bench/page.py"


def test_each_goal_is_judged_by_its_floor_and_its_goal(bench):
    judged = bench["goals"].verdict
    assert [judged(value, 5, 2.5, more=True) for value in (5, 2.5, 2.4)] == [
        "goal reached",
        "floor reached",
        "**not reached**",
    ]
    assert [judged(value, 0.5, 1, more=False) for value in (0.5, 1, 1.1, -0.1)] == [
        "goal reached",
        "floor reached",
        "**not reached**",
        "lost in noise",
    ]


def test_what_was_not_measured_is_said_to_be_so(bench):
    bare = {"machine": RESULTS["machine"], "versions": RESULTS["versions"], "parts": {}}
    assert {row[6] for row in bench["goals"].reached(bare)} == {"not measured"}
    assert "not measured" in bench["page"].written(bare)["docs/benchmarks.md"]
