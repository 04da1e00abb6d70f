"""Services that come as npm packages: installed once under .cache/npm, run on a free loopback port."""

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

from fetching import alone, fetched

CACHE = Path(__file__).parents[2] / ".cache" / "npm"


def installed(name, version, command):
    """Give the path of a package's command; installs it if need be. Without npm this fails."""
    folder = CACHE / f"{name.replace('/', '-').removeprefix('@')}-{version}"
    path = folder / "node_modules" / ".bin" / command
    with alone(folder):
        if not path.exists():
            assert shutil.which("npm"), f"{name} needs npm, which is not on this machine"
            folder.mkdir(parents=True, exist_ok=True)
            fetched(["npm", "install", "--no-fund", "--no-audit", "--prefix", folder, f"{name}@{version}"])
    return path


@contextlib.contextmanager
def running(words, port, cwd):
    """Run a command until the block ends; the block begins when `port` listens."""
    with (cwd / "service.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=cwd, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 240
        while not listens(port):
            assert process.poll() is None, (cwd / "service.log").read_text()
            assert time.monotonic() < end, f"{words[0]} does not listen on {port}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
