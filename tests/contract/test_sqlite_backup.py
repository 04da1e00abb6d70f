"""The copy that docs/operations.md tells to make of a SQLite store."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from buspass.ports.state import Put
from buspass_onprem import sqlite


async def test_a_copy_that_was_made_while_it_runs_is_a_store(tmp_path: Path) -> None:
    live = await sqlite.open(f"sqlite:///{tmp_path}/state.db")
    for number in range(50):
        await live.apply("before", [Put(f"k{number:02}", {"n": number}, index={"due": ("due:0", f"{number:016d}")})])
    writing = asyncio.create_task(_write(live))
    await asyncio.to_thread(_copy, tmp_path / "state.db", tmp_path / "copy.db")
    await writing
    await live.close()
    copy = await sqlite.open(f"sqlite:///{tmp_path}/copy.db")
    assert [item["n"] for _, item in await copy.list("before", "", "", 100)] == list(range(50))
    assert len(await copy.find("due", "due:0", "9" * 16, 100)) == 50
    await copy.apply("after", [Put("k", {"n": 1})])
    assert await copy.read("after", "k") == {"n": 1}
    await copy.close()


async def _write(store: sqlite.SQLiteState) -> None:
    for number in range(50):
        await store.apply("meanwhile", [Put(f"k{number:02}", {"n": number})])


def _copy(source: Path, target: Path) -> None:
    """Do what `sqlite3 SOURCE ".backup TARGET"` does, a page at a time, so that writes come between."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other, pages=1, sleep=0)
