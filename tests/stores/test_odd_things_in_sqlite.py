"""Rows that other programs put into a file are put aside and reported; nothing waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from forebay import EventBus
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore

STREAM = "order_placed"
GROUP = "billing"
READER = Reader(STREAM, GROUP, "worker-1")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "events.db", synchronous="normal") as store:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(number) for number in range(4)])
        yield store


def order(number: int = 1) -> Record:
    return to_record(STREAM, source="shop", data=number)


def plant(store: SQLiteStore, sql: str) -> None:
    connection = apsw.Connection(str(store.path))
    connection.set_busy_timeout(5000)
    connection.execute(sql)
    connection.close()


NOT_UTF8 = "CAST(X'FFFE' AS TEXT)"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO streams (namespace, name) VALUES ('events', 'has space')",
        f"INSERT INTO streams (namespace, name) VALUES ('events', {NOT_UTF8})",
        "INSERT INTO streams (namespace, name) VALUES ('events', X'6162')",
        "INSERT INTO groups (stream_id, name, cursor) SELECT id, 'a:b', 0 FROM streams",
        f"INSERT INTO groups (stream_id, name, cursor) SELECT id, {NOT_UTF8}, 0 FROM streams",
        "INSERT INTO groups (stream_id, name, cursor) SELECT id, X'6162', 0 FROM streams",
        f"INSERT INTO notes (namespace, stream, name, value) VALUES ('events', 'order_placed', {NOT_UTF8}, X'00')",
        "INSERT INTO notes (namespace, stream, name, value) VALUES ('events', 'order_placed', X'6162', X'00')",
    ],
)
async def test_names_of_other_programs_are_left_out_and_reported(sql: str, store: SQLiteStore) -> None:
    assert [] == await store.strays()
    plant(store, sql)

    [stray] = await store.strays()

    assert stray.isprintable()
    assert [STREAM] == [stats.stream for stats in await store.stats()]
    assert [GROUP] == [group.group for group in (await store.stats([STREAM]))[0].groups]
    assert {} == await store.notes(STREAM)
    assert await store.streams_with_notes() in ([], [STREAM])


@pytest.mark.parametrize("time", ["'yesterday'", "X'00FF'", "-1e300", "1e300", "9e999"])
async def test_a_wrong_time_stops_no_later_entry(time: str, store: SQLiteStore) -> None:
    first, second, *_ = await store.read(READER, limit=4)
    await store.dead_letter(first, reason="no")
    await store.dead_letter(second, reason="no")
    plant(store, f"UPDATE dead SET failed_at = {time}, error = X'FF', attempts = 'many' WHERE number = 1")
    plant(store, f"UPDATE entries SET appended = {time} WHERE seq = 2")

    letters = await store.dead_letters(STREAM)

    assert [first.position, second.position] == [letter.position for letter in letters]
    assert 4 == len(await store.scan(STREAM))
    assert 2 == (await store.stats())[0].groups[0].pending
    assert 2 == await store.redrive(STREAM, [letter.id for letter in letters])
    await store.trim(STREAM, max_age=3600, force=True)
    assert 4 == len(await store.claim(READER, idle=0, limit=9)) + len(await store.read(READER, limit=9))


async def test_a_consumer_whose_name_is_not_text_is_shown_and_taken_over_from(store: SQLiteStore) -> None:
    [delivery] = await store.read(READER, limit=1)
    plant(store, "UPDATE pending SET consumer = X'FFFE'")

    [pending] = await store.pending(STREAM, GROUP)
    [claimed] = await store.claim(READER, idle=0)

    assert isinstance(pending.consumer, str)
    assert delivery.position == claimed.position


async def test_a_rule_is_kept_beside_notes_of_other_kinds(tmp_path: Path) -> None:
    async with EventBus(f"sqlite:///{tmp_path}/events.db") as bus:
        assert isinstance(bus.store, SQLiteStore)
        await bus.publish_many(STREAM, source="s", data=range(5))
        await bus.store.join(STREAM, GROUP, start="$")
        await bus.store.set_note(STREAM, f"seen:{GROUP}", b"never")
        plant(bus.store, "UPDATE notes SET value = 'text'")
        plant(bus.store, "INSERT INTO notes VALUES ('events', 'order_placed', X'FF', 5)")

        await bus.retain(STREAM, max_length=2, group_lifetime=60)

        assert 2 == (await bus.stats(STREAM))[0].length
