"""What a cold start loads: the import budget, by count and by name, of the Lambda handler up to its first governed call.

Each look is into a fresh interpreter: what another test imported must not hide what this path needs.
"""

import asyncio
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buspass.cli import main
from buspass.http.compose import composed
from buspass.model import Limits
from buspass.ports.outbound import Request
from buspass.testing.outbound import AsgiOutbound
from buspass_aws.authorities import BUNDLES

LIMITS = Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)
MODULES = 511
"""Modules that stand in `sys.modules` after the first governed call, the interpreter's own among them. Raising this is
a decision about every user's cold start: say in the commit what was bought with it."""
NEVER = (
    *("pydantic", "yaml", "genai_prices", "httpx", "httpcore", "h11", "phonenumbers", "stdnum", "regopy"),
    *("jsonschema_rs", "litellm", "openai", "mcp", "redis", "aiohttp", "boto3", "botocore.session", "tiktoken"),
    *("azure", "opentelemetry", "requests", "uvicorn", "granian", "certifi", "argparse"),
    *("jwt", "cryptography.x509", "buspass.doctor", "starlette", "anyio", "buspass.http.tasks", "buspass.http.openapi"),
    *("aws_lambda_powertools.utilities.parser", "aws_lambda_powertools.utilities.validation"),
)
"""What a call without tools, Rego and personal data needs nowhere."""

CONFIG = """\
version: 1
hosts: {aws: {url: 'https://gateway.example.com', cloud: aws, region: eu-central-1}}
providers: {up: {api: openai, base_url: 'http://127.0.0.1:%d/v1', auth: {bearer: {secret: UP_KEY}}}}
prices: {up/m: {input: 0.25, output: 2.00}}
models: {chat: {targets: [{provider: up, model: m}]}}
workflows:
  plain:
    models: [chat]
    budget: {cost: 1}
"""
CHILD = """\
import json, os, sys
from buspass_aws.handler import handler

class Context:
    function_name = "f"; memory_limit_in_mb = 512; aws_request_id = "r"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:f"
    def get_remaining_time_in_millis(self): return 30000

answer = handler(json.loads(os.environ["EVENT"]), Context())
found = {"status": answer["statusCode"], "body": answer["body"], "modules": sorted(sys.modules)}
print(json.dumps({**found, "authorities": os.environ.get("SSL_CERT_FILE")}))
"""


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Hello."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        body = json.dumps({"id": "c", "created": 1, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield server.server_port
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def host(tmp_path, upstream, monkeypatch, capsys):
    """The environment of a host whose configuration is compiled, and the token of a task there."""
    file, out = tmp_path / "buspass.yaml", tmp_path / "bundle" / "buspass.json"
    out.parent.mkdir()
    file.write_text(CONFIG % upstream)
    monkeypatch.setenv("BUSPASS_DATA", str(tmp_path / "data"))
    assert main(["check", str(file), "--compile", str(out)]) == 0
    environ = {"BUSPASS_CONFIG": str(out), "BUSPASS_DATA": str(tmp_path / "data"), "UP_KEY": "k" * 20}
    return environ, asyncio.run(_token(environ))


async def _token(environ):
    application = await composed(environ, LIMITS)
    try:
        outbound = AsgiOutbound({"gateway": application})
        headers = {"authorization": f"Bearer {await application.mint_workload('agent')}"}
        body = json.dumps({"workflow": "plain"}).encode()
        answer = await outbound.send(
            Request(method="POST", url="http://gateway/v1/tasks", headers=headers, body=body, timeout=60)
        )
        return json.loads(answer.body)["token"]
    finally:
        await application.close()


def event(token):
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
    return {
        "version": "2.0",
        "rawPath": "/v1/chat/completions",
        "headers": {"authorization": f"Bearer {token}", "content-type": "application/json"},
        "requestContext": {"requestId": "r", "http": {"method": "POST", "protocol": "HTTP/1.1"}},
        "body": json.dumps(body),
    }


def first_call(environ, token):
    path = {"PATH": "/usr/bin:/bin", "EVENT": json.dumps(event(token)), **environ}
    found = subprocess.run([sys.executable, "-c", CHILD], env=path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def test_the_first_governed_call_of_a_lambda_stays_within_its_import_budget(host):
    seen = first_call(*host)
    assert seen["status"] == 200, seen["body"]
    loaded = [name for name in NEVER if any(f"{each}.".startswith(f"{name}.") for each in seen["modules"])]
    assert loaded == []
    assert len(seen["modules"]) <= MODULES


def test_the_function_believes_the_systems_bundle_alone(host):
    """Where it is not named, each client that is made reads every certificate of the system two or three times."""
    assert first_call(*host)["authorities"] == next((each for each in BUNDLES if Path(each).is_file()), None)


def test_without_a_compiled_configuration_the_same_call_pays_for_yaml_and_pydantic(host, tmp_path):
    """The budget's own proof: what it forbids would be seen."""
    environ, token = host
    seen = first_call({**environ, "BUSPASS_CONFIG": str(tmp_path / "buspass.yaml")}, token)
    assert seen["status"] == 200, seen["body"]
    assert {"yaml", "pydantic"} <= set(seen["modules"])
