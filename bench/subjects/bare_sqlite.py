"""Yardsticks on SQLite: transactions through bare apsw, with synchronous=FULL."""

from __future__ import annotations

import time

import apsw
from bench.samples import sampled
from bench.subject import FIELDS, Options, main

VALUES = FIELDS[1::2]
CLAIMED_AT_ONCE = 500

_INSERT = "INSERT INTO entries (type, source, data, timestamp) VALUES (?, ?, ?, ?)"


def _open(url: str) -> apsw.Connection:
    database = apsw.Connection(url.removeprefix("sqlite:///"))
    database.pragma("journal_mode", "wal")
    database.pragma("synchronous", "full")
    database.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, type, source, data, timestamp)")
    database.execute("CREATE TABLE pending (seq INTEGER PRIMARY KEY, consumer, attempt, leased_at)")
    return database


def _insert(database: apsw.Connection, events: int, at_once: int) -> None:
    for _ in range(events // at_once):
        database.execute("BEGIN IMMEDIATE")
        database.executemany(_INSERT, [VALUES] * at_once)
        database.execute("COMMIT")


def publish(options: Options) -> float:
    """Rows a second, in transactions of `tasks`."""
    database = _open(options.url)
    started = time.perf_counter()
    with sampled():
        _insert(database, options.events, options.tasks)
    return options.events / (time.perf_counter() - started)


def handle(options: Options) -> float:
    """Rows a second, claimed 500 at a time in one transaction and acked in a second one."""
    database = _open(options.url)
    _insert(database, options.events, 1000)
    cursor = 0
    started = time.perf_counter()
    with sampled():
        while True:
            database.execute("BEGIN IMMEDIATE")
            rows = database.execute(
                "SELECT seq, type, source, data, timestamp FROM entries WHERE seq > ? ORDER BY seq LIMIT ?",
                (cursor, CLAIMED_AT_ONCE),
            ).fetchall()
            if not rows:
                database.execute("ROLLBACK")
                break
            first, cursor = int(rows[0][0]), int(rows[-1][0])  # type: ignore[arg-type]  # the key is a number
            database.execute(
                "INSERT INTO pending SELECT seq, 'consumer', 1, ? FROM entries WHERE seq BETWEEN ? AND ?",
                (time.time(), first, cursor),
            )
            database.execute("COMMIT")
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM pending WHERE seq BETWEEN ? AND ?", (first, cursor))
            database.execute("COMMIT")
    elapsed = time.perf_counter() - started
    assert cursor == options.events
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
