"""`buspass run` and `buspass init` as a user has them: real processes, a simulated provider, an agent that knows nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import AGENT, CLAUDE_KEY, KEY, NOT_OURS, SECONDS, billed, journal, mind, run, served, typed

from buspass.testing.provider import Provider
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.serve import free_port
from buspass.testing.up import up


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


@pytest.mark.verify
def test_anthropics_sdk_runs_unchanged_under_a_dated_name(home):
    simulated = AnthropicProvider(CLAUDE_KEY, models=("claude-haiku-4-5-20251001",))
    with served(simulated) as url:
        more = {"ANTHROPIC_API_KEY": CLAUDE_KEY, "ANTHROPIC_BASE_URL": url}
        done = run(home, "--", sys.executable, "-c", CLAUDE, **more)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert billed(done)[:3] == (0, 1, 0)


@pytest.mark.verify
def test_azures_client_runs_unchanged_and_a_refusal_is_shown_and_billed(home):
    done = run(home, "--", sys.executable, "-c", AZURE)
    assert done.stdout == "Send it back; you get 900 dollars.\nmodel_not_granted\n", done.stderr
    assert billed(done)[:4] == (0, 1, 0, 1)
    assert re.search(r"✗ gpt-7 +model_not_granted: model 'gpt-7' is not granted", done.stderr)


@pytest.mark.verify
def test_a_call_that_does_not_fit_the_budget_is_told_with_what_gives_more(home):
    folder, _ = home
    (folder / "agent.py").write_text(AGENT)
    done = run(home, "--cost", "0.001", "--", sys.executable, "agent.py")
    assert (done.returncode, billed(done)[:4]) == (1, (1, 0, 0, 1)), done.stderr
    assert "buspass · a call did not fit the budget: --cost X gives more" in done.stderr
    assert "budget_exhausted" in done.stderr


@pytest.mark.verify
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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.verify)])
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


@pytest.mark.verify
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


@pytest.mark.verify
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
