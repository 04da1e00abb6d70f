"""`buspass.client` against a real gateway: both kinds, renewal, checkpoints, endings, and where the workload's token is from."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import openai
import pytest

from buspass import workload
from buspass.client import BuspassError, atask, task
from buspass.testing.up import up

SAID = [{"role": "user", "content": "How many of S-100 are there?"}]
CONFIG = """
version: 1
providers:
  sim: {{api: openai, base_url: '{url}/v1', auth: {{bearer: {{secret: HOUSE_KEY}}}}}}
models:
  chat: {{targets: [{{provider: sim, model: m}}], max_output: 100}}
prices: {{sim/m: {{input: 1, output: 1}}}}
workflows:
  brief: {{loops: off, models: [chat], budget: {{cost: 0.50, wall: 5m}}, token_ttl: 2m}}
"""
ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Twelve."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


@contextmanager
def answering(document, status=200):
    """A server on loopback that answers the same to everything; yields its URL and the requests it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            got.append((self.path, dict(self.headers)))
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", got
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """A gateway with a workflow whose tokens last two minutes."""
    folder = tmp_path_factory.mktemp("client")
    with answering(ANSWER) as (url, _):
        (folder / "buspass.yaml").write_text(CONFIG.format(url=url))
        config = str(folder / "buspass.yaml")
        with up("--config", config, data=folder / "data", environ={"HOUSE_KEY": "k" * 20}, until="export") as running:
            yield running


@pytest.fixture(autouse=True)
def environ(gateway, monkeypatch):
    """What the gateway printed, as a user would export it; nothing of the developer's own shell."""
    places = ("BUSPASS_", "IDENTITY_", "AWS_")
    for name in [name for name in os.environ if name.startswith(places)]:
        monkeypatch.delenv(name)
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def passed(monkeypatch):
    """Seconds that passed for the agent and not for the gateway, which still takes what the agent thinks is old."""
    seconds = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(seconds))
    monkeypatch.setattr("buspass.client.time", clock)
    return seconds


def status(gateway, name):
    """A task's status, and the reason of its last change."""
    headers = {"authorization": f"Bearer {(gateway.data / 'operator.key').read_text().strip()}"}
    trace = httpx.get(f"{gateway.url}/v1/tasks/{name}/trace", headers=headers, timeout=60).json()
    return trace["task"]["status"], trace["records"][-1].get("reason")


# ── a task from its beginning to its end ────────────────────────────────────────────────────────────────────────────


def test_a_task_is_completed_when_its_block_ends(gateway):
    with task("brief", metadata={"case": 7}, budget={"cost": 0.10}) as t:
        client = openai.OpenAI(base_url=t.base_url, api_key=t.api_key, max_retries=0)
        assert client.chat.completions.create(model="chat", messages=SAID).choices[0].message.content == "Twelve."
    assert (t.document["metadata"], t.document["budget"]["limits"]["cost"]) == ({"case": 7}, 0.1)
    assert status(gateway, t.id) == ("completed", "done")


def test_a_token_is_renewed_before_it_ends_and_a_callable_key_follows(gateway, passed):
    keys = []

    def key():
        keys.append(t.key())
        return keys[-1]

    with task("brief") as t:
        client = openai.OpenAI(base_url=t.base_url, api_key=key, max_retries=0)
        first = t.api_key
        passed.append(75)
        assert t.api_key == first, "not before it must be"
        passed.append(20)
        second = t.api_key
        assert second != first
        passed.append(95)
        answer = client.chat.completions.create(model="chat", messages=SAID)
        assert answer.choices[0].message.content == "Twelve."
        assert keys[-1] not in {first, second}
        assert t.api_key == keys[-1]


async def test_asynchronous_code_does_the_same(gateway, passed):
    keys = []

    async def key():
        keys.append(await t.fresh())
        return keys[-1]

    async with atask("brief") as t:
        first = await t.fresh()
        passed.append(95)
        client = openai.AsyncOpenAI(base_url=t.base_url, api_key=key, max_retries=0)
        async with client:
            answer = await client.chat.completions.create(model="chat", messages=SAID)
        assert answer.choices[0].message.content == "Twelve."
        assert keys[-1] != first
        assert await t.fresh() == keys[-1]
        assert await t.restore() is None
        await t.save({"step": 1})
        assert await t.restore() == {"step": 1}
    assert status(gateway, t.id) == ("completed", "done")
    with pytest.raises(KeyError):
        async with atask("brief") as t:
            raise KeyError
    assert status(gateway, t.id) == ("killed", "KeyError in the agent")


def test_a_cancelled_task_is_killed(gateway):
    names = []

    async def agent():
        async with atask("brief") as t:
            names.append(t.id)
            await asyncio.sleep(30)

    async def cancel():
        working = asyncio.create_task(agent())
        while not names:
            await asyncio.sleep(0.02)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(cancel())
    assert status(gateway, names[0]) == ("killed", "CancelledError in the agent")


def test_an_exception_kills_the_task_and_is_the_one_that_is_raised(gateway):
    with pytest.raises(ZeroDivisionError), task("brief") as t:
        raise ZeroDivisionError
    assert status(gateway, t.id) == ("killed", "ZeroDivisionError in the agent")


def test_a_kill_that_fails_does_not_hide_why_it_was_tried():
    def agent():
        with task("brief") as t:
            t._url = "http://127.0.0.1:9"  # nobody is there
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agent()


def test_what_the_agent_has_ended_itself_stays_as_it_is(gateway):
    with task("brief") as t:
        t.end("suspend", "waiting for the customer")
    assert status(gateway, t.id) == ("suspended", "waiting for the customer")


def test_a_checkpoint_is_kept_and_two_writers_are_told_apart(gateway):
    with task("brief") as t:
        assert t.restore() is None
        t.save({"step": 1})
        assert t.restore() == {"step": 1}
        headers = {"authorization": f"Bearer {t.api_key}"}
        kept = f"{gateway.url}/v1/tasks/{t.id}/checkpoint"
        httpx.put(kept, json={"step": "other"}, headers=headers, timeout=60).raise_for_status()
        with pytest.raises(BuspassError) as refused:
            t.save({"step": 2})
        assert (refused.value.status, refused.value.code) == (412, "precondition_failed")
        assert t.restore() == {"step": "other"}
        t.save({"step": 2})


NOBODY = ["http://127.0.0.1:9", "127.0.0.1:8700", "http://127.0.0.1:port"]


@pytest.mark.parametrize("url", NOBODY, ids=["nobody listens", "no scheme", "no address"])
async def test_where_no_gateway_is_the_agent_is_told_where_none_is_and_what_to_do(url):
    with pytest.raises(BuspassError) as told, task("brief", url=url):
        pass
    with pytest.raises(BuspassError) as too:
        async with atask("brief", url=url):
            pass
    for error in (told.value, too.value):
        assert (error.status, error.code) == (0, "unreachable")
        assert f"no gateway answers at {url} (" in error.detail
        assert "start one with `buspass up`, or set BUSPASS_URL" in error.detail


def test_a_gateway_that_goes_while_the_task_is_at_work_is_told_alike(gateway):
    with task("brief") as t:
        here, t._url = t._url, "http://127.0.0.1:9"
        with pytest.raises(BuspassError, match="unreachable: no gateway answers at http://127"):
            t.save({"step": 1})
        t._url = here


def test_a_refused_start_is_the_problem_itself():
    with pytest.raises(BuspassError) as refused, task("nothing"):
        raise AssertionError
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    assert "there is no workflow 'nothing' here" in refused.value.detail


def test_a_proxys_page_is_told_as_it_is():
    with answering(b"<html>Bad Gateway", status=502) as (url, _):
        with pytest.raises(BuspassError) as refused, task("brief", url=f"{url}/v1"):
            raise AssertionError
        assert (refused.value.status, refused.value.code, refused.value.detail) == (502, "unknown", "<html>Bad Gateway")


# ── where the workload's token is from ──────────────────────────────────────────────────────────────────────────────


def test_a_function_may_give_the_workloads_token(monkeypatch, passed):
    proof = os.environ["BUSPASS_WORKLOAD_TOKEN"]
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN")
    asked = []

    def token():
        asked.append(1)
        return proof

    with task("brief", workload_token=token) as t:
        passed.append(95)
        assert t.api_key
    assert len(asked) == 2, "once to start, once to renew"


def test_a_projected_file_is_read_anew_each_time(monkeypatch, tmp_path, passed):
    proof = os.environ["BUSPASS_WORKLOAD_TOKEN"]
    file = tmp_path / "token"
    file.write_text(f"{proof}\n")
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN")
    monkeypatch.setenv("BUSPASS_WORKLOAD_TOKEN_FILE", str(file))
    with task("brief") as t:
        passed.append(95)
        file.write_text("no token of anybody")
        with pytest.raises(BuspassError) as refused:
            t.key()
        assert refused.value.status == 401
        file.write_text(proof)
        assert t.key()


def test_azures_managed_identity_is_asked_for_the_audience(monkeypatch):
    proof = os.environ["BUSPASS_WORKLOAD_TOKEN"]
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN")
    with answering({"access_token": proof, "expires_on": "1", "resource": "r", "token_type": "Bearer"}) as (url, got):
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/msi/token/")
        monkeypatch.setenv("IDENTITY_HEADER", "proof-of-the-host")
        monkeypatch.setenv("BUSPASS_AUDIENCE", "api://ours")
        with task("brief"):
            pass
    (path, headers), *_ = got
    assert parse_qs(urlsplit(path).query) == {"resource": ["api://ours"], "api-version": ["2019-08-01"]}
    assert headers["X-IDENTITY-HEADER"] == "proof-of-the-host"


STS = """
import os
class Sts:
    def get_web_identity_token(self, *, Audience, SigningAlgorithm):
        assert (Audience, SigningAlgorithm) == (["api://buspass"], "RS256"), (Audience, SigningAlgorithm)
        return {"WebIdentityToken": os.environ["PROOF"]}
def client(name):
    assert name == "sts"
    return Sts()
"""
ON_LAMBDA = "from buspass.client import task\nwith task('brief') as t: print(t.id)"


def test_a_lambda_asks_sts(gateway, tmp_path):
    (tmp_path / "boto3.py").write_text(STS)
    environ = {n: v for n, v in os.environ.items() if n != "BUSPASS_WORKLOAD_TOKEN"} | {
        "AWS_LAMBDA_FUNCTION_NAME": "agent",
        "PROOF": os.environ["BUSPASS_WORKLOAD_TOKEN"],
        "PYTHONPATH": str(tmp_path),
    }
    command = [sys.executable, "-c", ON_LAMBDA]
    done = subprocess.run(command, env=environ, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert status(gateway, done.stdout.strip()) == ("completed", "done")


def test_without_boto3_and_without_any_place_it_is_told_what_to_do(monkeypatch):
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN")
    with pytest.raises(LookupError, match="BUSPASS_WORKLOAD_TOKEN_FILE"), task("brief"):
        raise AssertionError
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "agent")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LookupError, match="pip install boto3"):
        workload.token()
