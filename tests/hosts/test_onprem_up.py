"""`buspass up` as a process: what it prints, what it leaves on disk, how it stops; and the verbs that ask it."""

import asyncio
import json
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from buspass import cli
from buspass.errors import ConfigError
from buspass.testing.provider import Fault, Provider
from buspass.testing.serve import serving
from buspass.testing.up import up
from buspass_onprem.server import data_directory

CONFIG = """
version: 1
providers:
  sim: {{api: openai, base_url: '{url}/v1', auth: {{bearer: {{secret: SIM_KEY}}}}}}
prices: {{sim/planner-1: {{input: 1, output: 1}}}}
models: {{plan: {{targets: [{{provider: sim, model: planner-1}}]}}}}
workflows:
  work: {{loops: off, models: [plan], budget: {{cost: 1}}}}
"""
SECONDS = 60
"""For what takes a moment: a busy machine may take its time."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with up(data=tmp_path_factory.mktemp("up") / "data") as running:
        yield running


@pytest.fixture
def buspass(gateway, monkeypatch, capsys):
    """Run a verb against the gateway; gives its exit code and what it printed."""
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BUSPASS_TOKEN", raising=False)

    def run(*words):
        code = cli.main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def agent(gateway):
    """A client with a task of its own: `agent.task` is its id."""
    with httpx.Client(base_url=gateway.url, timeout=SECONDS) as client:
        workload = {"Authorization": f"Bearer {gateway.environ['BUSPASS_WORKLOAD_TOKEN']}"}
        started = client.post("/v1/tasks", json={"workflow": "example"}, headers=workload).json()
        client.headers["Authorization"] = f"Bearer {started['token']}"
        client.task = started["task"]["id"]
        yield client


def work(agent, text):
    """Work on a request to its end as an agent does: think, act, think again. Gives the last sentence."""
    tools = agent.get("/v1/tools").json()["data"]
    functions = [{"type": "function", "function": tool["function"]} for tool in tools]
    messages = [{"role": "user", "content": text}]
    for _ in range(6):
        body = {"model": "chat", "messages": messages, "tools": functions}
        said = agent.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        messages.append({name: said[name] for name in ("role", "content", "tool_calls") if said.get(name)})
        if not said.get("tool_calls"):
            return said["content"]
        for call in said["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            asked = {"arguments": arguments, "tool_call_id": call["id"]}
            acted = agent.post(f"/v1/tools/{call['function']['name']}", json=asked).json()
            content = json.dumps(acted.get("result", acted))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    raise AssertionError(messages)


# ── what it prints and leaves ───────────────────────────────────────────────────────────────────────────────────────


def test_the_first_line_says_where_and_what(gateway):
    line = (
        r"buspass listening on http://127\.0\.0\.1:\d+ \(config its own example, revision [0-9a-f]{16}, host onprem\)"
    )
    assert re.fullmatch(line, gateway.said[0])
    assert "nothing here costs money" in gateway.said[1]
    ready = httpx.get(gateway.url + "/health/ready", timeout=SECONDS).json()
    assert f"revision {ready['revision']}" in gateway.said[0]


def test_the_printed_task_token_is_good_at_the_printed_address(gateway):
    at = next(line for line in gateway.said if line.startswith("curl ")).split()[2]
    body = json.loads(next(line for line in gateway.said if " -d '" in line).split("'")[1])
    token = {"Authorization": f"Bearer {gateway.environ['BUSPASS_TASK_TOKEN']}"}
    answer = httpx.post(at, json=body, headers=token, timeout=SECONDS)
    assert answer.status_code == 200
    assert "warehouse" in answer.json()["choices"][0]["message"]["content"]


def test_what_lies_on_disk_is_the_owners_alone(gateway):
    found = [gateway.data, *gateway.data.rglob("*")]
    assert {path.name for path in found} >= {"operator.key", "state.db", "domain.key"}
    assert [str(path) for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_real_models_key_is_answered_with_what_it_may_cost(tmp_path):
    with up(data=tmp_path / "data", environ={"OPENAI_API_KEY": "sk-none"}) as running:
        assert running.said[1].startswith("real model, real money, $1.00 per task")


# ── the verbs ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_listed_shown_and_traced(buspass, agent):
    assert work(agent, "Please reserve 2 of S-100.").startswith("Done: 2 of S-100 are reserved")
    code, listed, _ = buspass("task", "list", "--status", "open", "--workflow", "example")
    row = next(line for line in listed.splitlines() if line.startswith(agent.task))
    assert (code, row.split()[:3]) == (0, [agent.task, "example", "open"])
    _, shown, _ = buspass("task", "show", agent.task)
    assert re.search(r"^calls +60 +5 +0 +0 +55$", shown, re.MULTILINE)
    code, traced, _ = buspass("trace", agent.task)
    lines = [line.split("onprem", 1)[-1].strip() for line in traced.splitlines()]
    first = lines.index("● “I look up how many of S-100 there are.”")
    assert lines[first + 2].startswith('└ get_stock {"article": "S-100"}  succeeded')
    assert lines[first + 3].startswith("● “There are ")
    assert lines[first + 5].startswith('└ reserve_stock {"article": "S-100", "quantity": 2}  succeeded')
    assert (code, max(map(len, traced.splitlines())) <= 100) == (0, True)


def test_what_the_cage_refused_stands_in_the_trace(buspass, agent):
    refused = agent.post("/v1/tools/reserve_stock", json={"arguments": {"article": "S-100", "quantity": 1}})
    assert refused.json()["code"] == "thought_required"
    assert "✗ reserve_stock refused: thought_required" in buspass("trace", agent.task)[1]


def test_a_task_is_killed_once_and_for_all(buspass, agent):
    code, said, _ = buspass("task", "kill", agent.task, "--reason", "it looks odd")
    assert (code, said) == (0, f"killed {agent.task}: nothing in flight\n")
    assert agent.get("/v1/models").status_code == 403
    assert "■ kill: it looks odd" in buspass("trace", agent.task)[1]
    code, proved, _ = buspass("trace", "verify", agent.task)
    assert (code, proved.startswith(f"✓ the journal of {agent.task} is whole")) == (0, True)


def test_machines_get_json(buspass, agent):
    def document(*words):
        code, out, err = buspass(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    assert [row["id"] for row in document("task", "list", "--limit", "1")["data"]] == [agent.task]
    assert document("task", "show", agent.task)["id"] == agent.task
    assert document("trace", agent.task)["task"]["id"] == agent.task
    assert document("trace", "verify", agent.task)["ok"] is True
    assert json.loads(buspass("trace", "verify", "--json", agent.task)[1])["ok"] is True
    assert document("task", "kill", agent.task, "--reason", "r")["in_flight"] == 0


def test_a_list_longer_than_a_page_is_fetched_page_by_page(buspass, agent, monkeypatch):
    work(agent, "Anything about S-300?")
    whole = json.loads(buspass("task", "list", "--json")[1])["data"]
    monkeypatch.setattr("buspass.cli.task.PAGE", 1)
    assert len(whole) > 1
    assert json.loads(buspass("task", "list", "--json")[1])["data"] == whole


def test_an_unknown_task_is_a_refusal_with_a_way_out(buspass):
    code, out, err = buspass("task", "show", "t_nosuchtask")
    assert (code, out) == (1, "")
    assert err.startswith("not_found: ")
    assert "buspass task list" in err


def test_a_wrong_operators_token_is_refused(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_TOKEN", "bpo_" + "x" * 43)
    code, _, err = buspass("task", "list")
    assert (code, err.startswith("unauthenticated: ")) == (1, True)
    assert "xxx" not in err


# ── how it starts and stops ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_port_in_use_is_said_and_the_first_gateway_goes_on(gateway, tmp_path):
    port = gateway.url.rpartition(":")[2]
    with pytest.raises(AssertionError) as failed, up("--port", port, data=tmp_path / "data"):
        pass
    assert f"ended with 1: ['port {port} at 127.0.0.1 is in use" in str(failed.value)
    assert httpx.get(gateway.url + "/health/ready", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_however_it_ends_the_simulation_ends_with_it(tmp_path, number, code):
    with up(data=tmp_path / "data") as running:
        pid = running.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert "buspass.testing.example" in Path(f"/proc/{child}/cmdline").read_text()
        assert running.stop(number) == code
    ends = time.monotonic() + SECONDS
    while _lives(child):
        assert time.monotonic() < ends, f"process {child} is still there"
        time.sleep(0.02)


def _lives(child):
    try:
        return Path(f"/proc/{child}/cmdline").read_text() != ""  # of one that has ended, until somebody waited for it
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_stop_waits_for_the_call_in_flight(tmp_path):
    provider = Provider("sk-sim")
    provider.faults.append(Fault(kind="slow", seconds=1))
    async with serving(provider.app) as url:
        config = tmp_path / "buspass.yaml"
        config.write_text(CONFIG.format(url=url))
        answer = await asyncio.to_thread(_stopped_in_flight, tmp_path, config, provider)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "still there?"


def _stopped_in_flight(folder, config, provider):
    answers = []
    with up(data=folder / "data", environ={"SIM_KEY": "sk-sim"}, until="export BUSPASS_WORKLOAD_TOKEN") as running:
        assert "(config buspass.yaml, " in running.said[0]
        workload = {"Authorization": f"Bearer {running.environ['BUSPASS_WORKLOAD_TOKEN']}"}
        body = {"workflow": "work"}
        started = httpx.post(f"{running.url}/v1/tasks", json=body, headers=workload, timeout=SECONDS).json()
        token = {"Authorization": f"Bearer {started['token']}"}
        body = {"model": "plan", "messages": [{"role": "user", "content": "still there?"}]}
        at = f"{started['base_url']}/chat/completions"
        sending = partial(httpx.post, at, json=body, headers=token, timeout=SECONDS)
        caller = threading.Thread(target=lambda: answers.append(sending()))
        caller.start()
        ends = time.monotonic() + SECONDS
        while provider.faults:  # until the slow answer has begun
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert running.stop() == 0
        caller.join()
    return answers[0]


def test_it_says_at_once_which_secret_is_missing_and_where_this_gateway_is_found(tmp_path):
    (tmp_path / "buspass.yaml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    with up(data=tmp_path / "data", until="export BUSPASS_URL") as running:
        assert f"export BUSPASS_URL={running.url}" in running.said
        (line,) = [line for line in running.said if line.startswith("secret SIM_KEY: no environment variable")]
    assert line.endswith(": calls of sim will be refused")


def test_what_reads_yaml_does_not_stay_in_the_process_that_serves(tmp_path):
    (tmp_path / "buspass.yaml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    with up(data=tmp_path / "data", environ={"SIM_KEY": "sk-sim"}, until="export BUSPASS_WORKLOAD_TOKEN") as running:
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text(encoding="ascii")
        found = httpx.get(f"{running.url}/.well-known/openid-configuration", timeout=SECONDS)
        issuer = found.json()["issuer"]
    assert "uvloop" in mapped
    assert not re.search("pydantic|jsonschema_rs", mapped)
    assert issuer == running.url, "read for the port that was found free, not for the usual one"


def test_what_was_read_apart_is_what_would_have_been_read_here(tmp_path):
    path = tmp_path / "buspass.yaml"
    path.write_text(CONFIG.format(url="http://127.0.0.1:9"))
    environ = {"BUSPASS_CONFIG": str(path), "BUSPASS_DATA": str(tmp_path / "data")}
    script = """if True:
        import os, sys
        from buspass.http.compose import settings_of
        from buspass_onprem.apart import document
        found = document(os.environ, bind="127.0.0.1", port=8811)
        assert "pydantic" not in sys.modules
        apart, here = (settings_of(os.environ, "127.0.0.1", 8811, each) for each in (found, None))
        print(apart == here, "pydantic" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True\n", done.stderr
    path.write_text("version: 1\nnonsense: true\n")
    script = (
        "import os\nfrom buspass_onprem.apart import document\nprint(document(os.environ, bind='127.0.0.1', port=1))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("None\n", ""), "whoever serves reads it again, and says what is wrong"


# ── the data directory ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_data_directory_that_others_may_enter_is_closed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "state.db-wal").touch()
    data.chmod(0o755)
    data_directory({"BUSPASS_DATA": str(data)})
    assert stat.S_IMODE(data.stat().st_mode) == 0o750


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="'photos' is not ours"):
        data_directory({"BUSPASS_DATA": str(tmp_path)})
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"BUSPASS_DATA .*: a file is there, and no directory"):
        data_directory({"BUSPASS_DATA": str(tmp_path / "file")})
    with pytest.raises(ConfigError, match=r"BUSPASS_DATA .*: Not a directory"):
        data_directory({"BUSPASS_DATA": str(tmp_path / "file" / "data")})
