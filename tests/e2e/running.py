"""What a test needs to run agents as a user does: a provider with a mind, a command as typed, its bill, its journal.

The agent is the one of docs/tutorial.md. Owns no fixture.
"""

import asyncio
import contextlib
import re
import subprocess
import threading
from pathlib import Path

import httpx

from buspass.testing.serve import serving

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
BLOCKS = re.findall(r"^```([a-z ]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
AGENT = next(code for language, code in BLOCKS if language == "python")
KEY = "sk-proj-0123456789abcdefghijklmnop"
CLAUDE_KEY = "sk-ant-api03-0123456789abcdefghijkl"
SECONDS = 600
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


def typed(home, *words, **more):
    folder, environ = home
    return subprocess.run(words, cwd=folder, env={**environ, **more}, text=True, capture_output=True, timeout=SECONDS)


def run(home, *words, **more):
    return typed(home, "buspass", "run", *words, **more)


def journal(reader, task):
    """The trace of a task, whose journal is proven to be whole."""
    headers = {"Authorization": f"Bearer {(reader.data / 'operator.key').read_text().strip()}"}
    url = f"{reader.url}/v1/tasks/{task}/trace"
    assert httpx.get(f"{url}/verify", headers=headers, timeout=SECONDS).json()["ok"]
    return httpx.get(url, headers=headers, timeout=SECONDS).json()


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
