"""A server whose memory is full: what frees something is never refused, and what would grow is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay import EventBus
from forebay.errors import StoreFull
from forebay.event import Record, to_record
from forebay.retention import enforce
from forebay.store import Reader, Trimmed
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, binaries, version

STREAM = "order_placed"
READER = Reader(STREAM, "billing", "worker-1")
OTHER = Reader(STREAM, "billing", "worker-2")
ORDERED = Reader(STREAM, "billing", "worker-1", ordered=True)


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path)
    yield server
    server.stop()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url) as store:
        await store.join(STREAM, "billing")
        await store.append(STREAM, [order(number) for number in range(8)])
        yield store


def order(number: int = 1, id: str | None = None) -> Record:
    return to_record(STREAM, source="shop", data=number, id=id)


def fill(server: Server) -> None:
    server.redis.config_set("maxmemory", 1)


async def test_a_full_server_takes_every_move_that_settles_an_event(store: RedisStore, server: Server) -> None:
    acked, remembered, retried, kept, released, dead = await store.read(READER, limit=6)
    assert acked.record is not None
    assert isinstance(remembered.record, Record)
    fill(server)

    assert 1 == await store.ack([acked])
    assert 1 == await store.ack([remembered], remember=60)
    assert await store.retry(retried, delay=0)
    assert await store.retry(kept, delay=0, keep=True)
    assert 1 == await store.release([released])
    assert await store.dead_letter(dead, reason="no")

    assert {remembered.record.id} == await store.handled(STREAM, "billing", [remembered.record.id])
    assert [dead.position] == [letter.position for letter in await store.dead_letters(STREAM)]
    [stats] = await store.stats([STREAM])
    assert (3, 2, 1) == (stats.groups[0].pending, stats.groups[0].waiting, stats.groups[0].dead)


async def test_a_full_server_delivers_waiting_expired_and_scheduled_events(store: RedisStore, server: Server) -> None:
    retried, vanished, _ = await store.read(READER, limit=3)
    await store.retry(retried, delay=0)
    await store.retry(vanished, delay=0)
    server.redis.xdel("events:order_placed", vanished.position)
    await store.schedule(STREAM, [order(9, id="later")], delay=0, dedup_window=60)
    fill(server)

    assert 1 == await store.append_due(STREAM)
    due = await store.take_due(OTHER, limit=10)
    claimed = await store.claim(OTHER, idle=0)
    unread = await store.read(OTHER, limit=10)

    assert [(retried.position, 2), (vanished.position, 2)] == [(found.position, found.attempt) for found in due]
    assert [None] == [found.record for found in due if found.position == vanished.position]
    assert 1 == len(claimed)
    assert 6 == len(unread)


async def test_a_full_server_redrives_discards_and_trims(store: RedisStore, server: Server) -> None:
    for delivery in await store.read(READER, limit=3):
        await store.dead_letter(delivery, reason="no")
    first, second, _ = await store.dead_letters(STREAM)
    await store.ack(await store.read(READER, limit=10))
    fill(server)

    assert 1 == await store.redrive(STREAM, [first.id])
    assert 1 == await store.discard(STREAM, [second.id])
    assert Trimmed(8, 0) == await store.trim(STREAM, max_length=0)
    await store.seek(STREAM, "billing", "0-0")
    assert 1 == len(await store.read(READER, limit=10))
    await store.leave(STREAM, "billing")
    assert 1 == (await store.stats([STREAM]))[0].dead


async def test_a_full_server_reads_and_repeats_in_order(store: RedisStore, server: Server) -> None:
    first, _ = await store.read(ORDERED, limit=2)
    await store.release([first])
    fill(server)

    assert [first.position] == [found.position for found in await store.take_due(ORDERED, limit=1)]
    assert 2 == len(await store.claim(ORDERED, idle=0, limit=2))
    assert 6 == len(await store.read(ORDERED, limit=10))


async def test_a_full_server_takes_nothing_new(store: RedisStore, server: Server) -> None:
    fill(server)

    with pytest.raises(StoreFull):
        await store.append(STREAM, [order()])
    with pytest.raises(StoreFull):
        await store.append(STREAM, [order(id="1")], dedup_window=60)
    with pytest.raises(StoreFull):
        await store.schedule(STREAM, [order()], delay=60)
    with pytest.raises(StoreFull):
        await store.join(STREAM, "mail")
    assert not await store.join(STREAM, "billing")


async def test_a_stream_on_a_full_server_is_trimmed_by_its_rule_though_no_note_can_be_kept(server: Server) -> None:
    async with EventBus(server.url) as bus:
        await bus.retain("t", max_length=4, group_lifetime=60)
        await bus.publish_many("t", source="s", data=range(10))
        await bus.store.join("t", "g", start="$")
        fill(server)

        assert Trimmed(6, 0) == await enforce(bus.store, "t", bus.signals)
