"""Row E10 of docs/faults.md: the files are changed after SQLite has copied a part of the log into the database.

A copy that a reader holds up leaves out every page that was changed since. Until the next one, the database by
itself is then no state that ever was: it is whole with its log only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay import StoreDamaged
from forebay.stores.sqlite import SQLiteStore
from tests.support.changed_files import HARMLESS, LOSSES, back_up, record, shell, sql, stored

READ = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM entries").fetchall()
print("reads", flush=True)
sys.stdin.read()
"""
DEEDS = {
    "nothing": "true",
    **{
        name: deed
        for name, deed in HARMLESS.items()
        # A database without its log looks like a damaged one when it is another file.
        if "replaced by a copy of itself" not in name and "replaced by copies" not in name
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "events.db"


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """Another process that reads one state of the file meanwhile."""
    command = [sys.executable, "-c", READ, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "reads\n" == process.stdout.readline()
        yield
        process.communicate()


async def half_copy(store: SQLiteStore, path: Path) -> None:
    """Leave the database so that it cannot be read by itself; 61 events are in it and its log."""
    for number in range(60):
        await store.append("t", [record(number, 1000)])
    with reader(path):
        await store.append("t", [record(60)])
        sql(path, "PRAGMA wal_checkpoint(PASSIVE)")
    assert store._connections().writer._guard._read_stored() is None


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
async def test_a_harmless_change_is_healed_and_loses_nothing(path: Path, deed: str) -> None:
    async with SQLiteStore(path, synchronous="normal") as store, store.clone() as clone:
        await half_copy(store, path)

        shell(deed, path)

        for number in range(61, 70):
            await (clone if number % 2 else store).append("t", [record(number)])
            assert number + 1 == (await store.stats())[0].length

    assert list(range(70)) == await stored(path)


# Its end stands in the log here, so that nothing is lost with it.
@pytest.mark.parametrize("deed", [deed for name, deed in LOSSES.items() if name != "its end is cut off"])
async def test_nothing_is_acknowledged_after_a_change_that_loses_something(path: Path, deed: str) -> None:
    async with SQLiteStore(path.with_name("other")) as other:
        await other.append("t", [record(0)])
    async with SQLiteStore(path, synchronous="normal") as store:
        for number in range(60):
            await store.append("t", [record(number, 1000)])
        shell("cp events.db-wal first-log", path)
        back_up(path, path.with_name("older"))
        back_up(path, path.with_name("fork"))
        async with SQLiteStore(path.with_name("fork")) as fork:
            await fork.append("t", [record(-1)])
        for number in range(200):
            await store.append("t", [record(number, 1000)])
        sql(path, "PRAGMA wal_checkpoint(RESTART)")
        await half_copy(store, path)
        await store.stats()

        shell(deed, path)

        for _ in range(2):
            with pytest.raises(StoreDamaged):
                await store.append("t", [record(1000)])
            with pytest.raises(StoreDamaged):
                await store.stats()
