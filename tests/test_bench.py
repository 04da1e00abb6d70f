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
    yield {
        name: importlib.import_module(name) for name in ("page", "goals", "chart", "measure", "awake", "interpreter")
    }
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


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "sources.list",
            "# a comment\ndeb https://mirror.example/debian-security x main\ndeb https://mirror.example/debian x main\n",
        ),
        ("sources.list", "deb [arch=amd64 signed-by=/k] https://mirror.example/debian x main contrib\n"),
        ("sources.list.d/debian.sources", "Types: deb\nURIs: https://mirror.example/debian\nSuites: x\n"),
    ],
)
def test_a_mirror_is_found_as_apt_writes_it(bench, tmp_path, file, text):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / file).write_text(text)
    assert bench["interpreter"]._mirror(tmp_path) == "https://mirror.example/debian"


def test_no_mirror_is_made_up(bench, tmp_path):
    (tmp_path / "sources.list").write_text("deb https://mirror.example/ubuntu x main\n")
    with pytest.raises(OSError, match="no mirror of Debian"):
        bench["interpreter"]._mirror(tmp_path)


def test_processors_are_asked_to_stay_awake_and_let_go_again(bench, tmp_path, monkeypatch):
    device = tmp_path / "cpu_dma_latency"
    monkeypatch.setattr(bench["awake"], "DEVICE", device)
    with bench["awake"].awake() as kept:
        assert kept
        assert device.read_bytes() == bytes(4)
    monkeypatch.setattr(bench["awake"], "DEVICE", tmp_path / "none" / "such")
    with bench["awake"].awake() as kept:
        assert not kept
