"""Rows E10 and E11 of docs/faults.md: the files of an open store are changed by something other than SQLite.

A whole file is opened anew, and the store goes on; any other is refused before the next acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from forebay import Event, EventBus, StoreDamaged
from forebay.errors import OutcomeUnknown
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.guard import WRITERS_KEPT, contains
from forebay.testing import eventually
from tests.support.changed_files import HARMLESS, LOSSES, _integrity, back_up, record, shell, sql, stored

READER = Reader("t", "g", "consumer")
PUBLISHER = """
import asyncio, sys
from forebay.event import to_record
from forebay.stores.sqlite import SQLiteStore
async def main():
    async with SQLiteStore(sys.argv[1]) as store:
        print("ready", flush=True)
        for line in sys.stdin:
            for number in range(int(line)):
                await store.append("t", [to_record("t", source=sys.argv[2], data=number)])
            print("done", flush=True)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.mark.parametrize("size", [0, 30_000], ids=["small", "large"])
@pytest.mark.parametrize("deed", HARMLESS.values(), ids=HARMLESS.keys())
async def test_a_harmless_change_is_healed_and_loses_nothing(path: Path, deed: str, size: int) -> None:
    async with SQLiteStore(path, synchronous="normal") as store, store.clone() as clone:
        for number in range(200):
            await store.append("t", [record(number, size)])
        await clone.append("t", [record(200)])
        assert 201 == (await store.stats())[0].length

        shell(deed, path)

        for number in range(201, 210):
            await (clone if number % 2 else store).append("t", [record(number, size)])
            assert number + 1 == (await store.stats())[0].length
        shell(deed, path)
    assert list(range(210)) == await stored(path)


@pytest.mark.parametrize("deed", HARMLESS.values(), ids=HARMLESS.keys())
async def test_a_reader_that_waits_is_woken_after_the_files_were_changed(path: Path, deed: str) -> None:
    async with SQLiteStore(path) as store:
        await store.join("t", "g")
        reading = asyncio.create_task(store.read(READER, limit=1, wait=60))
        await asyncio.to_thread(sql, path, "SELECT 1")

        shell(deed, path)
        async with EventBus(f"sqlite:///{path}") as bus:
            await bus.publish("t", source="s")

        assert 1 == len(await asyncio.wait_for(reading, 20))


@pytest.mark.parametrize("deed", LOSSES.values(), ids=LOSSES.keys())
async def test_nothing_is_acknowledged_after_a_change_that_loses_something(path: Path, deed: str) -> None:
    async with SQLiteStore(path.with_name("other")) as other:
        await other.append("t", [record(number) for number in range(300)])
    path = path.with_name("data") / path.name
    path.parent.mkdir()
    shutil.move(path.parent.with_name("other"), path.with_name("other"))
    async with SQLiteStore(path, synchronous="normal") as store:
        for number in range(100):
            await store.append("t", [record(number, 1000)])
        shell("cp events.db-wal first-log", path)
        back_up(path, path.with_name("older"))
        shutil.copy(path.with_name("older"), path.with_name("fork"))
        async with SQLiteStore(path.with_name("fork")) as fork:
            for begin in range(0, 700, 50):
                await fork.append("t", [record(-number) for number in range(begin, begin + 50)])
        # The first part is copied into the database, the last one stands in the log.
        for number in range(100, 600):
            await store.append("t", [record(number, 1000)])
            if number == 500:
                await asyncio.to_thread(sql, path, "PRAGMA wal_checkpoint(RESTART)")

        shell(deed, path)

        for _ in range(5):
            with pytest.raises(StoreDamaged, match=r"Put back .*or.* stop all .* delete the -wal and -shm .*open"):
                await store.append("t", [record(1000)])
            with pytest.raises(StoreDamaged):
                await store.stats()


async def test_a_database_that_is_put_back_goes_on(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.append("t", [record(0)])
        for away in ("mv events.db x", "cp events.db x; : > events.db"):
            shell(away, path)
            with pytest.raises(StoreDamaged):
                await store.append("t", [record(9)])
            shell("mv x events.db", path)
            await store.append("t", [record(1)])

    assert [0, 1, 1] == await stored(path)


async def test_a_backup_that_replaces_a_closed_file_is_accepted(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.append("t", [record(0)])
    shell("cp events.db backup", path)
    async with SQLiteStore(path) as store:
        await store.append("t", [record(1)])
    shell("cp backup events.db", path)

    async with SQLiteStore(path) as store:
        await store.append("t", [record(2)])

    assert [0, 2] == await stored(path)


async def test_allowed_changes_by_way_of_sqlite_are_not_damage(path: Path) -> None:
    async with SQLiteStore(path, synchronous="normal") as store:
        guard = store._connections().writer._guard
        await store.join("t", "g")
        number = 0
        for deed in (
            lambda: sql(path, "VACUUM"),
            lambda: sql(path, "PRAGMA wal_checkpoint(TRUNCATE)"),
            lambda: sql(path, "PRAGMA wal_checkpoint(RESTART)"),
            lambda: sql(path, "ANALYZE", "CREATE INDEX entries_by_id ON entries (id)", "REINDEX"),
            lambda: sql(path, "DELETE FROM entries WHERE seq % 3 = 1", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"),
            lambda: sql(path, "PRAGMA journal_size_limit = 0", "PRAGMA wal_checkpoint(RESTART)"),
            lambda: sql(path, "VACUUM INTO '" + str(path) + ".copy'"),
            lambda: shell("cp events.db events.db-wal /dev/null 2>/dev/null || cat events.db* > /dev/null", path),
            lambda: shell("chmod 644 events.db", path),
            lambda: sql(
                path,
                *["INSERT INTO entries (stream_id, type, data) VALUES (1, 't', hex(randomblob(30000)))"] * 100,
            ),
        ):
            for _ in range(60):
                number += 1
                await store.append("t", [record(number, 2000)])
            await asyncio.to_thread(deed)
            await store.stats()
        await store.append("t", [record(number)])

        assert 0 == guard.generation
    assert "ok" == _integrity(path)


async def test_the_standard_librarys_sqlite_beside_it_loses_nothing(path: Path) -> None:
    acknowledged = []
    async with SQLiteStore(path, synchronous="normal") as store, store.clone() as clone:
        for number in range(300):
            await store.append("t", [record(number)])
            acknowledged.append(number)
            if number % 10 == 0:
                connection = sqlite3.connect(path)
                connection.execute("SELECT count(*) FROM entries").fetchall()
                connection.close()
            if number % 30 == 0:
                await clone.set_note("t", "n", b"1")

    assert acknowledged == await stored(path)


DEEDS = [
    "rm events.db-shm",
    "rm events.db-wal",
    "rm events.db-wal events.db-shm",
    "mv events.db-shm x",
    ": > events.db-shm",
]


@pytest.mark.parametrize("deed", DEEDS)
def test_of_several_processes_each_notices_and_none_loses(path: Path, deed: str) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PUBLISHER, str(path), name]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # Whatever fails here: it ends with the test, at the end of its input.
        process = stack.enter_context(started)
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        return process

    with contextlib.ExitStack() as stack:
        processes = [start("a"), start("b")]
        for turn in range(4):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("30\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                assert "done\n" == process.stdout.readline()
            if turn == 1:
                processes.append(start("c"))
            shell(deed, path)
        for process in processes:
            process.communicate()
            assert 0 == process.returncode

    connection = apsw.Connection(str(path))
    found = connection.execute("SELECT source, count(*) FROM entries GROUP BY 1 ORDER BY 1").fetchall()
    connection.close()
    assert [("a", 120), ("b", 120), ("c", 60)] == found
    assert "ok" == _integrity(path)


async def test_a_change_between_a_commit_and_its_acknowledgement_is_resolved(path: Path) -> None:
    deeds: list[Callable[[], None]] = [
        lambda: shell("rm events.db-shm", path),
        lambda: shell("rm events.db-wal", path),
        lambda: shell("mv events.db x", path),
    ]
    results: list[str] = []
    async with SQLiteStore(path) as store:
        await store.append("t", [record(0)])
        connection = store._connections().writer._line.connection
        assert connection is not None
        for number, deed in enumerate(deeds, 1):
            connection = store._connections().writer._line.connection
            assert connection is not None
            pending = [deed]

            def commit(_: apsw.Connection, __: str, pages: int, pending: list[Callable[[], None]] = pending) -> int:
                if pending:
                    pending.pop()()
                return 0

            connection.set_wal_hook(commit)
            try:
                await store.append("t", [record(number)])
                results.append("stored")
            except OutcomeUnknown as error:
                results.append(f"unknown since {error.search_after}")
        shell("mv x events.db", path)

    assert ["stored", "stored", "unknown since 3"] == results
    assert [0, 1, 2, 3] == await stored(path)


async def test_the_next_handler_runs_after_the_log_was_deleted_under_a_running_bus(path: Path) -> None:
    handled: list[int] = []
    async with EventBus(f"sqlite:///{path}") as bus:

        @bus.on("t", group="g")
        async def handle(event: Event) -> None:
            handled.append(event.data)

        running = asyncio.create_task(bus.run())
        for number, deed in enumerate(["rm events.db-wal", "rm events.db-shm", "rm events.db-wal events.db-shm"]):
            await bus.publish("t", source="s", data=number)
            await eventually(lambda number=number: number in handled)
            shell(deed, path)
        await bus.publish("t", source="s", data=3)
        await eventually(lambda: 3 in handled)
        bus.stop()
        await running

    assert [0, 1, 2, 3] == sorted(set(handled))


def test_a_state_contains_another_one_or_it_does_not() -> None:
    many = {id: id + 100 for id in range(WRITERS_KEPT)}

    assert contains({1: 5, 2: 7}, {1: 5, 2: 6})
    assert contains({1: 5}, {})
    assert not contains({1: 5}, {1: 6})
    assert not contains({1: 5}, {2: 1})
    assert contains(many, {99: 99})
    assert not contains(many, {99: 100})


async def test_closing_closes_every_file_of_a_store_whose_files_were_changed(path: Path) -> None:
    def opened() -> list[str]:
        links = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(link.readlink()))
        return [link for link in links if str(path) in link]

    async with SQLiteStore(path) as store:
        for _ in range(5):
            await store.append("t", [record(1)])
            await store.stats()
            shell("rm events.db-shm", path)
        few = len(opened())
    assert few < 15
    assert [] == opened()
