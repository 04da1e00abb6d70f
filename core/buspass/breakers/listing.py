"""Every breaker worth looking at: those of the configuration, and what the index says of tasks. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from buspass.breakers.known import Key
from buspass.breakers.states import CLOSED, Breaker
from buspass.breakers.stored import INDEX, KEY, SHARD, TASKS, breaker_in
from buspass.ports.state import State

MOST: Final = 200
"""Breakers of tasks that are listed, those first that have been troubled for longest."""


async def listing(state: State, configured: Iterable[Key]) -> Sequence[tuple[Key, Breaker]]:
    """Give the configured ones in their order, then those of tasks that are not closed. Raises Unavailable."""
    rows: list[tuple[Key, Breaker]] = []
    for key in configured:
        item = await state.read(key.partition, KEY)
        rows.append((key, CLOSED if item is None else breaker_in(item)))
    most = len(rows) + MOST
    for partition, _ in await state.find(INDEX, SHARD, "~", 1000):
        if len(rows) >= most:
            break
        if not partition.startswith(TASKS):
            continue
        if (item := await state.read(partition, KEY)) is not None:
            rows.append((Key("task", str(item["name"]), str(item["task"])), breaker_in(item)))
    return rows
