"""A server on loopback answers at once: asyncio lets small packets wait on a socket that does not say it is TCP. A port is
given once, so that where nobody is to listen nobody does."""

import functools
import os
import socket
import subprocess
import sys
import tempfile
from itertools import islice

import pytest
import uvicorn

from buspass.testing import serve
from buspass.testing.serve import free_port, serving

OTHER = """
import sys
from buspass.testing import serve
serve._LOWEST, serve._PORTS = 19_900, 8
print(*[serve.free_port() for _ in range(3)], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Eight ports of this test's own, of which chance would soon give one twice."""
    monkeypatch.setattr(serve, "_LOWEST", 19_900)
    monkeypatch.setattr(serve, "_PORTS", 8)
    monkeypatch.setattr(serve, "_GIVEN", set())
    monkeypatch.setattr(serve, "_locks", functools.cache(serve._locks.__wrapped__))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    os.close(serve._locks())


async def test_what_a_server_accepts_sends_without_delay(monkeypatch):
    protocols, serve = [], uvicorn.Server.serve

    async def watched(self, sockets=None):
        protocols.extend(listener.proto for listener in sockets)
        await serve(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "serve", watched)
    async with serving(None):
        assert protocols == [socket.IPPROTO_TCP]


def given():
    """All ports of the few that are left."""
    ports = []
    with pytest.raises(OSError, match="no free port from 19900 to 19908"):
        ports.extend(islice(iter(free_port, None), 20))
    return ports


def test_no_port_is_given_twice(few):
    ports = given()
    assert len(set(ports)) == len(ports) > 4


def test_what_another_process_was_given_is_its_own_until_it_ends(few):
    with subprocess.Popen([sys.executable, "-c", OTHER], stdin=-1, stdout=-1, text=True) as other:
        theirs = {int(port) for port in other.stdout.readline().split()}
        assert len(theirs) == 3
        assert not theirs & set(given())
    assert theirs == set(given())
