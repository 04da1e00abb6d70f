"""The smallest agents of examples/plain, run as a newcomer runs them: against `buspass up` with its own example."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from buspass.testing.up import up

PLAIN = Path(__file__).parents[2] / "examples" / "plain"
AGENTS = {"curl": [str(PLAIN / "curl.sh")], "openai": [sys.executable, str(PLAIN / "openai_sdk.py")]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with up(data=tmp_path_factory.mktemp("plain") / "data") as running:
        yield running


def run(command, environ):
    return subprocess.run(command, env={**os.environ, **environ}, text=True, capture_output=True, timeout=600)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agent_thinks_acts_and_prints_its_bill(gateway, agent):
    done = run(AGENTS[agent], gateway.environ)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["models"] == "chat"
    assert lines["tools"] == "get_stock, reserve_stock"
    assert lines["thought"] == "I look up how many of S-100 there are."
    name, _, result = lines["action"].partition(" ")
    assert (name, json.loads(result)["quantity"]) == ("get_stock", 12)
    assert re.fullmatch(r"\$0\.00\d{4} for 2 calls", lines["bill"])

    trace = run([sys.executable, "-m", "buspass", "trace", "--json", lines["task"]], gateway.environ)
    task, records = json.loads(trace.stdout).values()
    assert (task["status"], task["budget"]["limits"]["cost"]) == ("completed", 0.1)
    thought, action = (next(row for row in records if row["kind"] == kind) for kind in ("inference", "action"))
    assert action["cause"] == thought["id"]
    assert lines["bill"] == f"${thought['cost']:.6f} for 2 calls"


@pytest.mark.verify
@pytest.mark.parametrize("agent", AGENTS)
def test_without_a_workload_token_the_agent_says_where_to_get_one(agent):
    done = run(AGENTS[agent], {"BUSPASS_WORKLOAD_TOKEN": ""})
    assert done.returncode != 0
    assert "buspass up" in done.stderr


@pytest.mark.verify
@pytest.mark.parametrize("agent", AGENTS)
def test_a_refusal_ends_the_agent_and_is_shown(gateway, agent):
    done = run(AGENTS[agent], {**gateway.environ, "BUSPASS_WORKLOAD_TOKEN": "sk-not-a-workload"})
    assert done.returncode != 0
    assert "unauthenticated" in done.stdout + done.stderr
