"""docs/tutorial.md, walked as it stands: every command typed, every file written, every output compared and timed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from running import BLOCKS, KEY, NOT_OURS, lines, mind, served

from buspass.config.build import load
from buspass.testing.provider import Provider
from buspass.testing.serve import free_port

pytestmark = pytest.mark.verify  # half a minute

ROOT = Path(__file__).parents[2]
SECONDS = 900
BILL = re.compile(r"exit 0 · 2 thoughts · 0 actions · (\$[0-9.]+) · buspass trace (t_\w+)")


class Terminal:
    """A shell that stays, so that `cd` and `source` hold. `spent`: each command and its seconds.

    Its two streams are read apart: on one screen a line of the timeline may come between two words of the agent's.
    """

    def __init__(self, folder, environ):
        self.spent = []
        self._errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - as long as the shell
        self._shell = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip

    def type(self, line):
        """Give the command's exit code and what it printed, its standard error behind its output."""
        began, said = time.monotonic(), []
        self._shell.stdin.write(f'{line} </dev/null\necho "@@ $? $PWD"\n')
        self._shell.stdin.flush()
        for out in self._shell.stdout:
            if found := re.search(r"(.*)@@ (\d+) (.*)\n", out):
                self.spent.append((line, time.monotonic() - began))
                self.folder = Path(found[3])
                return int(found[2]), "".join([*said, found[1], "\n", self._complained()])
            said.append(out)
        raise AssertionError(f"the shell ended: {said}")

    def _complained(self):
        """Give what came on standard error; the next command's begins there."""
        said = os.pread(self._errors.fileno(), os.fstat(self._errors.fileno()).st_size, 0)
        os.ftruncate(self._errors.fileno(), 0)
        return said.decode()

    def close(self):
        self._shell.stdin.close()
        self._shell.wait(SECONDS)
        self._shell.stdout.close()
        self._errors.close()


@pytest.fixture
def provider():
    simulated = Provider(KEY, models=("gpt-5-mini", "gpt-5-mini-2025-08-07"), mind=mind)
    with served(simulated) as simulated.url:
        yield simulated


@pytest.fixture
def terminal(tmp_path, provider):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    environ = clean | {
        "HOME": str(tmp_path),
        "BUSPASS_URL": f"http://127.0.0.1:{free_port()}",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
    }
    opened = Terminal(tmp_path, environ)
    yield opened
    opened.close()


def walk(terminal, blocks, replaced):
    """Do what each block says; gives the outputs of `sh` blocks, in order. `ID` is the last bill's task."""
    outputs, task = [], ""
    for language, code in blocks:
        if language == "python":
            (terminal.folder / "agent.py").write_text(code)
        if language == "text":
            shown, said = lines(code), lines(outputs[-1])
            assert set(shown) <= set(said), (
                f"the page shows {sorted(set(shown) - set(said))}, and there was {outputs[-1]}"
            )
        if language == "sh":
            said = ""
            for line in code.splitlines():
                for old, new in replaced.items():
                    line = line.replace(old, new)  # noqa: PLW2901 - as typed
                status, out = terminal.type(re.sub(r"\bID\b", task, line))
                refused = "--cost 0.001" in line
                assert status == int(refused), f"{line} ended with {status}:\n{out}"
                if found := BILL.search(out):
                    task = found[2]
                said += out
            outputs.append(said)
    return outputs


def walked(terminal, provider, blocks, replaced):
    port = terminal.type("echo ${BUSPASS_URL##*:}")[1].strip()
    second = f"buspass up --port {port} >up.log 2>&1 & "
    second += (
        "until buspass task list >/dev/null 2>&1 || ! kill -0 $!; do sleep 0.2; done"  # it may end, and not for ever
    )
    try:
        outputs = walk(terminal, blocks, {"buspass up": second, **replaced})
    finally:
        terminal.type("kill %1 2>/dev/null; wait")
    first, kept, refused, _, read = outputs[-5:]
    cost, task = BILL.search(first).groups()
    assert "budget_exhausted" in refused
    assert "· my-agent · $0.001, 8 h" in refused
    assert "APIStatusError" in refused
    assert kept.count("exit 0 · 2 thoughts") == 1
    assert task in read
    assert "whole" in read
    assert KEY not in "".join(outputs)
    assert [request.body.get("stream") for request in provider.requests] == [None, True] * 2
    settings = load(terminal.folder / "buspass.yaml", environ={})
    assert {name: flow.models for name, flow in settings.workflows.items()} == {"my-agent": ("gpt-5-mini",)}
    assert "get_order (1×)" in (terminal.folder / "buspass.yaml").read_text()
    assert float(cost.removeprefix("$")) > 0
    return [(line, seconds) for line, seconds in terminal.spent if line.startswith(("git", "make", "buspass"))]


def test_the_page_walks_a_new_user_from_an_empty_folder_to_a_journal(terminal, provider):
    assert len(next(code for language, code in BLOCKS if language == "python").splitlines()) <= 20
    setup, *rest = BLOCKS
    assert setup[1].splitlines()[-1] == "cd ~/my-agent"
    terminal.type(f'export PATH="{Path(sys.executable).parent}:$PATH"')
    terminal.type("mkdir ~/my-agent && cd ~/my-agent")
    walked(terminal, provider, rest, {})


@pytest.mark.verify
def test_the_page_from_the_clone_on(terminal, provider, request):
    assert shutil.which("git")
    spent = walked(terminal, provider, BLOCKS, {" … ": f" {ROOT} "})
    alone = terminal.type("python agent.py")
    assert alone[0] == 0
    spent.append(terminal.spent[-1])
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stdout.write("\n" + "".join(f"{seconds:6.1f} s  {line[:100]}\n" for line, seconds in spent))
