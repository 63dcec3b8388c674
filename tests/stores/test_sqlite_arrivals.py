"""The names of the streams that grow, from one watch for each store object."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import apsw
import pytest

from forebay.errors import StoreDamaged
from forebay.event import to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.watcher import NEW_ENTRIES

RECORD = to_record("t", source="s", data=1)
SECONDS = 20


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(path) as store:
        yield store


@pytest.fixture
async def other(path: Path, store: SQLiteStore) -> AsyncIterator[SQLiteStore]:
    """Another store object on the file, whose commits the first one sees as those of another process."""
    async with SQLiteStore(path) as other:
        yield other


def sql(path: Path, statement: str) -> None:
    """Run a statement as another program would."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute(statement)
    connection.close()


async def take(arrivals: AsyncGenerator[str | None, None], *names: str | None) -> None:
    """Wait until the names came, in any order."""
    missing = set(names)
    async with asyncio.timeout(SECONDS):
        while missing:
            missing.discard(await anext(arrivals))


async def test_each_stream_that_grows_is_named_whichever_process_appends(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        await other.append("theirs", [RECORD])
        await take(arrivals, "theirs")
        await store.append("ours", [RECORD])
        await take(arrivals, "ours")


async def test_streams_of_another_process_are_named_while_this_one_writes_without_a_pause(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    async def write() -> None:
        while True:
            await asyncio.gather(*(store.append("ours", [RECORD]) for _ in range(20)))

    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)
        writing = asyncio.create_task(write())
        for number in range(5):
            await other.append(f"t{number}", [RECORD])
            await take(arrivals, f"t{number}")
        writing.cancel()


async def test_an_append_of_this_store_object_is_named_once(store: SQLiteStore) -> None:
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        names = []
        for number in range(200):
            await store.append(f"t{number % 7}", [RECORD])
            names.append(await anext(arrivals))

    assert [f"t{number % 7}" for number in range(200)] == names


async def test_a_stream_of_another_namespace_and_a_name_that_forebay_has_not_are_left_out(
    path: Path, store: SQLiteStore
) -> None:
    async with SQLiteStore(path, namespace="other") as other, aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        await other.append("theirs", [RECORD])
        sql(path, "INSERT INTO streams (id, namespace, name) VALUES (77, 'events', 'not a name')")
        sql(path, "INSERT INTO entries (stream_id) VALUES (77)")
        await store.append("ours", [RECORD])

        assert "ours" == await anext(arrivals)


async def test_an_iteration_that_begins_while_another_runs_gets_its_none_at_once(store: SQLiteStore) -> None:
    async with aclosing(store.arrivals()) as one, aclosing(store.arrivals()) as other:
        await take(one, None)
        assert await anext(other) is None

        await store.append("t", [RECORD])

        await take(one, "t")
        await take(other, "t")
    watchers = [thread for thread in threading.enumerate() if thread.name == "forebay-sqlite-watcher"]
    assert 1 == len(watchers)


async def test_names_that_come_together_come_without_a_turn_of_the_loop(store: SQLiteStore) -> None:
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)
        await asyncio.gather(*(store.append(f"t{number}", [RECORD]) for number in range(50)))

        turns: list[None] = []
        names = [await anext(arrivals)]
        asyncio.get_running_loop().call_soon(turns.append, None)
        names += [await anext(arrivals) for _ in range(49)]

        assert [f"t{number}" for number in range(50)] == sorted(map(str, names), key=lambda name: int(name[1:]))
        assert [] == turns


async def test_more_new_entries_than_one_look_reads_name_all_their_streams(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        await asyncio.gather(
            other.append("first", [RECORD] * (NEW_ENTRIES + 1)), *(other.append(f"t{n}", [RECORD]) for n in range(20))
        )

        await take(arrivals, "first", *(f"t{number}" for number in range(20)))


async def test_an_entry_that_another_program_inserts_at_a_lower_position_is_found(
    path: Path, store: SQLiteStore
) -> None:
    for name in ("low", "high"):
        await store.append(name, [RECORD] * 100)
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        sql(path, "DELETE FROM entries WHERE seq IN (50, 150)")
        sql(path, "INSERT INTO entries (seq, stream_id) VALUES (150, 1)")

        await take(arrivals, "low")


async def test_entries_that_a_seek_makes_unread_ring_the_readers_of_this_store_object(store: SQLiteStore) -> None:
    await store.join("t", "g")
    await store.append("t", [RECORD])
    reader = Reader("t", "g", "c")
    await store.ack(await store.read(reader, limit=1))
    async with aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        await store.seek("t", "g", "0")

        await take(arrivals, "t")


async def test_closing_the_store_ends_its_iterations(path: Path) -> None:
    async with SQLiteStore(path) as store:
        arrivals, late = store.arrivals(), store.arrivals()
        await take(arrivals, None)
        rest = asyncio.create_task(anext(arrivals, "ended"))
        await asyncio.sleep(0)

    assert "ended" == await asyncio.wait_for(rest, SECONDS)
    assert "ended" == await asyncio.wait_for(anext(late, "ended"), SECONDS)


async def test_files_that_are_lost_end_the_iteration_with_the_error(path: Path, tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "other.db"):
        pass
    async with SQLiteStore(path) as store, aclosing(store.arrivals()) as arrivals:
        await take(arrivals, None)

        (tmp_path / "other.db").replace(path)

        with pytest.raises(StoreDamaged):
            await take(arrivals, "never")
