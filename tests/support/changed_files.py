"""Changes to the files of an open SQLite store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw

from forebay.event import Record, to_record
from forebay.stores.sqlite import SQLiteStore


def record(number: int, size: int = 0) -> Record:
    return to_record("t", source="s", data=[number, "x" * size])


def shell(command: str, path: Path) -> None:
    """As an operator does it, in another process."""
    subprocess.run(["sh", "-ec", command], cwd=path.parent, check=True)


def sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """As another program does it, with its own copy of SQLite."""
    script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n"
    script += "for s in sys.argv[2:]: print(c.execute(s).fetchall())\n"
    done = subprocess.run([sys.executable, "-c", script, str(path), *statements], check=True, capture_output=True)
    return [tuple(line.split()) for line in done.stdout.decode().splitlines()]


def back_up(path: Path, to: Path) -> None:
    source, target = sqlite3.connect(path), sqlite3.connect(to)
    source.backup(target)
    target.execute("PRAGMA journal_mode = DELETE")
    target.close()
    source.close()


async def stored(path: Path) -> list[int]:
    async with SQLiteStore(path) as store:
        found = [entry.record for entry in await store.scan("t", limit=10_000)]
    assert "ok" == _integrity(path)
    return [int(one.data[1:].split(b",")[0]) for one in found if isinstance(one, Record)]


def _integrity(path: Path) -> str:
    connection = apsw.Connection(str(path))
    try:
        return str(connection.execute("PRAGMA integrity_check").get)
    finally:
        connection.close()


HARMLESS = {
    "the log is deleted": "rm events.db-wal",
    "the log is moved away": "mv events.db-wal elsewhere",
    "the index is deleted": "rm events.db-shm",
    "the index is moved away": "mv events.db-shm elsewhere",
    "both are deleted": "rm events.db-wal events.db-shm",
    "the index is emptied": ": > events.db-shm",
    "the index is cut short": "truncate -s 100 events.db-shm",
    "the index is overwritten with zeros": "truncate -s 0 events.db-shm; truncate -s 32768 events.db-shm",
    "the database is replaced by a copy of itself": "cp events.db copy; mv copy events.db",
    "the log is replaced by a copy of itself": "cp events.db-wal copy; mv copy events.db-wal",
    "the index is overwritten by an older one": "test -f old && cp old events.db-shm || cp events.db-shm old",
    "the index is replaced by a copy of itself": "cp events.db-shm copy; mv copy events.db-shm",
    "all three are replaced by copies": "for f in events.db*; do cp $f copy; mv copy $f; done",
    "the database is overwritten by a copy of itself": "cp events.db copy; cp copy events.db",
    "the log is overwritten by a copy of itself": "cp events.db-wal copy; cp copy events.db-wal",
    "the folder is moved away and back": "mv ../$(basename $PWD) ../gone; mv ../gone ../$(basename $PWD)",
    "the database is touched": "touch events.db",
}

LOSSES = {
    "an older backup is copied over it": "cp older events.db",
    "an older backup is put in its place": "mv older events.db",
    "an older backup is put in its place, without the log": "rm events.db-wal events.db-shm; mv older events.db",
    "an older backup is copied over it, without the log": "rm events.db-wal events.db-shm; cp older events.db",
    "another file of forebay is copied over it": "cp other events.db",
    "another file of forebay is put in its place": "mv other events.db",
    "a copy that went on elsewhere is copied over it": "cp fork events.db",
    "a copy that went on elsewhere is put in its place": "mv fork events.db",
    "a copy that went on elsewhere takes the place of all": "rm events.db-wal events.db-shm; mv fork events.db",
    "it is emptied": ": > events.db",
    "it is cut short": "truncate -s 20000 events.db",
    "its end is cut off": "truncate -s -40960 events.db",
    "its pages are overwritten": "dd if=/dev/zero of=events.db bs=4096 seek=6 count=10 conv=notrunc 2>/dev/null",
    "it is deleted": "rm events.db",
    "it is moved away": "mv events.db elsewhere",
    "all is deleted": "rm events.db events.db-wal events.db-shm",
    "the log is emptied": ": > events.db-wal",
    "the log is cut short": "truncate -s 200000 events.db-wal",
    "an older log is copied over it": "cp first-log events.db-wal",
    "an older log is put in its place": "mv first-log events.db-wal",
    "the folder is moved away": "mv ../$(basename $PWD) ../$(basename $PWD)-gone",
    "text is written over it": "echo hello > events.db",
}
