"""Rules of the SQLite store alone: its file, the processes that share it, and group commit."""

# The file is what these tests are about, and they wait for nothing else meanwhile.
# ruff: noqa: ASYNC222

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import pytest

from forebay.errors import (
    ConfigurationError,
    NotFound,
    OutcomeUnknown,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from forebay.event import Foreign, Record, to_event, to_record
from forebay.store import END, START, Reader
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.rows import _step, select
from forebay.stores.sqlite.schema import VERSION
from forebay.testing import eventually
from tests.support import sqlite_roles
from tests.support.clocks import SetClock
from tests.support.failing_sync import FailingSync
from tests.support.processes import Process

READER = Reader("order_placed", "billing", "worker-1")
OTHER = Reader("order_placed", "billing", "worker-2")


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(path) as store:
        await store.join("order_placed", "billing")
        yield store


def order(number: int = 1, **options: Any) -> Record:
    return to_record("order_placed", source="shop", data={"order_id": number}, **options)


def sql(path: Path, statement: str, *bindings: Any) -> list[Any]:
    """Run a statement as another program would."""
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(5000)
        return connection.execute(statement, bindings).fetchall()
    finally:
        connection.close()


# The file.


async def test_the_events_can_be_read_with_plain_sql(store: SQLiteStore, path: Path) -> None:
    await store.append("order_placed", [order(7, id="order-7", key="customer-1", headers={"trace": "a"})])

    rows = sql(
        path,
        "SELECT s.name, e.type, e.source, e.data ->> 'order_id', typeof(e.data), e.id, e.key, e.headers"
        " FROM entries e JOIN streams s ON s.id = e.stream_id",
    )

    assert [("order_placed", "order_placed", "shop", 7, "text", "order-7", "customer-1", '{"trace":"a"}')] == rows


async def test_a_row_that_another_program_inserts_is_an_event_like_any(store: SQLiteStore, path: Path) -> None:
    sql(
        path,
        "INSERT INTO entries (stream_id, type, source, data, timestamp)"
        " SELECT id, 'order_placed', 'shell', '{\"order_id\": 1}', '2026-01-02T03:04:05Z' FROM streams",
    )

    [delivery] = await store.read(READER, limit=10)

    assert delivery.record is not None
    event = to_event(delivery.record, position=delivery.position)
    assert ({"order_id": 1}, "shell", delivery.position) == (event.data, event.source, event.id)


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("NULL, NULL, NULL, NULL", ()),
        ("'t', 's', 'x', NULL", ((b"type", b"t"), (b"source", b"s"), (b"data", b"x"))),
        (
            "'t', CAST(x'ff00fe' AS TEXT), x'0102', 'now'",
            ((b"type", b"t"), (b"source", b"\xff\x00\xfe"), (b"data", b"\x01\x02"), (b"timestamp", b"now")),
        ),
    ],
    ids=["empty", "incomplete", "not UTF-8"],
)
async def test_a_foreign_row_comes_back_byte_for_byte_even_from_the_dead_letters(
    store: SQLiteStore, path: Path, row: str, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    await store.append("order_placed", [order(1)])
    sql(path, f"INSERT INTO entries (stream_id, type, source, data, timestamp) SELECT id, {row} FROM streams")

    good, foreign = await store.read(READER, limit=10)
    await store.dead_letter(foreign, reason="cannot be read")
    [letter] = await store.dead_letters("order_placed")
    await store.redrive("order_placed", [letter.id])
    [again] = await store.read(READER, limit=10)

    assert isinstance(good.record, Record)
    assert [Foreign(fields), Foreign(fields)] == [foreign.record, letter.record]
    assert Foreign(fields, only_group=READER.group) == again.record


async def test_data_that_is_not_text_stays_the_data_of_a_record(store: SQLiteStore, path: Path) -> None:
    sql(
        path,
        "INSERT INTO entries (stream_id, type, source, data, timestamp)"
        " SELECT id, 't', 's', x'7b7dff', '2026-01-02T03:04:05Z' FROM streams",
    )

    [entry] = await store.scan("order_placed")
    [position] = await store.append("order_placed", [entry.record] if isinstance(entry.record, Record) else [])
    [copy] = await store.scan("order_placed", after=entry.position)

    assert Record("t", "s", b"{}\xff", "2026-01-02T03:04:05Z") == entry.record == copy.record
    assert position == copy.position


async def test_text_with_quotes_controls_and_every_plane_comes_back_as_it_went(store: SQLiteStore) -> None:
    text = "\0\x1f\"'\\\n\u2028é€𝄞"
    record = to_record("order_placed", source="shop", data={"text": text}, headers={"h": text})

    await store.append("order_placed", [record])
    [entry] = await store.scan("order_placed")

    assert record == entry.record


async def test_a_number_in_the_place_of_a_text_is_damage_and_stays_with_its_row(store: SQLiteStore, path: Path) -> None:
    await store.append("order_placed", [order(1), order(2)])
    connection = apsw.Connection(str(path))
    source = "FROM (SELECT seq, type, source, iif(seq = 1, 5, data) AS data, timestamp, id, key, headers, only_group,"
    source += " NULL AS checksum FROM entries) e ORDER BY e.seq"

    (_, damaged), (_, whole) = select(connection, ["e.seq"], source, ())
    connection.close()

    assert isinstance(damaged, Foreign)
    assert b"damaged" == damaged.fields[0][0]
    assert isinstance(whole, Record)
    assert b'{"order_id":2}' == whole.data


async def test_a_new_file_and_those_beside_it_are_for_their_owner_only(store: SQLiteStore, path: Path) -> None:
    await store.append("order_placed", [order()])

    files = sorted(path.parent.iterdir())

    assert ["events.db", "events.db-shm", "events.db-wal"] == [file.name for file in files]
    assert [0o600] * 3 == [stat.S_IMODE(file.stat().st_mode) for file in files]


async def test_the_last_one_to_close_leaves_one_whole_file(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.append("order_placed", [order(number) for number in range(100)])

    assert [path] == list(path.parent.iterdir())
    assert [("ok",)] == sql(path, "PRAGMA integrity_check")


async def test_a_home_directory_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    async with SQLiteStore("~/events.db"):
        assert (tmp_path / "events.db").exists()


@pytest.mark.parametrize("name", ["", ":memory:", "file:events.db?mode=memory", "nul\0"])
def test_a_url_without_a_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="names no file"):
        SQLiteStore(name)


async def test_a_missing_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist: create it"):
        async with SQLiteStore(tmp_path / "missing" / "events.db"):
            pass

    assert [] == list(tmp_path.iterdir())


async def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for name, words in ((".", "is a folder: name a file in it"), ("pipe", "is not a regular file")):
        with pytest.raises(ConfigurationError, match=words):
            async with SQLiteStore(tmp_path / name):
                pass


async def test_a_file_that_is_not_a_database_is_left_alone(path: Path) -> None:
    text = "my notes\n" * 1000
    path.write_text(text)

    with pytest.raises(StoreDamaged, match="not an SQLite database"):
        async with SQLiteStore(path):
            pass

    assert text == path.read_text()


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    sql(path, "CREATE TABLE customers (id)")

    with pytest.raises(ConfigurationError, match="another program's database, with the tables 'customers'"):
        async with SQLiteStore(path):
            pass

    assert [("customers",)] == sql(path, "SELECT name FROM sqlite_schema")
    assert [("delete",)] == sql(path, "PRAGMA journal_mode")


async def test_a_file_of_a_newer_forebay_is_refused(path: Path) -> None:
    async with SQLiteStore(path):
        pass
    sql(path, "PRAGMA user_version = 99")

    with pytest.raises(ConfigurationError, match=r"written by a newer forebay .*: upgrade"):
        async with SQLiteStore(path):
            pass


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_file_of_an_older_forebay_is_brought_up_to_date_with_all_it_holds(path: Path, version: int) -> None:
    sql(path, "PRAGMA journal_mode = wal")
    for number in range(1, version + 1):
        sql(path, files("forebay.stores.sqlite").joinpath(f"schema-{number}.sql").read_text("utf-8"))
    sql(path, "INSERT INTO streams (namespace, name) VALUES ('events', 'order_placed')")
    sql(path, "INSERT INTO entries (stream_id, type, source, data, timestamp) VALUES (1, 't', 's', '1', 'now')")

    async with SQLiteStore(path) as store:
        assert ["1"] == [entry.position for entry in await store.scan("order_placed")]
        assert await store.set_note("order_placed", "retention", b"1")
        assert ["2"] == await store.append("order_placed", [order()])
    assert [(VERSION,)] == sql(path, "PRAGMA user_version")
    assert [("ok",)] == sql(path, "PRAGMA integrity_check")


async def opened(path: Path) -> None:
    async with SQLiteStore(path):
        pass


def as_nobody(path: Path) -> str:
    """The error of a user without rights, unlike root, on opening the file."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            asyncio.run(opened(path))
        except StoreError as error:
            os.write(sending, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    os.waitpid(child, 0)
    try:
        return os.read(receiving, 10_000).decode()
    finally:
        os.close(receiving)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_or_folder_without_the_right_to_write_says_so() -> None:
    """Row E15 of docs/faults.md."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.db")
        asyncio.run(opened(path))

        path.parent.chmod(0o555)
        path.chmod(0o666)
        in_a_closed_folder = as_nobody(path)
        path.chmod(0o444)
        read_only = as_nobody(path)
        path.chmod(0o000)
        closed = as_nobody(path)
        path.parent.chmod(0o755)

    assert in_a_closed_folder.startswith("StoreDenied: ")
    assert f"{path.parent} may not be written to" in in_a_closed_folder
    assert read_only.startswith(f"StoreDenied: {path} may only be read")
    assert closed.startswith("StoreDenied: ")


async def test_a_file_put_in_the_place_of_an_open_one_is_noticed(path: Path, tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "other.db"):
        pass

    async with SQLiteStore(path) as store:
        (tmp_path / "other.db").replace(path)

        with pytest.raises(StoreDamaged):
            await store.append("order_placed", [order()])
        with pytest.raises(StoreDamaged):
            await store.stats()


async def test_namespaces_share_a_file_and_nothing_else(path: Path) -> None:
    async with SQLiteStore(path) as one, SQLiteStore(path, namespace="other") as other:
        await one.append("order_placed", [order()])

        assert [] == await other.stats()
        assert [] == await other.scan("order_placed")


# Group commit.


async def test_moves_that_come_together_are_one_transaction(store: SQLiteStore, path: Path) -> None:
    positions = await asyncio.gather(*(store.append("order_placed", [order(n)]) for n in range(1, 301)))

    # `appended` is the time of the transaction.
    assert [[str(n)] for n in range(1, 301)] == positions
    assert [(1,)] == sql(path, "SELECT count(DISTINCT appended) FROM entries")


async def test_a_move_that_fails_leaves_those_beside_it_alone(store: SQLiteStore) -> None:
    moves: list[Coroutine[Any, Any, Any]] = [store.append("order_placed", [order(n)]) for n in range(20)]
    moves.insert(7, store.seek("order_placed", "nobody", START))
    moves.insert(13, store.append("order_placed", [order(), Record("t", "\ud800", b"{}", "")]))

    results = await asyncio.gather(*moves, return_exceptions=True)

    assert isinstance(results.pop(13), UnicodeEncodeError)
    assert isinstance(results.pop(7), NotFound)
    assert [[str(n)] for n in range(1, 21)] == results
    assert 20 == (await store.stats())[0].length


async def test_appends_to_several_streams_in_one_transaction_keep_their_own_positions(store: SQLiteStore) -> None:
    one, two, three = await asyncio.gather(
        store.append("a", [order(1), order(2)]), store.append("b", [order(3)]), store.append("a", [order(4)])
    )

    assert (["1", "2"], ["3"], ["4"]) == (one, two, three)
    assert [*one, *three] == [entry.position for entry in await store.scan("a")]
    assert two == [entry.position for entry in await store.scan("b")]


async def test_appends_of_any_size_come_back_whole_and_in_order(store: SQLiteStore) -> None:
    sizes = (1, 7, 8, 9, 31, 33, 100, 255, 256, 257, 600)
    records = [[order(100_000 * size + number) for number in range(size)] for size in sizes]

    positions = await asyncio.gather(*(store.append("order_placed", some) for some in records))
    entries = await store.scan("order_placed", limit=10_000)

    assert list(sizes) == [len(some) for some in positions]
    assert [record for some in records for record in some] == [entry.record for entry in entries]
    assert [position for some in positions for position in some] == [entry.position for entry in entries]


def test_few_statements_are_enough_for_appends_of_all_sizes() -> None:
    sizes = {_step(rows) for rows in range(1, 10_000)}

    assert len(sizes) < 40
    assert all(_step(rows) > rows * 0.75 for rows in range(1, 256))


async def test_an_ack_finishes_the_entries_that_it_names_and_none_between(store: SQLiteStore) -> None:
    await store.append("order_placed", [order(number) for number in range(10)])
    deliveries = await store.read(READER, limit=10)
    row, apart, twice = deliveries[2:5], [deliveries[6], deliveries[8]], [deliveries[0], deliveries[0]]

    finished = [await store.ack(some) for some in (row, apart, twice)]
    left = await store.pending("order_placed", "billing")

    assert [3, 2, 1] == finished
    assert [deliveries[place].position for place in (1, 5, 7, 9)] == [pending.position for pending in left]


async def test_a_caller_who_stops_waiting_neither_stops_nor_repeats_the_move(store: SQLiteStore) -> None:
    tasks = [asyncio.create_task(store.append("order_placed", [order(n)])) for n in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)
    await store.append("order_placed", [order(10)])

    assert 11 == (await store.stats())[0].length


async def test_closing_finishes_the_requested_moves_and_ends_the_threads(path: Path) -> None:
    before = set(threading.enumerate())
    async with SQLiteStore(path) as store:
        await store.join("order_placed", "billing")
        waiting = asyncio.create_task(store.read(READER, limit=1, wait=60))
        await eventually(lambda: any("watcher" in thread.name for thread in threading.enumerate()))
        tasks = [asyncio.create_task(store.append("quiet", [order(n)])) for n in range(10)]
        await asyncio.sleep(0)

    assert [] == await asyncio.wait_for(waiting, 5)
    assert 10 == len(await asyncio.gather(*tasks))
    await eventually(lambda: before >= set(threading.enumerate()))


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    store = SQLiteStore(path)

    with pytest.raises(ConfigurationError, match="not open; use it inside `async with`"):
        await store.append("order_placed", [order()])
    async with store:
        with pytest.raises(ConfigurationError, match="open already"):
            await store.__aenter__()
    async with store:
        assert ["1"] == await store.append("order_placed", [order()])


# The disk.


async def test_a_full_disk_is_reported_and_loses_nothing(path: Path) -> None:
    """Rows E7, E8 of docs/faults.md."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with SQLiteStore(path) as store:
        kept = [position for n in range(20) for position in await store.append("order_placed", [order(n)])]
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, limits[1]))
            with pytest.raises(StoreFull, match="make room"):
                await fill(store, kept)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

        after = await store.append("order_placed", [order()])
        entries = await store.scan("order_placed", limit=10_000)

        assert [*kept, *after] == [entry.position for entry in entries]
        assert [("ok",)] == sql(path, "PRAGMA integrity_check")


async def fill(store: SQLiteStore, kept: list[str]) -> None:
    while True:
        kept += await store.append("order_placed", [to_record("t", source="s", data="x" * 10_000)])


async def test_after_a_failed_flush_the_outcome_is_unknown_and_can_be_found_out(path: Path) -> None:
    failing = FailingSync()
    try:
        async with SQLiteStore(path) as store:
            [first] = await store.append("order_placed", [order(1, id="one")])
            failing.on = True
            with pytest.raises(OutcomeUnknown) as caught:
                await store.append("order_placed", [order(2, id="two")])
            failing.on = False

            assert first == caught.value.search_after
            [found] = await store.append("order_placed", [order(2, id="two")], search_after=caught.value.search_after)
            again = await store.append("order_placed", [order(2, id="two")], search_after=caught.value.search_after)

            ids = [entry.record.id for entry in await store.scan("order_placed") if isinstance(entry.record, Record)]
            assert (["one", "two"], [found]) == (ids, again)
    finally:
        failing.close()


async def test_a_file_that_stays_locked_is_unavailable_after_busy_timeout(path: Path) -> None:
    """Row A5 of docs/faults.md."""
    async with SQLiteStore(path, busy_timeout=0.05) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreUnavailable, match="busy_timeout"):
            await store.append("order_placed", [order()])
        other.execute("ROLLBACK")
        other.close()

        assert ["1"] == await store.append("order_placed", [order()])


async def test_idle_polls_take_no_lock(path: Path) -> None:
    async with SQLiteStore(path, busy_timeout=0.0) as store:
        await store.join("order_placed", "billing")
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")

        assert [] == await store.read(READER, limit=10)
        assert 0 == await store.append_due("order_placed")
        assert [] == await store.take_due(READER, limit=10)
        assert [] == await store.claim(READER, idle=0.0)
        other.execute("ROLLBACK")
        other.close()


# Time.


async def test_a_restart_of_the_machine_voids_leases_and_delays_but_not_schedules(path: Path) -> None:
    """Row F3 of docs/faults.md."""
    clock = SetClock()
    async with SQLiteStore(path, clock=clock) as store:
        await store.join("order_placed", "billing")
        await store.append("order_placed", [order(1), order(2)])
        held, failed = await store.read(READER, limit=2)
        await store.retry(failed, delay=3600)
        await store.schedule("order_placed", [order(3, id="later")], delay=3600)

    clock = clock.restarted(after=600)
    async with SQLiteStore(path, clock=clock) as store:
        waiting = await store.take_due(OTHER, limit=10)
        lapsed = await store.claim(OTHER, idle=30, limit=10)
        clock.advance(2999)
        assert 0 == await store.append_due("order_placed")
        early = await store.read(OTHER, limit=10) + await store.take_due(OTHER, limit=10)
        clock.advance(2)
        assert 1 == await store.append_due("order_placed")
        [scheduled] = await store.read(OTHER, limit=10)

        assert [failed.position] == [delivery.position for delivery in waiting]
        assert [(held.position, 2, True)] == [(one.position, one.attempt, one.recovered) for one in lapsed]
        assert [] == early
        assert isinstance(scheduled.record, Record)
        assert "later" == scheduled.record.id


async def test_leases_hold_for_their_time_and_not_longer(path: Path) -> None:
    clock = SetClock()
    async with SQLiteStore(path, clock=clock) as store:
        await store.join("order_placed", "billing")
        await store.append("order_placed", [order()])
        [delivery] = await store.read(READER, limit=1)

        clock.advance(29.9)
        early = await store.claim(OTHER, idle=30)
        await store.extend([delivery])
        clock.advance(29.9)
        renewed = await store.claim(OTHER, idle=30)
        clock.advance(0.2)
        [lapsed] = await store.claim(OTHER, idle=30)

        assert ([], []) == (early, renewed)
        assert (2, True) == (lapsed.attempt, lapsed.recovered)


async def test_locate_and_trim_by_age_go_by_when_an_entry_was_appended(path: Path) -> None:
    clock = SetClock()
    async with SQLiteStore(path, clock=clock) as store:
        start = datetime.fromtimestamp(clock.wall(), UTC)
        for number in range(10):
            await store.append("order_placed", [order(number)])
            await store.append("other", [order(number)])
            clock.advance(60)

        assert START == await store.locate("order_placed", start)
        assert "5" == await store.locate("order_placed", start + timedelta(seconds=180))
        assert "5" == await store.locate("order_placed", start + timedelta(seconds=121))
        assert "19" == await store.locate("order_placed", start + timedelta(days=1))
        assert 5 == (await store.trim("order_placed", max_age=301)).removed
        assert ["11", "13"] == [entry.position for entry in await store.scan("order_placed", limit=2)]


async def test_remembered_ids_are_forgotten_when_their_time_is_over(path: Path) -> None:
    clock = SetClock()
    async with SQLiteStore(path, clock=clock) as store:
        await store.append("order_placed", [order(1, id="paid")], dedup_window=60)
        clock.advance(61)

        assert ["2"] == await store.append("order_placed", [order(1, id="paid")], dedup_window=60)
        assert [(1,)] == sql(path, "SELECT count(*) FROM seen")


# Several processes.


async def test_four_publishers_and_four_consumers_share_a_file(store: SQLiteStore, path: Path) -> None:
    """Row E4 of docs/faults.md."""
    consumers = [Process(sqlite_roles.consume, str(path), number) for number in range(4)]
    publishers = [Process(sqlite_roles.publish, str(path), number) for number in range(4)]

    assert [0] * 4 == [await publisher.ended(within=60) for publisher in publishers]
    await eventually(lambda: _is_handled(store), within=60)
    Path(f"{path}.end").touch()
    assert [0] * 4 == [await consumer.ended(within=60) for consumer in consumers]

    handled = [json.loads(Path(f"{path}.{number}.json").read_text()) for number in range(4)]
    assert sorted(all_ids()) == sorted(itertools.chain(*handled))


async def _is_handled(store: SQLiteStore) -> bool:
    return all((0, 0) == (group.lag, group.pending) for stream in await store.stats() for group in stream.groups)


def all_ids() -> list[str]:
    return [id for number in range(4) for turn in range(sqlite_roles.TURNS) for id in sqlite_roles.ids(number, turn)]


async def test_several_processes_may_make_the_file_at_the_same_time(path: Path) -> None:
    publishers = [Process(sqlite_roles.publish, str(path), number) for number in range(4)]

    assert [0] * 4 == [await publisher.ended(within=60) for publisher in publishers]
    assert [(len(all_ids()),)] == sql(path, "SELECT count(*) FROM entries")


async def test_an_event_of_another_process_wakes_a_reader_within_milliseconds(store: SQLiteStore, path: Path) -> None:
    reading = asyncio.create_task(store.read(READER, limit=1, wait=60))
    await eventually(lambda: any("watcher" in thread.name for thread in threading.enumerate()))

    async with SQLiteStore(path) as other:
        await other.append("order_placed", [order()])
        appended = asyncio.get_running_loop().time()
    [delivery] = await reading

    assert asyncio.get_running_loop().time() - appended < 0.5
    assert "1" == delivery.position


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_store_is_refused_after_a_fork(store: SQLiteStore) -> None:
    """Row E12 of docs/faults.md."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            store.append("order_placed", [order()]).send(None)
        except ConfigurationError as error:
            os.write(sending, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert "does not survive a fork: open another one here" in os.read(receiving, 1000).decode()
    assert ["1"] == await store.append("order_placed", [order()])
    os.close(receiving)
    os.close(sending)


async def test_a_killed_process_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Row E1 of docs/faults.md."""
    script = (
        "import asyncio, sys\nfrom forebay.event import to_record\nfrom forebay.stores.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    async with SQLiteStore(sys.argv[1]) as store:\n"
        "        while True:\n"
        "            [position] = await store.append('t', [to_record('t', source='s', data=1)])\n"
        "            print(position, flush=True)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [int(await process.stdout.readline()) for _ in range(50)]
    process.kill()
    acknowledged += [int(line) for line in (await process.stdout.read()).split(b"\n")[:-1]]
    await process.wait()

    async with SQLiteStore(path) as store:
        kept = [int(entry.position) for entry in await store.scan("t", limit=100_000)]

    assert set(acknowledged) <= set(kept)
    assert [("ok",)] == sql(path, "PRAGMA integrity_check")


# Groups.


async def test_an_ordered_group_reads_nothing_new_while_something_waits(store: SQLiteStore) -> None:
    one, two = (Reader("order_placed", "billing", name, ordered=True) for name in ("one", "two"))
    await store.append("order_placed", [order(n) for n in range(4)])
    held = await store.read(one, limit=2)
    blocked = await store.read(two, limit=2)
    await store.release(held)

    passed = await store.read(two, limit=2)
    given_back = await store.take_due(two, limit=2)
    following = await store.read(two, limit=2)

    assert ([], []) == (blocked, passed)
    assert ["1", "2", "3", "4"] == [delivery.position for delivery in given_back + following]


async def test_an_ordered_reader_that_waits_goes_on_when_the_other_is_done(store: SQLiteStore) -> None:
    one, two = (Reader("order_placed", "billing", name, ordered=True) for name in ("one", "two"))
    await store.append("order_placed", [order(1), order(2)])
    held = await store.read(one, limit=1)
    reading = asyncio.create_task(store.read(two, limit=1, wait=30))

    await store.ack(held)

    assert ["2"] == [delivery.position for delivery in await asyncio.wait_for(reading, 5)]


async def test_an_entry_that_a_forced_trim_took_away_still_becomes_a_whole_dead_letter(store: SQLiteStore) -> None:
    record = order(7, id="order-7")
    await store.append("order_placed", [record, order(8)])
    delivery, other = await store.read(READER, limit=2)
    trimmed = await store.trim("order_placed", max_length=0, force=True)

    [gone] = await store.claim(OTHER, idle=0.0, limit=1)
    await store.dead_letter(other, reason="failed")
    [letter] = await store.dead_letters("order_placed")

    assert (2, 2) == (trimmed.removed, trimmed.dropped)
    assert (delivery.position, None) == (gone.position, gone.record)
    assert (other.record, other.position) == (letter.record, letter.position)


async def test_a_long_trim_runs_in_parts_and_stops_at_unfinished_entries(store: SQLiteStore) -> None:
    await store.append("order_placed", [order(n) for n in range(12_000)])
    deliveries = await store.read(READER, limit=11_000)
    await store.ack(deliveries[:10_500])

    trimmed = await store.trim("order_placed", max_length=100)
    [stats] = await store.stats()

    assert (10_500, 0) == (trimmed.removed, trimmed.dropped)
    assert (1_500, "10501", "12000") == (stats.length, stats.first, stats.last)


async def test_the_end_of_a_stream_is_its_last_entry_at_the_moment_of_the_call(store: SQLiteStore) -> None:
    await store.append("order_placed", [order(1)])
    await store.join("order_placed", "late", start=END)
    await store.append("order_placed", [order(2)])

    assert ["2"] == [one.position for one in await store.read(Reader("order_placed", "late", "x"), limit=10)]
    assert [] == await store.scan("order_placed", after=END)
    with pytest.raises(ConfigurationError, match="'12-0' is not a position"):
        await store.seek("order_placed", "late", "12-0")


async def test_entries_that_another_program_deletes_unread_are_counted_after_a_restart_too(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.join("order_placed", "billing")
        await store.join("other", "billing")
        await store.append("order_placed", [order(number) for number in range(5)])
        await store.append("other", [order(6)])
        await store.read(READER, limit=1)
    sql(path, "DELETE FROM entries WHERE seq IN (1, 3, 5)")
    sql(path, "DELETE FROM entries WHERE type = 'none'")

    async with SQLiteStore(path) as store:
        assert [2, 0] == [await store.trimmed_unread("order_placed", "billing") for _ in range(2)]
        assert 0 == await store.trimmed_unread("other", "billing")
        assert ["2", "4"] == [delivery.position for delivery in await store.read(READER, limit=9)]


async def test_durability_is_reported_as_it_is_configured(path: Path) -> None:
    async with SQLiteStore(path) as full, SQLiteStore(path, synchronous="normal") as normal:
        assert "kept" == (await full.durability()).power_lost
        assert "at risk" == (await normal.durability()).power_lost
        assert "kept" == (await normal.durability()).store_killed
