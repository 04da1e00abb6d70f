"""Claude Code, unchanged, in print mode through `buspass run`: it works, is refused, is billed, and talks to nobody else.

Its npm package is installed once, by the lock's integrity hashes, into .cache/claude-code.
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fetching import alone, fetched
from running import CLAUDE_KEY, NOT_OURS, billed, served

from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_wire import text_of
from buspass.testing.serve import free_port

ROOT = Path(__file__).parents[2]
LOCKED = ROOT / "tests" / "data" / "frameworks"
SECONDS = 900
MODELS = ("claude-opus-4-8", "claude-sonnet-5", "claude-haiku-4-5-20251001")
pytestmark = pytest.mark.verify


def mind(request):
    """Reads the file that it was asked about, and says what stood in it."""
    for message in request["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_result":
                return {"content": f"It says: {text_of(block['content'])}"}
    if "Read" in {tool["name"] for tool in request.get("tools") or ()}:
        return {"content": "I read it.", "tool_calls": [{"name": "Read", "arguments": {"file_path": mind.file}}]}
    return {"content": "Hello."}


@pytest.fixture(scope="module")
def claude():
    """The folder of the program."""
    folder = ROOT / ".cache" / "claude-code"
    with alone(folder):
        folder.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKED / name, folder / name)
        fetched(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
    return next((folder / "node_modules" / "@anthropic-ai").glob("claude-code-*"))


@pytest.fixture(scope="module")
def provider():
    simulated = AnthropicProvider(CLAUDE_KEY, models=MODELS, mind=mind)
    with served(simulated) as simulated.url:
        yield simulated


@pytest.fixture
def outside():
    """A proxy that lets nothing through and tells who was asked for: everything that is not on loopback."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append(self.path)
            self.send_error(403)

        def do_GET(self):
            self.do_CONNECT()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield asked, {"HTTPS_PROXY": url, "HTTP_PROXY": url, "NO_PROXY": "127.0.0.1"}
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(tmp_path, claude, provider, outside):
    """Ask Claude Code something as a user does; the folder holds note.txt."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "note.txt").write_text("the word is marmalade\n")
    mind.file = str(folder / "note.txt")
    clean = {name: value for name, value in os.environ.items() if not name.startswith((*NOT_OURS, "CLAUDE"))}
    environ = clean | outside[1] | {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(claude), os.environ["PATH"]]),
        "BUSPASS_DATA": str(tmp_path / "data"),
        "BUSPASS_URL": f"http://127.0.0.1:{free_port()}",
        "ANTHROPIC_API_KEY": CLAUDE_KEY,
        "ANTHROPIC_BASE_URL": provider.url,
    }  # fmt: skip
    provider.requests.clear()

    def asked(question, *options, cost="10"):
        command = ["buspass", "run", "--cost", cost, "--", "claude", "-p", question, *options]
        return subprocess.run(
            command, cwd=folder, env=environ, text=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )

    return asked


def test_it_uses_its_tools_and_its_bill_is_the_journals(ask, provider, outside):
    done = ask("What does note.txt say?")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "the word is marmalade" in done.stdout
    code, thoughts, actions, refused, cost, _ = billed(done)
    assert (code, thoughts, actions, refused) == (0, 2, 0, 0)
    assert cost > 0
    assert "└ Read {file_path:" in done.stderr
    sent = [request for request in provider.requests if request.status == 200]
    assert [request.body["stream"] for request in sent] == [True, True]
    assert all("anthropic-beta" in request.headers for request in sent)
    assert CLAUDE_KEY not in done.stdout + done.stderr
    assert outside[0] == [], "it talks to nobody but the gateway"


@pytest.mark.parametrize("model", ["sonnet", "haiku", "claude-opus-4-8"])
def test_other_models_of_its_choice_work(ask, model):
    done = ask("What does note.txt say?", "--model", model, "--output-format", "json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "marmalade" in json.loads(done.stdout)["result"]


def test_a_refusal_is_shown_and_not_retried(ask, provider):
    done = ask("What does note.txt say?", cost="0.50")
    assert done.returncode == 1
    assert "402" in done.stdout
    assert "this call may need $" in done.stdout
    assert billed(done)[1:4] == (0, 0, 1)
    assert "a call did not fit the budget: --cost X gives more" in done.stderr
    done = ask("What does note.txt say?", "--model", "claude-nothing")
    assert "model 'claude-nothing' is not granted" in done.stdout
    assert billed(done)[1:4] == (0, 0, 1)
    assert provider.requests == []
