"""One task pressed from four gateways over a store of several kinds: nobody overspends, nobody is refused in vain."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aws_servers import KEYS, Ministack, create_bucket, create_table
from redis_servers import Server

BENCH = Path(__file__).parents[2] / "bench" / "overspend.py"

pytestmark = pytest.mark.verify


def pressed(*arguments, calls):
    """Run it as anybody would; it judges itself, and says what it saw."""
    command = [sys.executable, BENCH, *arguments, "--calls", str(calls), "--gateways", "4"]
    done = subprocess.run(command, env=os.environ | KEYS, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("overspent 0;") == 3
    return done.stdout


def test_on_sqlite(tmp_path):
    pressed(f"sqlite:///{tmp_path}/state.db?durability=process", calls=500)


def test_on_redis(tmp_path):
    with Server(tmp_path) as server:
        pressed(f"redis://127.0.0.1:{server.port}", calls=500)


def test_on_dynamodb_and_s3(tmp_path, monkeypatch):
    """Fewer calls: the stand-in, not the gateways, is what is slow here."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with Ministack(tmp_path) as aws:
        asyncio.run(create_table(aws.url, "buspass"))
        asyncio.run(create_bucket(aws.url, "blobs"))
        where = f"region=eu-central-1&endpoint={aws.url}"
        pressed(f"dynamodb://buspass?{where}", "--blobs", f"s3://blobs?{where}", calls=120)


def test_on_cosmos(monkeypatch):
    """Fewer calls: Microsoft's SDK takes eight times DynamoDB's client's time, and the service has one process for all."""
    command = [sys.executable, "-m", "buspass.testing.cosmos_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            monkeypatch.setenv("COSMOS_KEY", serving.stdout.readline().strip().removeprefix("export COSMOS_KEY="))
            pressed(serving.stdout.readline().strip(), calls=100)
        finally:
            serving.terminate()
