"""Bare commits of SQLite in the gateway's modes: `python bench/commits.py FOLDER COUNT` prints microseconds as JSON."""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import time
from pathlib import Path

MODES = {"power": "FULL", "process": "NORMAL"}
found = {}
for durability, synchronous in MODES.items():
    connection = sqlite3.connect(Path(sys.argv[1]) / f"bare-{durability}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    took = []
    connection.execute("PRAGMA synchronous = OFF")
    warm = (
        1500  # past a checkpoint: then the log is written over, as a gateway's that has run for a while, not extended
    )
    for number in range(warm + int(sys.argv[2])):
        if number == warm:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
        began = time.perf_counter_ns()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO item VALUES (?, ?)", (f"{number % 50}", b"x" * 1024))
        connection.execute("COMMIT")
        took.append((time.perf_counter_ns() - began) / 1000)
    found[durability] = statistics.median(took[warm:])
    connection.close()
print(json.dumps(found))
