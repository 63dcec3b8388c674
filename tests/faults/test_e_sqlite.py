"""Rows E of docs/faults.md: one SQLite file, several processes."""

# The files are what these tests are about, and they wait for nothing else meanwhile.

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import pytest

from forebay import ConfigurationError, Event, EventBus, Reject, Retry, StoreFull
from forebay.errors import StoreError
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore, filesystem
from forebay.stores.sqlite.schema import VERSION
from forebay.testing import eventually
from tests.support.disk import watched_disk
from tests.support.processes import History, Process, publish

READER = Reader("t", "g", "consumer")
LOOK_AND_CLOSE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM entries").fetchall()
connection.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def record(number: int) -> Record:
    return to_record("t", source="s", data=number)


async def test_e5_every_write_begins_with_the_lock_that_it_needs(path: Path) -> None:
    statements: list[str] = []

    def watch(connection: apsw.Connection) -> None:
        def trace(cursor: object, sql: str, bindings: object) -> bool:
            statements.append(sql)
            return True

        connection.set_exec_trace(trace)

    apsw.connection_hooks.append(watch)
    try:
        async with SQLiteStore(path) as store:
            await store.join("t", "g")
            await store.append("t", [record(1), record(2), record(3)])
            await store.append("t", [record(4)], dedup_window=60)
            await store.schedule("t", [record(5)], delay=0)
            one, two, three = await store.read(READER, limit=3)
            await store.extend([one])
            await store.ack([one], remember=60)
            await store.retry(two, delay=0)
            await store.dead_letter(three, reason="r")
            await store.append_due("t")
            await store.release(await store.take_due(READER, limit=1))
            await store.redrive("t", [letter.id for letter in await store.dead_letters("t")])
            await store.seek("t", "g", "0")
            await store.set_note("t", "n", b"1")
            await store.trim("t", max_length=0, force=True)
            await store.leave("t", "g")
    finally:
        apsw.connection_hooks.remove(watch)

    writes = ("INSERT", "UPDATE", "DELETE")
    assert {"BEGIN IMMEDIATE", "BEGIN"} == {sql for sql in statements if sql.startswith("BEGIN")}
    within = ""
    for sql in statements:
        match sql.split()[0]:
            case "BEGIN":
                within = sql
            case "COMMIT" | "ROLLBACK":
                within = ""
            case word if word in writes:
                assert "BEGIN IMMEDIATE" == within, sql


async def test_e6_readers_that_wait_and_looks_that_are_over_hold_up_no_checkpoint(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.join("t", "g")
        reading = asyncio.create_task(store.read(READER, limit=1, wait=60))
        other = apsw.Connection(str(path))
        for number in range(3):
            async with SQLiteStore(path) as publisher:
                await publisher.append("u", [record(number)] * 500)
            await store.stats()
            await store.scan("u", limit=10)
            checkpoint = lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # noqa: E731  # one line says it
            await eventually(lambda checkpoint=checkpoint: checkpoint() == [(0, 0, 0)])
            assert 0 == path.with_name("events.db-wal").stat().st_size
        other.close()
        await store.append("t", [record(0)])
        assert 1 == len(await reading)


async def test_e7_while_the_disk_is_full_nothing_is_lost_and_acks_come_when_there_is_room(path: Path) -> None:
    done: Counter[int] = Counter()
    with watched_disk() as disk:
        await _work_on_a_full_disk(path, disk, done)

    assert Counter(range(1, 20)) == done
    async with EventBus(SQLiteStore(path)) as bus:
        [stream] = await bus.stats("t")
        assert (20, 1, 0, 0) == (stream.length, stream.dead, stream.groups[0].pending, stream.groups[0].lag)


async def _work_on_a_full_disk(path: Path, disk: Any, done: Counter[int]) -> None:
    async with EventBus(SQLiteStore(path)) as bus:

        @bus.on("t", group="g", retry=Retry(attempts=1), concurrency=20)
        async def handle(event: Event) -> None:
            disk.full = True
            if event.data == 0:
                raise Reject("never")
            done[event.data] += 1

        await bus.publish_many("t", source="s", data=range(20))
        run = asyncio.create_task(bus.run(until_idle=True))
        await eventually(lambda: len(done) == 19)
        with pytest.raises(StoreFull):
            await bus.publish("t", source="s", data=20)
        assert 20 == (await bus.stats("t"))[0].groups[0].pending
        disk.full = False
        await asyncio.wait_for(run, 30)


async def test_e10_a_lock_dropped_by_a_plain_read_of_the_file_loses_nothing(path: Path) -> None:
    stored: list[str] = []
    async with SQLiteStore(path) as store:
        stored += [await _append(store, number) for number in range(50)]
        # As a backup by copying: closing the file drops this process's locks on it.
        path.read_bytes()
        shutil.copy(path, path.with_suffix(".copy"))
        # The other process may take itself for the last one, and remove the log under our feet.
        await (await asyncio.create_subprocess_exec(sys.executable, "-c", LOOK_AND_CLOSE, str(path))).wait()
        stored += [await _append(store, number) for number in range(50, 100)]

    async with SQLiteStore(path) as store:
        found = {entry.position for entry in await store.scan("t", limit=1000)}
    assert set(stored) == found


async def _append(store: SQLiteStore, number: int) -> str:
    [position] = await store.append("t", [record(number)])
    return position


async def test_e14_a_truncated_file_is_refused_or_serves_its_intact_events(path: Path, tmp_path: Path) -> None:
    events = [record(number) for number in range(200)]
    async with SQLiteStore(path) as store:
        await store.append("t", events)
    whole = path.read_bytes()
    chance = random.Random(14)

    outcomes: Counter[str] = Counter()
    for size in [0, 1, 99, *(chance.randrange(100, len(whole)) for _ in range(37))]:
        cut = tmp_path / f"{size}.db"
        cut.write_bytes(whole[:size])
        outcomes[await _serve(cut, events)] += 1

    assert {"refused", "empty"} == set(outcomes)
    assert 38 <= outcomes["refused"]


@pytest.mark.parametrize("flips", [100, pytest.param(300, marks=pytest.mark.slow)])
async def test_e14_a_bit_that_flips_changes_no_event_unnoticed(path: Path, tmp_path: Path, flips: int) -> None:
    events = [to_record("t", source="s", data={"number": number}, key=f"key-{number}") for number in range(200)]
    async with SQLiteStore(path) as store:
        await store.append("t", events)
    whole = path.read_bytes()
    chance = random.Random(41)
    # Half of them where the events are, since there is more room than events.
    places = [
        *range(0, len(whole), len(whole) // 200),
        *(m.start() for m in re.finditer(rb"number|key-|\d{4}-", whole)),
    ]

    outcomes: Counter[str] = Counter()
    for place in chance.sample(places, flips):
        flipped = tmp_path / f"flipped-{place}.db"
        flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        outcomes[await _serve(flipped, events)] += 1

    assert {"served", "told", "refused"} >= set(outcomes), outcomes
    assert outcomes["told"] >= flips // 6


async def test_e14_a_bit_that_flips_in_the_log_changes_no_event_unnoticed(path: Path, tmp_path: Path) -> None:
    events = [record(number) for number in range(100)]
    async with SQLiteStore(path) as store:
        for event in events:
            await store.append("t", [event])
        database, wal = path.read_bytes(), path.with_name("events.db-wal").read_bytes()
        # That read dropped the locks of this process, which no other process asks for here.
    chance = random.Random(15)
    for number in range(60):
        place = chance.randrange(len(wal))
        flipped = tmp_path / f"{number}.db"
        flipped.write_bytes(database)
        flipped.with_name(f"{flipped.name}-wal").write_bytes(
            wal[:place] + bytes([wal[place] ^ 1 << chance.randrange(8)]) + wal[place + 1 :]
        )
        assert await _serve(flipped, events) in ("served", "empty", "refused")


async def test_e14_a_damaged_event_is_a_dead_letter_and_the_others_are_handled(sqlite_url: str) -> None:
    handled: list[int] = []
    async with EventBus(sqlite_url) as bus:
        await bus.publish_many("t", source="s", data=range(10, 15))
        connection = apsw.Connection(sqlite_url.removeprefix("sqlite:///"))
        connection.execute("UPDATE entries SET data = '99' WHERE data = '12'")
        connection.close()

        @bus.on("t", group="g")
        async def handle(event: Event) -> None:
            handled.append(event.data)

        await bus.run(until_idle=True)
        [letter] = await bus.dead_letters("t")

    assert [10, 11, 13, 14] == sorted(handled)
    assert "damaged" in letter.error
    assert (b"data", b"99") in letter.record.fields  # type: ignore[union-attr]  # events, as the test knows


async def _serve(path: Path, events: list[Record]) -> str:
    """Use a damaged file: it must serve the published events, or be reported as damaged."""
    try:
        async with SQLiteStore(path) as store:
            found = [entry.record for entry in await store.scan("t", limit=1000)]
    except (StoreError, ConfigurationError) as error:
        return "refused" if str(path) in str(error) else str(error)
    intact = [one for one in found if isinstance(one, Record)]
    assert all(one in events for one in intact)
    return "told" if len(intact) < len(found) else "served" if found else "empty"


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/mnt/share/events.db", "nfs4"),
        ("/mnt/share/deeper/events.db", "ext4"),
        ("/home/me/two words/events.db", "fuse.sshfs"),
        ("/home/me/events.db", "9p"),
        ("/var/events.db", "overlay"),
        ("/windows/events.db", "cifs"),
    ],
)
async def test_e16_network_and_fuse_file_systems_are_known(
    place: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "20 1 0:1 / / rw - overlay overlay rw\n"
        "21 20 0:2 / /mnt/share rw shared:1 - nfs4 server:/share rw\n"
        "22 21 0:3 / /mnt/share/deeper rw - ext4 /dev/sda1 rw\n"
        "23 20 0:4 / /home/me rw - 9p me rw\n"
        "24 23 0:5 / /home/me/two\\040words rw - fuse.sshfs me@there: rw\n"
        "25 20 0:6 / /windows rw - cifs //there/share rw\n"
    )
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    assert (None if kind in ("ext4", "overlay") else kind) == filesystem.network_filesystem(Path(place))


async def test_e16_a_file_on_a_network_is_refused_unless_the_url_allows_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = path.with_name("mountinfo")
    table.write_text(f"20 1 0:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:2 / {path.parent} rw - nfs server:/share rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    with pytest.raises(ConfigurationError, match=r"type nfs.*use a local disk.*any_file_system=true"):
        async with EventBus(f"sqlite:///{path}"):
            pass
    assert not path.exists()
    async with EventBus(f"sqlite:///{path}?any_file_system=true") as bus:
        await bus.publish("t", source="s")


async def test_e18_a_file_that_another_process_creates_at_the_same_moment_is_accepted(
    path: Path,
) -> None:
    watching = True

    def trace(cursor: object, sql: str, bindings: object) -> bool:
        nonlocal watching
        if watching and "sqlite_schema" in sql:
            watching = False
            other = apsw.Connection(str(path))
            with contextlib.suppress(apsw.BusyError):
                for version in range(1, VERSION + 1):
                    other.execute(files("forebay.stores.sqlite").joinpath(f"schema-{version}.sql").read_text("utf-8"))
            other.close()
        return True

    def watch(connection: apsw.Connection) -> None:
        connection.set_exec_trace(trace)

    apsw.connection_hooks.append(watch)
    try:
        async with SQLiteStore(path) as store:
            assert ["1"] == await store.append("t", [record(1)])
    finally:
        apsw.connection_hooks.remove(watch)
    assert not watching


async def test_e18_several_processes_bring_an_old_file_up_to_date_at_the_same_time(path: Path, tmp_path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute(files("forebay.stores.sqlite").joinpath("schema-1.sql").read_text("utf-8"))
    connection.execute("INSERT INTO streams (namespace, name) VALUES ('events', 't')")
    fields = "stream_id, type, source, data, timestamp, id"
    connection.execute(f"INSERT INTO entries ({fields}) VALUES (1, 't', 's', '0', '2026-01-01T00:00:00Z', 'old')")
    connection.close()
    history = History(tmp_path / "history")

    processes = [Process(publish, f"sqlite:///{path}", "events", history.path, count=20) for _ in range(6)]
    assert [0] * 6 == [await asyncio.to_thread(process.join, 60) for process in processes]

    async with EventBus(f"sqlite:///{path}") as bus:
        found = [event.id async for event in bus.events("t") if isinstance(event, Event)]
    assert [] == history.ids("error")
    assert "old" == found[0]
    assert Counter(history.ids("acked")) == Counter(found[1:])
