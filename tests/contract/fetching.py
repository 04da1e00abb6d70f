"""What tests fetch from a registry: asked for again where it failed, and by one process at a time.

A registry that answers with an error once, or that is slow, says nothing about the product. What fails each time fails.
"""

import contextlib
import fcntl
import subprocess
from time import sleep

PAUSES = (3, 15, 45)
"""Seconds before the second try, the third and the last."""


def fetched(command, *, seconds=600, **options):
    """Run a command that fetches, once more after each pause. Gives what it did; AssertionError with all that it said."""
    said = []
    for pause in (*PAUSES, None):
        try:
            done = subprocess.run(command, text=True, capture_output=True, timeout=seconds, **options)
        except subprocess.TimeoutExpired:
            said.append(f"nothing after {seconds} s")
        else:
            if done.returncode == 0:
                return done
            said.append((done.stdout + done.stderr)[-3000:])
        if pause is not None:
            sleep(pause)
    raise AssertionError(f"{command} failed {len(said)} times:\n" + "\n".join(said))


@contextlib.contextmanager
def alone(folder):
    """Nobody else is in this block for the same folder: several test processes may come at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
