"""A child process that stands in for us: it gets our signals, and its exit code is ours.

Owns what is passed on. Refuses to know what runs there, and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Final

from buspass.cli.stop import Stop

NOT_FOUND: Final = 127
NOT_RUNNABLE: Final = 126
"""As shells say it (POSIX, 2.8.2)."""
PASSED: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
FROM_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""A terminal sends these to every process in its foreground, the child among them."""
PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""


def found(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raise Stop where there is no such program."""
    if shutil.which(command[0], path=environ.get("PATH")) is None:
        there = os.path.exists(command[0])  # noqa: PTH110 - a word, not yet a path
        why = "is no program that may be run" if there else "there is no such program"
        raise Stop(f"{command[0]}: {why}", NOT_RUNNABLE if there else NOT_FOUND)


def attend(command: Sequence[str], environ: Mapping[str, str], look: Callable[[], None], every: float) -> int:
    """Run a command to its end and give its exit code, 128 + N for signal N; `look` is called `every` so many seconds.

    It shares our terminal, our standard streams and our process group, so that job control works as without us.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        if process is None:
            early.append(number)
        elif not (number in FROM_THE_TERMINAL and _in_foreground()):
            process.send_signal(number)

    with _handled(pass_on):
        try:
            process = subprocess.Popen(command, env=environ)  # noqa: S603 - what the user asked for
        except OSError as error:
            raise Stop(f"{command[0]}: {error.strerror}", NOT_RUNNABLE) from error
        for number in early:
            process.send_signal(number)
        while True:
            try:
                code = process.wait(every)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                look()


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in PASSED}
    for number, said in before.items():
        if said is not signal.SIG_IGN:  # under nohup the child ignores it, too
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, said in before.items():
            signal.signal(number, said)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C reaches our process group by itself."""
    try:
        with open("/dev/tty", "rb") as terminal:  # noqa: PTH123 - a device
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def is_drawn_on() -> bool:
    """Whether a program draws on our terminal, as editors and Claude Code do: then a line would spoil its picture."""
    if not sys.stderr.isatty():
        return False
    import termios  # noqa: PLC0415 - not on every system

    return not termios.tcgetattr(sys.stderr.fileno())[3] & termios.ICANON


def hide() -> None:
    """Close /proc/PID/environ of this process to its user's other processes (Linux): it holds the provider's key."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
