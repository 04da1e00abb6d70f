"""`buspass demo procurement` as a user runs it: three hosts, two runs of one agent, and the page that it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from procurement import page  # noqa: E402


def shape(text: str) -> str:
    """The tables without their numbers."""
    return re.sub(r"\d[\d,.]*", "N", page.MARKS.search(text)[0])


def test_a_dead_vendor_is_left_alone_through_buspass_and_argued_with_otherwise(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    command = [sys.executable, "-m", "buspass", "demo", "procurement", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (0, True), said
    alone, caged = said["straight"], said["buspass"]
    assert (caged["ordered"], caged["pages_shown_to_the_model"]) == (caged["wanted"], 0)
    assert 1 <= caged["dead_calls"] <= 5
    assert caged["vendor_pages_logged"] <= caged["dead_calls"]
    assert caged["cost"] < 1
    assert alone["dead_calls"] > 8 * caged["dead_calls"]  # hundreds on a machine that has nothing else to do
    assert alone["pages_shown_to_the_model"] == alone["vendor_pages_logged"] > 0
    assert alone["cost"] > 5 * caged["cost"]
    assert alone["dearest"] > caged["dearest"]
    written = (ROOT / "docs" / "procurement.md").read_text("utf-8")
    file = tmp_path / "page.md"
    file.write_text(written)
    page.write(said, file)
    assert shape(file.read_text()) == shape(written)
