"""A file in the single-table format."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path

TABLE = """
    CREATE TABLE IF NOT EXISTS events (
        id INTEGER PRIMARY KEY,
        type TEXT,
        source TEXT,
        data TEXT,
        timestamp TEXT,
        processed BOOLEAN DEFAULT FALSE,
        retry_count INTEGER DEFAULT 0
    )
"""

WHEN = datetime(2026, 1, 31, 12, 0, 0, 123456)  # noqa: DTZ001  # the format has no time zone

ROWS = [("order_placed", True, 0), ("order_placed", False, 2), ("order_paid", False, 0),
        ("order_placed", True, 1), ("order_placed", False, 0), ("order_placed", False, 0)]  # fmt: skip


def write(path: Path, rows: Iterable[tuple[str | None, bool, int]] = ROWS) -> None:
    """A file in the single-table format."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(TABLE)
        for number, (type, processed, retry_count) in enumerate(rows, 1):
            db.execute(
                "INSERT INTO events (type, source, data, timestamp, processed, retry_count) VALUES (?, ?, ?, ?, ?, ?)",
                (type, "agent", json.dumps({"n": number}), WHEN.isoformat(), processed, retry_count),
            )
