"""Real Redis servers for tests, alone or as a cluster, each with its own folder and free port."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from buspass.testing.serve import free_port

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")


class Server:
    """`options` are lines of redis.conf. A killed server comes back with what its append-only file holds."""

    def __init__(self, folder, *options):
        assert BINARY, "redis-server is not installed: `make services` installs it"
        self.folder, self.options, self.process = Path(folder), options, None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        while self.port > 22_000:  # a cluster's bus listens at the port and 10,000, which no connection may take either
            self.port = free_port()

    def start(self):
        arguments = [word for option in self.options for word in f"--{option}".split(" ", 1)]
        base = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, *base, "--appendonly", "yes", "--appendfsync", "always", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
            )
        until = time.monotonic() + 60
        while self.command("PING") != "+PONG":
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.01)
        return self

    def command(self, *words):
        """Send one command in plain RESP; give the first line of the answer, or what went wrong."""
        text = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(text.encode())
                return connection.makefile("rb").readline().decode().strip()
        except OSError as error:
            return repr(error)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def cluster(folder, size=3):
    """Start primaries that share the slots; give them once each of them says that the cluster is well."""
    # Nobody fails here, so a node that a busy machine lets wait for some seconds must not be taken for one that does.
    options = ("cluster-enabled yes", "cluster-node-timeout 60000", "cluster-require-full-coverage yes")
    servers = [Server(Path(folder) / str(n), *options).start() for n in range(size)]
    bounds = [16384 * n // size for n in range(size + 1)]
    for number, server in enumerate(servers):
        server.command("CLUSTER", "ADDSLOTSRANGE", str(bounds[number]), str(bounds[number + 1] - 1))
        server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for server in servers[1:]:
        server.command("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
    until = time.monotonic() + 120
    while any(not _well(server, size) for server in servers):
        assert time.monotonic() < until, "the cluster did not come together"
        time.sleep(0.05)
    return servers


def _well(server, size):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"CLUSTER INFO\r\n")
        connection.settimeout(5)
        text = connection.recv(4096).decode()
    return "cluster_state:ok" in text and f"cluster_known_nodes:{size}" in text and "slots_ok:16384" in text
