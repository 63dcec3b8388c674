"""The tokens of leases in a SQLite file: over a failed flush, in one transaction, in a file of an earlier version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import apsw
import msgspec
import pytest

from forebay.errors import OutcomeUnknown
from forebay.event import to_record
from forebay.store import Delivery, Failure, Reader
from forebay.stores.sqlite import SQLiteStore, leases
from tests.support.failing_sync import FailingSync

RECORD = to_record("t", source="s", data=1)
ONE, TWO = Reader("t", "g", "one"), Reader("t", "g", "two")


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(path) as store:
        await store.join("t", "g")
        await store.append("t", [RECORD] * 3)
        yield store


def next_try(delivery: Delivery, failure: Failure) -> Delivery:
    return msgspec.structs.replace(
        delivery, attempt=delivery.attempt + 1, failures=delivery.failures + 1, last_failure=failure
    )


async def test_a_kept_retry_whose_commit_could_not_be_flushed_counts_once_when_it_is_repeated(path: Path) -> None:
    failing = FailingSync()
    try:
        async with SQLiteStore(path) as store:
            await store.join("t", "g")
            await store.append("t", [RECORD])
            [held] = await store.read(ONE, limit=1)
            failing.on = True
            with pytest.raises(OutcomeUnknown):
                await store.retry(held, delay=0, keep=True, failure=Failure("first"))
            failing.on = False

            assert await store.retry(held, delay=0, keep=True, failure=Failure("first"))
            assert await store.retry(held, delay=0, keep=True, failure=Failure("first"))
            [pending] = await store.pending("t", "g")
            assert (2, 1, "one") == (pending.attempt, pending.failures, pending.consumer)

            again = next_try(held, Failure("first"))
            assert await store.retry(again, delay=0, keep=True, failure=Failure("second"))
            assert await store.retry(held, delay=0, keep=True, failure=Failure("first"))
            [pending] = await store.pending("t", "g")
            assert (3, 2, Failure("second")) == (pending.attempt, pending.failures, pending.last_failure)
    finally:
        failing.close()


async def test_two_leases_of_one_transaction_have_different_tokens(store: SQLiteStore) -> None:
    await store.read(TWO, limit=1)
    [held], [claimed] = await asyncio.gather(*(store.claim(ONE, idle=0.0, limit=1) for _ in range(2)))

    assert held.position == claimed.position
    assert [claimed] == await store.extend([held, claimed])
    assert not await store.retry(held, delay=0)
    assert not await store.dead_letter(held, reason="failed")
    assert 1 == await store.release([held, claimed])
    assert 0 == await store.release([held, claimed])


async def test_the_stores_of_two_processes_make_no_token_twice(path: Path, store: SQLiteStore) -> None:
    async with SQLiteStore(path) as other:
        [held] = await store.read(ONE, limit=1)
        await store.release([held])
        [taken] = await other.take_due(ONE, limit=1)

        assert held.lease != taken.lease
        assert [] == await store.extend([held])
        assert [taken] == await store.extend([taken])


async def test_leases_of_several_readers_are_extended_in_their_order(store: SQLiteStore) -> None:
    [first] = await store.read(ONE, limit=1)
    [second] = await store.read(TWO, limit=1)
    [third] = await store.read(ONE, limit=1)

    assert [first, second, third] == await store.extend([first, second, third])


async def test_a_lease_without_a_token_of_an_earlier_version_can_be_acked_and_claimed(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "wal")
        for number in range(1, 6):
            connection.execute(files("forebay.stores.sqlite").joinpath(f"schema-{number}.sql").read_text("utf-8"))
        connection.execute("INSERT INTO streams (namespace, name) VALUES ('events', 't')")
        connection.execute("INSERT INTO groups (stream_id, name, cursor) VALUES (1, 'g', 3)")
        connection.execute("INSERT INTO entries (stream_id, type) VALUES (1, 'a'), (1, 'b'), (1, 'c')")
        connection.execute(
            "INSERT INTO pending (group_id, seq, consumer, attempt, failures, leased_at, due)"
            " VALUES (1, 1, 'one', 1, 0, 0, NULL), (1, 2, 'one', 1, 0, 0, NULL), (1, 3, NULL, 1, 1, NULL, 0)"
        )
    async with SQLiteStore(path) as store:
        old = Delivery(ONE, "1", None)

        assert [] == await store.extend([old])
        assert 1 == await store.ack([old])
        [claimed] = await store.claim(ONE, idle=0.0)
        [waited] = await store.take_due(ONE, limit=1)
        assert [claimed, waited] == await store.extend([claimed, waited])
        assert ["2", "3"] == [claimed.position, waited.position]


async def test_a_read_of_several_streams_has_one_bound_of_bytes_and_an_entry_of_each(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "READ_BYTES", 1000)
    large = to_record("t", source="s", data="x" * 398)
    readers = [Reader(stream, "h", "one") for stream in ("a", "b", "c")]
    for reader in readers:
        await store.join(reader.stream, reader.group)
        await store.append(reader.stream, [large] * 5)

    counts = []
    while found := await store.read(*readers, limit=4):
        counts.append([len([each for each in found if each.reader is reader]) for reader in readers])

    assert [2, 1, 1] == counts[0]
    assert [5, 5, 5] == [sum(column) for column in zip(*counts, strict=True)]
