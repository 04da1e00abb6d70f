"""Serves what stands outside the gateway, and notes every request that it gets.

Refuses to know what the services do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from buspass.testing.serve import serving


class RequestLog:
    """Every request a service got, as one JSON object a line; `entries` are those of this process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []

    def write(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")


@contextlib.asynccontextmanager
async def until_told(apps: Mapping[int, Any]) -> AsyncIterator[None]:
    """Serve each application at its port; after the block go on until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with contextlib.AsyncExitStack() as servers:
        for port, app in apps.items():
            await servers.enter_async_context(serving(app, port=port))
        yield
        await stopped.wait()
