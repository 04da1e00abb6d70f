"""The peers: installed from the package registries into environments of the bench's own, each run as its makers say.

LiteLLM's proxy comes from PyPI, Portkey's gateway from npm. agentgateway is published as container images and binaries
only: no package of that name on npm or crates.io, and PyPI's is something else, so it takes no part.
Owns their installation and configuration. Refuses to measure.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sides import KEY, PRICE, Side, healthy, started

from buspass.testing.serve import free_port

CACHE = Path(__file__).parents[1] / ".cache" / "bench"
LITELLM = "litellm[proxy]==1.108.7"
PORTKEY = {
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # It takes any 1.x of this one from 1.3.3 on; with 1.19.19 its streams are answered 500 (TypeError: immutable).
    "overrides": {"@hono/node-server": "1.13.8"},
}
CONFIG = """\
model_list:
  - model_name: chat
    litellm_params:
      model: openai/m
      api_base: {upstream}/v1
      api_key: {key}
      input_cost_per_token: {input}
      output_cost_per_token: {output}
litellm_settings:
  telemetry: false
  drop_params: false
{more}"""
GOVERNED = """\
  callbacks: [governed.log]
general_settings:
  custom_auth: governed.authenticate
"""
AUTHENTICATE = '''\
"""Keys with budgets and a request log, as LiteLLM has them without a database."""
import json
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

OUT = open("requests.jsonl", "a", buffering=1 << 16)


def budget(api_key):
    return float(open("budget").read()) if api_key.startswith("sk-race") else 1e9


async def authenticate(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, token=api_key, user_id="bench", max_budget=budget(api_key))


class Log(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        OUT.write(json.dumps({"model": kwargs.get("model"), "cost": kwargs.get("response_cost")}) + "\\n")


log = Log()
'''


def install() -> dict[str, str]:
    """Install what is missing. Gives each peer's version, or why there is none."""
    found = {"agentgateway": "takes no part: no package on PyPI, npm or crates.io is it"}
    for name, make in (("litellm", _litellm), ("portkey", _portkey)):
        try:
            found[name] = make()
        except (OSError, subprocess.CalledProcessError) as error:
            found[name] = f"not installed: {error}"
    return found


def _litellm() -> str:
    folder = CACHE / "litellm"
    python = folder / "bin" / "python"
    uv = shutil.which("uv") or os.environ.get("UV") or str(CACHE.parent / "uv" / "bin" / "uv")
    ready, wanted = folder / "ready", f"{LITELLM} on {sys.base_prefix}"
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", python, LITELLM], check=True)
        subprocess.run([python, "-m", "compileall", "-q", folder / "lib"], check=False)
        ready.write_text(wanted)
    command = [str(python), "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _portkey() -> str:
    folder = CACHE / "portkey"
    package, wanted = folder / "node_modules" / "@portkey-ai" / "gateway" / "package.json", folder / "package.json"
    if not package.exists() or json.loads(wanted.read_text()) != PORTKEY:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        wanted.write_text(json.dumps(PORTKEY))
        subprocess.run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--silent"], check=True)
    return str(json.loads(package.read_text())["version"])


@contextlib.contextmanager
def litellm(name: str, upstream: str, parent: Path, *, governed: bool = False) -> Iterator[Side]:
    """Plain, or with keys, budgets and a request log: keys that begin with sk-race have what the file `budget` says."""
    folder = parent / name.replace(" ", "-")
    folder.mkdir()
    text = CONFIG.format(
        upstream=upstream,
        key=KEY,
        input=f"{PRICE['input'] / 1e6:.10f}",
        output=f"{PRICE['output'] / 1e6:.10f}",
        more=GOVERNED if governed else "",
    )
    (folder / "config.yaml").write_text(text)
    if governed:
        (folder / "governed.py").write_text(AUTHENTICATE)
    port = free_port()
    script = CACHE / "litellm" / "bin" / "litellm"
    command = [str(script), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "PYTHONPATH": str(folder),
    }
    with started(command, folder=folder, log="litellm", environ=environ) as process, _drained(process):
        healthy(port, "/health/liveliness", process)
        yield Side(name=name, port=port, pid=process.pid, token="sk-bench-0123456789", folder=folder)


@contextlib.contextmanager
def portkey(upstream: str, parent: Path) -> Iterator[Side]:
    """Plain: its open source has neither keys nor budgets."""
    folder = parent / "portkey"
    folder.mkdir()
    port = free_port()
    script = CACHE / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    environ = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    command = ["node", str(script), f"--port={port}", "--headless"]
    headers = f"x-portkey-provider: openai\r\nx-portkey-custom-host: {upstream}/v1\r\n"
    with started(command, folder=folder, log="portkey", environ=environ) as process, _drained(process):
        healthy(port, "/", process)
        yield Side(name="portkey", port=port, pid=process.pid, token=KEY, headers=headers)


@contextlib.contextmanager
def _drained(process: subprocess.Popen[str]) -> Iterator[None]:
    """Read what it says into nothing, in a process that takes no part: a full pipe would stop it."""
    with subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL) as reader:
        assert process.stdout is not None
        process.stdout.close()
        try:
            yield
        finally:
            reader.kill()  # it would read until the peer ends, and that is ended only afterwards
