"""Runs `buspass up` as a process, for tests that want a gateway as users get it.

Owns the process and what it printed. Refuses to know what is asked of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

SECONDS = 600
"""Until it has said what it says at its start, and again until it has stopped."""


class Up:
    """A running gateway. `said`: its lines so far; `url`: where it listens; `environ`: what a client of it needs."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self.process = process
        self.data = data
        self.said: list[str] = []

    @property
    def url(self) -> str:
        return self.said[0].removeprefix("buspass listening on ").split(" ", 1)[0]

    @property
    def environ(self) -> dict[str, str]:
        exported = (line.removeprefix("export ").partition("=") for line in self.said if line.startswith("export "))
        return {"BUSPASS_URL": self.url, "BUSPASS_DATA": str(self.data), **{name: value for name, _, value in exported}}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def listen(self, until: str) -> None:
        """Read lines to the one that begins with `until`. AssertionError where it ends before."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.said.append(line.rstrip("\n"))
                if line.startswith(until):
                    return
        finally:
            watchdog.cancel()
        raise AssertionError(f"buspass up ended with {self.process.wait()}: {self.said}")


@contextlib.contextmanager
def up(
    *arguments: str, data: Path, environ: Mapping[str, str] | None = None, until: str = "buspass trace"
) -> Iterator[Up]:
    """Run `buspass up ARGUMENTS` on a free port in the parent folder of `data`; ready when `until` was printed.

    Without the variables that a developer's own shell may have: BUSPASS_* and OPENAI_API_KEY come from `environ` alone.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BUSPASS_", "OPENAI_"))}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        [sys.executable, "-m", "buspass", "up", "--port", "0", *arguments],
        cwd=data.parent,
        env={**clean, "BUSPASS_DATA": str(data), **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        running = Up(process, data)
        try:
            running.listen(until)
            yield running
        finally:
            if process.poll() is None:
                running.stop()
