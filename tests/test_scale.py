"""The page of scale says what the application asks of a store, and nothing else."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.verify
def test_the_page_of_scale_is_counted_from_the_application(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    scale = importlib.import_module("scale")
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert scale.page(text, scale.tables()) == text, "python bench/scale.py --write"
