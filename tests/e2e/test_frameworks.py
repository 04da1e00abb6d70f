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
from running import billed, served

from buspass.cli.environment import governed
from buspass.testing.provider import Provider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_wire import text_of
from buspass.testing.serve import free_port

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


PAGE = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
SHOWN = {
    section.partition("\n")[0]: section.partition("```python\n")[2].partition("```\n")[0]
    for section in PAGE.split("\n## ")[1:]
    if "```python\n" in section
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_program_of_the_page_runs_in_buspass_run(name, tmp_path):
    assert len(SHOWN) == 5
    openai = Provider("sk-house-0123456789", models=("gpt-5-mini",), mind=order)
    claude = AnthropicProvider("sk-ant-api03-0123456789abcdef", models=("claude-haiku-4-5",), mind=order)
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("OPENAI_", "ANTHROPIC_", "BUSPASS_", "PYTHON"))}
    (tmp_path / "agent.py").write_text(SHOWN[name])
    with served(openai) as url, served(claude) as other:
        environ = clean | {
            "BUSPASS_DATA": str(tmp_path / "data"), "BUSPASS_URL": f"http://127.0.0.1:{free_port()}",
            "OPENAI_API_KEY": openai.key, "OPENAI_BASE_URL": f"{url}/v1",
            "ANTHROPIC_API_KEY": claude.key, "ANTHROPIC_BASE_URL": other,
        }  # fmt: skip
        command = [sys.executable, "-m", "buspass", "run", "--", PYTHON, "agent.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    asked = "order" in SHOWN[name]
    assert done.stdout == ("Send it back: O-1042: one garden bench, 900 dollars\n" if asked else "It names a route.\n")
    assert billed(done)[1] == (2 if asked else 1)


def order(request):
    """Looks an order up where it may, and says what to do."""
    if results := list(given(request)):
        return {"content": f"Send it back: {results[-1]}"}
    if request.get("tools"):
        return {"content": "", "tool_calls": [{"name": "get_order", "arguments": {"id": "O-1042"}}]}
    return {"content": "It names a route."}


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
