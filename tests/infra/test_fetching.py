"""What is fetched from a registry is asked for again: a hiccup of theirs fails no run, and what fails each time does."""

import os
import subprocess
import sys
from pathlib import Path

import fetching
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paused(monkeypatch):
    """The pauses that were made, none of which takes time."""
    found = []
    monkeypatch.setattr(fetching, "sleep", found.append)
    return found


def failing(times, folder):
    """A command that fails so many times, then does not."""
    code = (
        "import pathlib, sys\n"
        f"tries = pathlib.Path({str(folder / 'tries')!r})\n"
        "tries.write_text((tries.read_text() if tries.exists() else '') + '.')\n"
        f"print('done'); sys.exit('503' if len(tries.read_text()) <= {times} else 0)\n"
    )
    (folder / "fetch.py").write_text(code)
    return [sys.executable, str(folder / "fetch.py")]


def test_a_test_that_fetches_asks_again_until_it_has_it(tmp_path, paused):
    assert fetching.fetched(failing(2, tmp_path)).stdout == "done\n"
    assert paused == [3, 15]


def test_what_fails_each_time_fails_and_says_why(tmp_path, paused):
    with pytest.raises(AssertionError, match=r"failed 4 times:\n(done\n503\s+){4}"):
        fetching.fetched(failing(9, tmp_path))
    assert paused == [3, 15, 45]


@pytest.mark.parametrize(("times", "status"), [(0, 0), (1, 0), (3, 0), (4, 2)])
def test_make_asks_again_as_well(tmp_path, times, status):
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o700)
    recipe = f"probe: ; @$(call fetched,{' '.join(failing(times, tmp_path))}); echo went on"
    done = subprocess.run(
        ["make", "-s", "-f", ROOT / "Makefile", f"--eval={recipe}", "probe"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MAKEFLAGS": ""},
        cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip
    assert (done.returncode, "went on" in done.stdout) == (status, not status), done.stderr
    assert len((tmp_path / "tries").read_text()) == min(times + 1, 4)
