"""Tests that pages call a proof are there. That docs/proven.md is made of docs/proven.yaml, tests/test_docs.py asks."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _proven():
    spec = importlib.util.spec_from_file_location("proven", ROOT / "docs" / "proven.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _functions(file):
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", ["proven.md", "threats.md"])
def test_every_test_that_is_named_is_there(page):
    named = _proven().named((ROOT / "docs" / page).read_text("utf-8"))
    assert len(named) > 20
    missing = {file for file, _ in named if not (ROOT / file).is_file()}
    assert missing == set()
    assert [f"{file}::{name}" for file, name in sorted(named) if name and name not in _functions(file)] == []


def test_what_says_that_it_ran_names_a_test_and_what_did_not_names_none():
    lines = (ROOT / "docs" / "proven.md").read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| claim")]
    assert len(rows) > 20
    for line in rows:
        assert ("| documented only |" in line) == line.endswith("| nothing |"), line


def test_each_of_owasps_ten_says_what_is_covered_how_it_is_tested_and_what_is_not():
    text = (ROOT / "docs" / "threats.md").read_text("utf-8")
    for number in range(1, 11):
        section = text.partition(f"## ASI{number:02d} ")[2].partition("\n## ")[0]
        assert [word for word in ("**Covered**", "**Tested**", "**Not covered**") if word not in section] == [], number
        assert _proven().named(section), number
