"""A file in the single-table format is copied: processed rows are done, the rest keeps its attempts."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC
from pathlib import Path

import pytest

from forebay import ConfigurationError, EventBus, TransferRefused
from forebay.event import Record
from forebay.store import Reader, Store
from forebay.stores.memory import MemoryStore
from forebay.testing import eventually
from forebay.testing.faulty import FaultyStore
from forebay.transfer import copy
from forebay.transfer.events_table import EventsTable, is_events_table
from tests.support.events_table import WHEN, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "events.db")
    return tmp_path / "events.db"


async def take_over(path: Path, target: Store, *groups: str) -> None:
    async with EventsTable(path, groups or ("billing",)) as source:
        await copy(source, target, origin=f"sqlite:///{path}")


async def test_each_type_becomes_a_stream_of_its_rows(path: Path) -> None:
    async with MemoryStore() as target:
        await take_over(path, target)

        placed = await target.scan("order_placed")
        [paid] = await target.scan("order_paid")

    assert ["quickfix-1", "quickfix-2", "quickfix-4", "quickfix-5", "quickfix-6"] == [
        entry.record.id for entry in placed if isinstance(entry.record, Record)
    ]
    moment = WHEN.astimezone(UTC)
    expected = Record("order_paid", "agent", b'{"n": 3}', moment.isoformat(), "quickfix-3")
    assert expected == paid.record
    assert abs(moment.timestamp() - paid.appended) < 0.001


async def test_processed_rows_are_done_tried_ones_wait_and_the_rest_is_unread(path: Path) -> None:
    async with MemoryStore() as target:
        await take_over(path, target, "billing", "mail")

        for group in ("billing", "mail"):
            reader = Reader("order_placed", group, "a")
            [tried] = await target.take_due(reader, limit=10)
            unread = await target.read(reader, limit=10)
            [paid] = await target.read(Reader("order_paid", group, "a"), limit=10)

            found = [delivery.record.id for delivery in (tried, *unread) if isinstance(delivery.record, Record)]
            assert ["quickfix-2", "quickfix-5", "quickfix-6"] == found
            assert (3, 2) == (tried.attempt, tried.failures)
            assert (1, 0) == (paid.attempt, paid.failures)


def test_the_file_is_not_changed(path: Path) -> None:
    before = path.read_bytes()

    async def take() -> None:
        async with MemoryStore() as target:
            await take_over(path, target)

    asyncio.run(take())

    assert before == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


async def test_rows_that_are_written_meanwhile_are_noticed_and_the_next_run_takes_them_too(path: Path) -> None:
    async with MemoryStore() as target:
        slow = FaultyStore(target)
        slow.delay("drop", 0.2)
        taking = asyncio.create_task(take_over(path, slow))
        await eventually(lambda: slow.calls["drop"], within=20)
        write(path, [("order_placed", False, 0)])

        with pytest.raises(TransferRefused, match="was changed while it was copied"):
            await taking
        await take_over(path, target)

        assert 6 == len(await target.scan("order_placed"))


async def test_rows_that_cannot_be_in_a_stream_are_named(tmp_path: Path) -> None:
    write(tmp_path / "bad.db", [("fine", False, 0), (None, False, 0), ("no name", False, 0)])

    async with MemoryStore() as target:
        with pytest.raises(ConfigurationError, match=r"row 2 \(None\), row 3 \('no name'\)"):
            await take_over(tmp_path / "bad.db", target)

        assert [] == await target.stats()


async def test_a_row_that_is_not_an_event_is_copied_and_becomes_a_dead_letter(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE events SET data = 'NaN', timestamp = NULL WHERE type = 'order_paid'")

    async with MemoryStore() as target:
        await take_over(path, target)
        [entry] = await target.scan("order_paid")

    assert isinstance(entry.record, Record)
    assert (b"NaN", "") == (entry.record.data, entry.record.timestamp)


async def test_other_files_are_not_events_tables(tmp_path: Path) -> None:
    async with EventBus(f"sqlite:///{tmp_path}/forebay.db") as bus:
        await bus.publish("order_placed", source="s")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db, db:
        db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT)")
    (tmp_path / "text").write_text("no database")

    assert [False, False, False] == [is_events_table(tmp_path / name) for name in ("forebay.db", "other.db", "text")]


def test_a_bus_does_not_open_the_file_and_says_how_to_take_it_over(path: Path) -> None:
    before = path.read_bytes()

    async def open_it() -> None:
        async with EventBus(f"sqlite:///{path}"):
            pass

    with pytest.raises(ConfigurationError, match="`forebay copy` takes it over"):
        asyncio.run(open_it())

    assert before == path.read_bytes()
