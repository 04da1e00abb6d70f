"""The page of benchmarks says what the results say, and nothing else. Nothing is measured here."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = json.loads((ROOT / "bench" / "results.json").read_text("utf-8"))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    before = set(sys.modules)
    yield {name: importlib.import_module(name) for name in ("page", "goals", "chart", "measure")}
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "bench")):
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


class Quickening:
    """A load under which a side gets quicker, turn by turn; it counts the turns."""

    def __init__(self, rates):
        self.rates, self.turns = rates, 0

    def run(self, _port, _requests, calls):
        rate = self.rates[min(self.turns, len(self.rates) - 1)]
        self.turns += 1
        return SimpleNamespace(seconds=calls / rate, statuses={b"200": calls})


@pytest.mark.parametrize(
    ("rates", "turns"),
    [((100, 200, 300, 400), 8), ((100,), 5), ((300, 200, 400, 100, 200, 100, 100, 500), 7)],
)
def test_a_side_is_measured_once_it_gets_no_quicker(bench, rates, turns):
    load, side = Quickening(rates), SimpleNamespace(port=0, calls=0)
    calls = bench["measure"]._calls(load, side, [b""] * 32, 2, 60)
    assert load.turns == turns
    assert calls == max(rates[:turns]) * 2
    assert side.calls > 0


def test_a_quick_run_warms_nothing_up(bench):
    load = Quickening((100, 200, 300))
    bench["measure"]._calls(load, SimpleNamespace(port=0, calls=0), [b""] * 32, 2, 0)
    assert load.turns == 1
