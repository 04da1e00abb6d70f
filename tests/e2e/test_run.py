"""`buspass run` and `buspass init` as their users type them: real processes, official SDKs, a simulated provider.

The walk-through of docs/run.md is taken from the page itself.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from buspass.config.build import load
from buspass.testing.provider import Provider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.serve import free_port, serving
from buspass.testing.up import up

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text("utf-8")
BLOCKS = re.findall(r"^```([a-z ]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
AGENT = BLOCKS[1][1]
KEY = "sk-proj-0123456789abcdefghijklmnop"
CLAUDE_KEY = "sk-ant-api03-0123456789abcdefghijkl"
SECONDS = 120
"""For a whole run: hang-ups are what it ends, not slowness."""
NOT_OURS = ("BUSPASS_", "OPENAI_", "ANTHROPIC_", "AZURE_", "PYTHONDONTWRITEBYTECODE")


def mind(request):
    """Looks the order up, then says what to do."""
    if request.get("tools") and request["messages"][-1]["role"] == "user":
        return {"content": "I look the order up.", "tool_calls": [{"name": "get_order", "arguments": {"id": "O-1042"}}]}
    return {"content": "Send it back; you get 900 dollars."}


@contextlib.contextmanager
def served(provider):
    """Serve a provider in a thread while a block runs; yields its URL."""
    loop, ready, said = asyncio.new_event_loop(), threading.Event(), {}

    async def serve():
        said["stop"] = asyncio.Event()
        async with serving(provider.app) as url:
            said["url"] = url
            ready.set()
            await said["stop"].wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield said["url"]
    finally:
        loop.call_soon_threadsafe(said["stop"].set)
        thread.join(SECONDS)
        loop.close()


@pytest.fixture(scope="module")
def provider():
    simulated = Provider(KEY, models=("gpt-5-mini", "gpt-5-mini-2025-08-07"), mind=mind)
    with served(simulated) as simulated.url:
        yield simulated


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A gateway over the same data directory, which nobody runs agents at: it reads their journals afterwards."""
    with up(data=tmp_path_factory.mktemp("runs") / "data") as gateway:
        yield gateway


@pytest.fixture
def home(tmp_path, provider, reader):
    """An empty folder, and the environment of a user with a key."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    folder = tmp_path / "my-agent"
    folder.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    nobody = f"http://127.0.0.1:{free_port()}"
    environ = {"BUSPASS_DATA": str(reader.data), "BUSPASS_URL": nobody, "PATH": path}
    return folder, clean | environ | {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{provider.url}/v1"}


def typed(home, *words, **more):
    folder, environ = home
    return subprocess.run(words, cwd=folder, env={**environ, **more}, text=True, capture_output=True, timeout=SECONDS)


def run(home, *words, **more):
    return typed(home, "buspass", "run", *words, **more)


def journal(reader, task):
    """The trace of a task, whose journal is proven to be whole."""
    headers = {"Authorization": f"Bearer {(reader.data / 'operator.key').read_text().strip()}"}
    url = f"{reader.url}/v1/tasks/{task}/trace"
    assert httpx.get(f"{url}/verify", headers=headers).json()["ok"]
    return httpx.get(url, headers=headers).json()


def billed(done):
    """The last line: exit code, thoughts, actions, refusals, USD, task."""
    line = done.stderr.splitlines()[-1]
    shape = r"exit (\d+) · (\d+) thoughts? · (\d+) actions?(?: · (\d+) refused)? · \$([0-9.]+) · buspass trace (t_\w+)"
    found = re.fullmatch(shape, line)
    assert found, done.stderr
    code, thoughts, actions, refused, cost, task = found.groups()
    return int(code), int(thoughts), int(actions), int(refused or 0), float(cost), task


def lines(text):
    """What was printed, without times and ids: two streams, so in no order."""
    return sorted(re.sub(r"^ *\d+\.\ds|t_\w+", "", line) for line in text.splitlines())


# ── the walk-through ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_walks_a_new_user_from_an_empty_folder_to_a_governed_run(home, provider, reader):
    folder, _ = home
    (folder / "agent.py").write_text(AGENT)
    first, second = [code for language, code in BLOCKS if language == "sh"][:2]
    bash = ["bash", "-euo", "pipefail", "-c"]
    began = len(provider.requests)
    done = typed(home, *bash, first)
    assert (done.returncode, done.stdout) == (0, "Send it back; you get 900 dollars.\n"), done.stderr
    *counts, cost, task = billed(done)
    assert counts == [0, 2, 0, 0]
    assert lines(done.stderr + done.stdout) == lines(BLOCKS[3][1])
    assert [request.body.get("stream") for request in provider.requests[began:]] == [None, True]

    trace = journal(reader, task)
    assert trace["task"]["status"] == "completed"
    assert sum(row["cost"] for row in trace["records"]) == pytest.approx(cost, abs=1e-9)
    assert trace["task"]["budget"]["spent"]["cost"] == cost > 0

    done = typed(home, *bash, second)
    assert done.returncode == 0, done.stderr
    assert billed(done)[:2] == (0, 2)
    settings = load(folder / "buspass.yaml", environ={})
    assert {name: flow.models for name, flow in settings.workflows.items()} == {"my-agent": ("gpt-5-mini",)}
    assert "get_order (1×)" in (folder / "buspass.yaml").read_text()
    assert typed(home, "buspass", "init").returncode == 2
    assert len(done.stderr.splitlines()) == 1, "--quiet prints nothing but the bill"


# ── what the agent can read ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_agent_finds_the_gateway_and_no_key_of_a_provider(home):
    hidden = {
        "MY_COPY": f"Bearer {KEY}",
        "GEMINI_API_KEY": "g-key-0123456789",
        "SOME_NAME": "gsk_0123456789abcdefghijklmn",
        "OPENAI_ORG_ID": "org-1",
    }
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = run(home, "--", sys.executable, "-c", program, ANTHROPIC_API_KEY=CLAUDE_KEY, PLAIN="kept", **hidden)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert KEY not in done.stdout
    assert CLAUDE_KEY not in done.stdout
    assert not set(hidden) & set(seen)
    assert seen["PLAIN"] == "kept"
    url, token, task = seen["BUSPASS_URL"], seen["BUSPASS_TOKEN"], seen["BUSPASS_TASK"]
    assert (seen["OPENAI_BASE_URL"], seen["ANTHROPIC_BASE_URL"], seen["AZURE_OPENAI_ENDPOINT"]) == (
        f"{url}/v1",
        url,
        url,
    )
    keys = ("OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY")
    assert {seen[name] for name in keys} == {token}
    assert billed(done)[-1] == task
    kept = ", ".join(sorted({"ANTHROPIC_API_KEY", "OPENAI_API_KEY", *hidden}))
    assert f"kept from the agent: {kept}" in done.stderr


CLAUDE = """
import anthropic
client = anthropic.Anthropic()
with client.messages.stream(model="claude-haiku-4-5-20251001", max_tokens=50, messages=[{"role": "user", "content": "hello"}]) as s:
    print(s.get_final_text())
"""
AZURE = """
import openai
client = openai.AzureOpenAI(api_version="2024-10-21")
messages = [{"role": "user", "content": "hello"}]
print(client.chat.completions.create(model="gpt-5-mini", messages=messages).choices[0].message.content)
try:
    client.chat.completions.create(model="gpt-7", messages=messages)
except openai.PermissionDeniedError as error:
    print(error.code)
"""


def test_anthropics_sdk_runs_unchanged_under_a_dated_name(home):
    simulated = AnthropicProvider(CLAUDE_KEY, models=("claude-haiku-4-5-20251001",))
    with served(simulated) as url:
        more = {"ANTHROPIC_API_KEY": CLAUDE_KEY, "ANTHROPIC_BASE_URL": url}
        done = run(home, "--", sys.executable, "-c", CLAUDE, **more)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert billed(done)[:3] == (0, 1, 0)


def test_azures_client_runs_unchanged_and_a_refusal_is_shown_and_billed(home):
    done = run(home, "--", sys.executable, "-c", AZURE)
    assert done.stdout == "Send it back; you get 900 dollars.\nmodel_not_granted\n", done.stderr
    assert billed(done)[:4] == (0, 1, 0, 1)
    assert re.search(r"✗ gpt-7 +model_not_granted: model 'gpt-7' is not granted", done.stderr)


def test_a_call_that_does_not_fit_the_budget_is_told_with_what_gives_more(home):
    folder, _ = home
    (folder / "agent.py").write_text(AGENT)
    done = run(home, "--cost", "0.001", "--", sys.executable, "agent.py")
    assert (done.returncode, billed(done)[:4]) == (1, (1, 0, 0, 1)), done.stderr
    assert "buspass · a call did not fit the budget: --cost X gives more" in done.stderr
    assert "budget_exhausted" in done.stderr


def test_a_model_that_is_not_served_is_told_without_a_page_of_names(home):
    done = run(home, "--", sys.executable, "-c", AZURE.replace("gpt-5-mini", "gpt-none"))
    assert "PermissionDeniedError" in done.stderr
    assert re.search(r"it has (\S+, ){7}\S+ and \d+ more: see GET /v1/models", done.stderr)


# ── how it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_agents_exit_code_is_ours_and_kills_the_task(home, reader):
    done = run(home, "--", "sh", "-c", "exit 7")
    assert (done.returncode, billed(done)[0]) == (7, 7)
    trace = journal(reader, billed(done)[-1])
    assert (trace["task"]["status"], trace["records"][-1]["reason"]) == ("killed", "exit 7")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_agent_and_the_task_ends(home, reader, number):
    folder, environ = home
    program = "import signal, sys, time\nfor n in (2, 15): signal.signal(n, lambda n, f: sys.exit(40 + n))\n"
    program += "print('ready', flush=True)\nwhile True: time.sleep(0.05)"
    with subprocess.Popen(
        ["buspass", "run", "--", sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 40 + number
    code, *_, task = billed(subprocess.CompletedProcess([], 0, "", err))
    assert code == 40 + number
    assert journal(reader, task)["task"]["status"] == "killed"


def test_a_kill_of_ours_ends_the_gateway(home):
    folder, environ = home
    program = "import os; print(os.environ['BUSPASS_URL'], os.getpid(), flush=True); import time; time.sleep(30)"
    with subprocess.Popen(
        ["buspass", "run", "--", sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        url, agent = process.stdout.readline().split()
        process.kill()
        os.kill(int(agent), signal.SIGKILL)
    until = time.monotonic() + SECONDS
    while typed(home, "buspass", "task", "list", BUSPASS_URL=url).returncode == 0:
        assert time.monotonic() < until


# ── which gateway, which workflow ───────────────────────────────────────────────────────────────────────────────────

CONFIG = """
version: 1
providers:
  openai: {{api: openai, base_url: '{url}/v1', auth: {{bearer: {{secret: HOUSE_KEY}}}}}}
models:
  gpt-5-mini: {{targets: [{{provider: openai, model: gpt-5-mini}}]}}
workflows:
  one: {{models: [gpt-5-mini], budget: {{cost: 0.25, wall: 2h}}}}
  two: {{models: [gpt-5-mini], budget: {{cost: 0.50, wall: 10m}}}}
"""


def test_a_gateway_that_runs_is_used_and_its_workflows_are_told(home, provider):
    folder, environ = home
    (folder / "buspass.yaml").write_text(CONFIG.format(url=provider.url))
    (folder / "agent.py").write_text(AGENT)
    data = Path(environ["BUSPASS_DATA"])
    file = str(folder / "buspass.yaml")
    with up("--config", file, data=data, environ={"HOUSE_KEY": KEY}, until="export") as gateway:
        more = {"BUSPASS_URL": gateway.url, "HOUSE_KEY": KEY, "OPENAI_API_KEY": ""}
        unnamed = run(home, "--", "true", **more)
        assert (unnamed.returncode, "--workflow is one of one, two" in unnamed.stderr) == (2, True)
        unknown = run(home, "--workflow", "three", "--", "true", **more)
        assert (unknown.returncode, "allowed: one, two" in unknown.stderr) == (1, True)
        wider = run(home, "--workflow", "one", "--cost", "3", "--", "true", **more)
        assert (wider.returncode, "may only narrow" in wider.stderr) == (1, True)
        done = run(home, "--workflow", "one", "--cost", "0.2", "--", sys.executable, "agent.py", **more)
        assert done.returncode == 0, done.stderr
        title, kept, late = done.stderr.splitlines()[:3]
        assert title.endswith(" · one · $0.20, 2 h")
        assert "HOUSE_KEY" in kept
        assert "the token ends after 60 min" in late
        shown = typed(home, "buspass", "task", "show", "--json", billed(done)[-1], BUSPASS_URL=gateway.url)
        task = json.loads(shown.stdout)
    assert (task["status"], task["workflow"], task["budget"]["limits"]["cost"]) == ("completed", "one", 0.2)
    assert task["budget"]["spent"]["cost"] == billed(done)[4] > 0
