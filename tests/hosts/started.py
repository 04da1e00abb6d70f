"""The hosts' fronts as processes, and the events that were recorded for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EVENTS = HERE.parent / "data" / "events"
SECONDS = 60
"""For what comes at once unless something is broken: a busy machine may take its time."""

FRONTS = {
    "onprem": ["uvicorn_echo.py"],
    "lambda": ["-m", "buspass.testing.lambda_runtime", "--handler", "lambda_echo.handler", "--env", "SHOWN=here"],
    "functions": ["-m", "buspass_azure.local_host", "--app", "functions_echo"],
}
if sys.version_info < (3, 13):
    del FRONTS["functions"]  # the runtime library of Azure Functions needs 3.13


def recorded_events():
    """What `sam local invoke --event events/NAME.json` sends, each with what the application is to make of it."""
    found = []
    for path in sorted(EVENTS.glob("*.json")):
        event = json.loads((HERE.parents[1] / "events" / path.name).read_text("utf-8"))
        found.append(pytest.param({"event": event, **json.loads(path.read_text("utf-8"))}, id=path.stem))
    return found


class Front:
    """A front that runs as a process until the end of its fixture."""

    def __init__(self, arguments):
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=HERE,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line.startswith("listening "):
            self.__exit__()
            pytest.fail(f"{self.process.args}: {line!r}, exit status {self.status}")
        self.url = line.removeprefix("listening ").strip()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
