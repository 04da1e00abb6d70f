"""The main job, as a newcomer runs it: return exceptions over three hosts as processes, judged by the oracle.

The oracle reads the data set and the rules, the services' own logs and the journal; never the planner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from returns import wording, world  # noqa: E402

OUTCOMES = {"refunded", "legal_risk", "above_limit", "unknown_customer", "hostile_note", "other_customer"}


def demo(*options: str, folder: Path) -> dict[str, Any]:
    """What `buspass demo returns --json` says, run as a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    command = [sys.executable, "-m", "buspass", "demo", "returns", "--json", *options]
    found = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert found.stdout, found.stderr
    said: dict[str, Any] = json.loads(found.stdout)
    assert (found.returncode == 0) == said["ok"], found.stderr
    return said


def wrong(said: dict[str, Any]) -> list[Any]:
    """The requests that did not end as data and rules demand, with what was held against them."""
    return [
        (row["text"], row["outcome"], row["expected"], row["faults"]) for row in said["requests"] if not row["right"]
    ]


def test_every_request_of_the_example_ends_as_it_must_and_nothing_goes_around_the_gateway(tmp_path: Path) -> None:
    said = demo(folder=tmp_path)
    assert wrong(said) == []
    assert said["ungoverned"] == 0, said["stray"]
    assert said["service_requests"] > len(said["requests"]) >= 20
    assert {row["outcome"] for row in said["requests"]} >= OUTCOMES
    assert said["ok"]
    assert said["seconds"] < 300, "seconds where a machine is not busy"


@pytest.mark.verify
def test_two_hundred_requests_in_words_nobody_has_seen_end_as_they_must(tmp_path: Path) -> None:
    requests = wording.generate(world.build(), 200, seed=2026)
    known = {json.loads(line)["text"] for line in (ROOT / "examples/returns/requests.jsonl").read_text().splitlines()}
    assert not known & {request["text"] for request in requests}
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    said = demo("--requests", str(file), folder=tmp_path)
    assert len(said["requests"]) == 200
    assert wrong(said) == []
    assert said["ungoverned"] == 0, said["stray"]
    paid = [row for row in said["requests"] if row["outcome"] == "refunded"]
    assert 20 <= len(paid) <= 150  # neither all nor none: the rules are at work
    assert all(row["paid"] == 0 for row in said["requests"] if row["outcome"] != "refunded")


@pytest.mark.verify
@pytest.mark.parametrize("stores", ["sqlite,sqlite", "sqlite,redis", "redis,sqlite"])
def test_cases_are_handed_over_between_two_stores_and_what_they_leave_comes_back(tmp_path: Path, stores: str) -> None:
    file = tmp_path / "requests.jsonl"
    lines = (ROOT / "examples/returns/requests.jsonl").read_text().splitlines()
    file.write_text("\n".join(lines[:3]))
    said = demo("--stores", stores, "--requests", str(file), folder=tmp_path)
    assert wrong(said) == []
    assert said["ungoverned"] == 0, said["stray"]
    for row in said["requests"]:
        assert row["desk"] == {"spent": row["cost"], "allocated": 0, "children": []}
        assert row["cost"] > 0
    assert said["ok"]


@pytest.mark.verify
def test_every_rogue_is_refused_and_told_why(tmp_path: Path) -> None:
    said = demo("--rogue", folder=tmp_path)
    assert len(said["rogue"]) >= 7
    assert [attempt for attempt in said["rogue"] if not attempt["refused"]] == []
    assert said["ok"]
