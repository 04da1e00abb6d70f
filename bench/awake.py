"""Keeping the processors awake between two calls, as everybody does who measures latencies.

A virtual machine's processor that has nothing to do is given back to the host, and to get it again takes 50 to 100 µs,
each time that somebody waits for an answer: of a call at a time most of what is measured would be that, for every side.
Linux lets whoever holds `/dev/cpu_dma_latency` open say how many microseconds such a wake may take (Power Management
Quality of Service, https://docs.kernel.org/power/pm_qos_interface.html); it asks for a right that root has.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

DEVICE = Path("/dev/cpu_dma_latency")


@contextlib.contextmanager
def awake() -> Iterator[bool]:
    """Let no processor sleep within. Gives whether it was granted."""
    try:
        held = DEVICE.open("wb", buffering=0)
    except OSError:
        yield False
        return
    with held:
        held.write(struct.pack("i", 0))
        yield True
