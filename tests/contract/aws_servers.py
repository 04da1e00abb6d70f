"""A real stand-in for AWS as a process: ministack, from its own lock in an environment of its own, on a free port.

Ministack keeps DynamoDB's atomicity, conditions and validation (machine-checked by the contract suite) and S3's
conditional puts. What it does not do is named in the adapters.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import patch

from fetching import alone, fetched

from buspass.testing.serve import free_port
from buspass_aws import json_service
from buspass_aws.client import Address, AwsClient
from buspass_aws.dynamodb_table import definition
from buspass_aws.json_service import JsonService

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("ministack.lock")
HOME = ROOT / ".cache" / "ministack"
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-central-1"}
"""What a client of the stand-in needs in its environment; any key will do."""


def installed():
    """The program, installed anew where its lock is another than the one it was installed from."""
    version = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    stamp, python = HOME / "lock.sha256", HOME / "bin" / "python"
    with alone(HOME):
        if not stamp.exists() or stamp.read_text() != version:
            subprocess.run([UV, "venv", "-q", "--clear", "--python", sys.executable, HOME], check=True)
            fetched([UV, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", LOCK])
            stamp.write_text(version)
    return HOME / "bin" / "ministack"


class Ministack:
    """The stand-in while a `with` block runs; `url` is its endpoint. It listens on this machine only."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        self.log = self.folder / "ministack.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [installed()], env=environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + 240
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise AssertionError(f"ministack did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=1):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


async def asked(endpoint, service, action, **body):
    """Have the stand-in do what whoever runs Buspass does in a service that speaks JSON."""
    at = Address(name="", rest="", region=KEYS["AWS_REGION"], endpoint=endpoint, options={})
    client = JsonService(service, at)
    with patch.object(json_service, "TIMEOUT", 60.0):  # seconds: what was made late must not be made twice
        answer = await client.ask(action, body)
    await client.close()
    return answer


async def create_table(endpoint, name):
    """Create the table as whoever runs Buspass does: from its definition."""
    client = AwsClient("dynamodb", KEYS["AWS_REGION"], endpoint)
    headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "DynamoDB_20120810.CreateTable"}
    body = json.dumps(definition(name)).encode()
    answer = await client.send("POST", "/", headers=headers, body=body, timeout=60)
    await client.close()
    assert answer.status == 200, answer


async def create_bucket(endpoint, name):
    client = AwsClient("s3", KEYS["AWS_REGION"], endpoint)
    region = f"<LocationConstraint>{KEYS['AWS_REGION']}</LocationConstraint>"
    body = f"<CreateBucketConfiguration>{region}</CreateBucketConfiguration>".encode()
    answer = await client.send("PUT", f"/{name}", headers={}, body=body, timeout=60)
    await client.close()
    assert answer.status == 200, answer
