"""Agents' frameworks, unchanged, at every host and over each kind of provider: a table, and nothing retried.

The programs of tests/frameworks run in an environment of their own (`make .venv-frameworks`), which knows no Buspass.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import STREAMING, Domain

from buspass.cli.environment import governed
from buspass.testing.provider_wire import text_of

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-frameworks" / "bin" / "python"
PROGRAMS = {path.stem.removeprefix("with_"): path for path in sorted((ROOT / "tests" / "frameworks").glob("with_*.py"))}
MODELS = ("over-openai", "over-anthropic")
ITEM = {"id": "7", "owner": "C-1"}
SECONDS = 600
pytestmark = pytest.mark.verify


def mind(request):
    """Asks for an item once where it may, tells what it was given, answers a format or an output tool with an item."""
    tools = {tool.get("name") or tool["function"]["name"] for tool in request.get("tools") or ()}
    results = list(given(request))
    if "item" in tools and not results:
        return {"content": "let me look", "tool_calls": [{"name": "item", "arguments": {"id": "7"}}]}
    if request.get("response_format") or (request.get("output_config") or {}).get("format"):
        return {"content": json.dumps(ITEM)}
    if outputs := tools - {"item"}:
        return {"content": "", "tool_calls": [{"name": outputs.pop(), "arguments": ITEM}]}
    return {"content": f"the answer was {results[-1]}" if results else text_of(request["messages"][-1]["content"])}


def given(request):
    """The results of tools, in both wire formats."""
    for message in request["messages"]:
        if message["role"] == "tool":
            yield text_of(message["content"])
        for block in message["content"] if isinstance(message.get("content"), list) else ():
            if block["type"] == "tool_result":
                yield text_of(block["content"])


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frameworks")
    with Domain(folder, hosts=STREAMING, data=ROOT / "tests" / "data" / "frameworks") as running:
        running.around.provider.mind = running.around.claude.mind = mind
        yield running


@pytest.fixture(scope="module")
def table(request):
    """What came of each check, by program, check, host and model; printed when all have run."""
    cells = {}
    yield cells
    columns = [(host, model) for host in STREAMING for model in MODELS]
    rows = [("", *(host for host, _ in columns)), ("", *(model for _, model in columns))]
    for (program, check), found in cells.items():
        rows.append((f"{program} · {check}", *(found.get(column, "") for column in columns)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns) + 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("host", STREAMING)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_framework_works_unchanged(domain, table, program, host):
    task, token = domain.start(host, "work")
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("OPENAI_", "ANTHROPIC_", "PYTHON"))}
    environ = governed(clean, url=domain.urls[host], task=task, token=token) | {"PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [PYTHON, PROGRAMS[program], *MODELS],
        cwd=domain.folder, env=environ, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    for check, model, wrong in told["checks"]:
        table.setdefault((program, check), {})[host, model] = "✗" if wrong else "✓"
    assert {f"{check} × {model}": wrong for check, model, wrong in told["checks"] if wrong} == {}, done.stderr

    trace = domain.send(host, "GET", f"/v1/tasks/{task}/trace", token).json
    refused = [row["code"] for row in trace["records"] if row["kind"] == "refusal"]
    assert len(refused) == told["refusals"], f"a refusal was retried: {refused}"
    assert set(trace["task"]["budget"]["held"].values()) == {0}
    assert domain.send(host, "GET", f"/v1/tasks/{task}/trace/verify", token).json["ok"]
