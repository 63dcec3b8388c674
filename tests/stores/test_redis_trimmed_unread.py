"""What others remove from under a group on Redis and Valkey is counted once, whenever it happened and however."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay.event import Record, to_record
from forebay.store import END, START, Reader
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, binaries, version

STREAM = "order_placed"
GROUP = "billing"
READER = Reader(STREAM, GROUP, "worker-1")


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    server = servers[request.param]
    if str(server.redis.info("server")["redis_version"]).startswith("6."):
        pytest.skip("Redis before 7 does not count what was added to a stream")
    return server


@pytest.fixture
def key(namespace: str) -> str:
    return f"{namespace}:{STREAM}"


@pytest.fixture
async def store(server: Server, namespace: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url, namespace=namespace) as store:
        yield store


def orders(count: int) -> list[Record]:
    return [to_record(STREAM, source="shop", data=number) for number in range(count)]


def lags(server: Server, key: str) -> dict[str, Any]:
    return {info["name"].decode(): info["lag"] for info in server.redis.xinfo_groups(key)}


async def test_unread_events_that_were_trimmed_are_counted_after_the_group_has_read_on(
    store: RedisStore, server: Server, key: str
) -> None:
    await store.join(STREAM, GROUP)
    await store.append(STREAM, orders(20))
    await store.ack(await store.read(READER, limit=5))
    server.redis.xtrim(key, maxlen=10, approximate=False)

    await store.ack(await store.read(READER, limit=2))
    await store.read(READER, limit=2)

    assert 5 == await store.trimmed_unread(STREAM, GROUP)
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    assert {GROUP: 6} == lags(server, key)


async def test_unread_events_that_were_deleted_from_the_middle_are_counted(
    store: RedisStore, server: Server, key: str
) -> None:
    await store.join(STREAM, GROUP)
    positions = await store.append(STREAM, orders(20))
    await store.read(READER, limit=5)
    server.redis.xdel(key, *positions[8:11])
    assert 3 == await store.trimmed_unread(STREAM, GROUP)

    server.redis.xdel(key, positions[15])
    await store.ack(await store.read(READER, limit=7))
    assert 1 == await store.trimmed_unread(STREAM, GROUP)

    server.redis.xdel(key, positions[17])
    await store.ack(await store.read(READER, limit=10))
    assert 1 == await store.trimmed_unread(STREAM, GROUP)
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    assert {GROUP: 0} == lags(server, key)


async def test_events_that_were_removed_after_they_had_been_read_are_not_missed(
    store: RedisStore, server: Server, key: str
) -> None:
    await store.join(STREAM, GROUP)
    positions = await store.append(STREAM, orders(20))
    acked, dead, retried, released, held, *_ = await store.read(READER, limit=10)
    await store.ack([acked])
    await store.dead_letter(dead, reason="no")
    await store.retry(retried, delay=0)
    await store.release([released])
    server.redis.xdel(key, *positions[:8])
    await store.extend([held])
    await store.ack([held])
    for delivery in await store.take_due(READER, limit=10):
        await store.ack([delivery])

    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xtrim(key, maxlen=9, approximate=False)
    assert 1 == await store.trimmed_unread(STREAM, GROUP)


async def test_each_group_counts_the_entries_that_it_had_not_read(store: RedisStore, server: Server, key: str) -> None:
    readers = [Reader(STREAM, group, "worker") for group in ("first", "second", "third")]
    for reader in readers:
        await store.join(STREAM, reader.group)
    await store.append(STREAM, orders(10))
    for count, reader in enumerate(readers):
        await store.ack(await store.read(reader, limit=1 + 3 * count))

    server.redis.xtrim(key, maxlen=2, approximate=False)
    await store.append(STREAM, orders(5))
    for reader in readers:
        await store.read(reader, limit=100)

    assert [7, 4, 1] == [await store.trimmed_unread(STREAM, reader.group) for reader in readers]
    assert [0, 0, 0] == [await store.trimmed_unread(STREAM, reader.group) for reader in readers]


@pytest.mark.parametrize("start", [START, END, "middle"])
async def test_entries_that_left_a_stream_before_a_group_began_are_not_counted(
    store: RedisStore, server: Server, key: str, start: str
) -> None:
    positions = await store.append(STREAM, orders(10))
    server.redis.xdel(key, positions[0], positions[3])

    await store.join(STREAM, GROUP, start=positions[5] if start == "middle" else start)

    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    await store.append(STREAM, orders(5))
    server.redis.xtrim(key, maxlen=2, approximate=False)
    lost = {START: 11, END: 3, "middle": 7}[start]
    assert lost == await store.trimmed_unread(STREAM, GROUP)


async def test_a_group_that_was_sought_misses_nothing_by_it(store: RedisStore, server: Server, key: str) -> None:
    await store.join(STREAM, GROUP)
    positions = await store.append(STREAM, orders(10))
    await store.ack(await store.read(READER, limit=6))

    await store.seek(STREAM, GROUP, positions[1])
    server.redis.xtrim(key, maxlen=10, approximate=False)
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xtrim(key, maxlen=5, approximate=False)
    assert 3 == await store.trimmed_unread(STREAM, GROUP)
    await store.seek(STREAM, GROUP, END)
    server.redis.xtrim(key, maxlen=0, approximate=False)
    assert 0 == await store.trimmed_unread(STREAM, GROUP)


async def test_entries_that_another_program_acks_or_skips_do_not_count_as_trimmed(
    store: RedisStore, server: Server, key: str
) -> None:
    await store.join(STREAM, GROUP)
    positions = await store.append(STREAM, orders(10))
    await store.read(READER, limit=4)
    server.redis.xack(key, GROUP, *positions[:3])
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xgroup_setid(key, GROUP, positions[7])
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xdel(key, positions[0])

    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xtrim(key, maxlen=1, approximate=False)
    assert 1 == await store.trimmed_unread(STREAM, GROUP)


async def test_a_group_that_another_program_made_is_reckoned_from_the_first_look(
    store: RedisStore, server: Server, key: str
) -> None:
    await store.append(STREAM, orders(10))
    server.redis.xgroup_create(key, GROUP, "$")

    assert await store.trimmed_unread(STREAM, GROUP) in (0, None)
    await store.append(STREAM, orders(3))
    server.redis.xtrim(key, maxlen=1, approximate=False)
    assert 2 == await store.trimmed_unread(STREAM, GROUP)


async def test_a_lost_stream_makes_the_count_unknown_and_not_zero(store: RedisStore, server: Server, key: str) -> None:
    await store.join(STREAM, GROUP)
    await store.append(STREAM, orders(3))
    server.redis.delete(key)
    assert await store.trimmed_unread(STREAM, GROUP) is None

    await store.append(STREAM, orders(2))
    await store.join(STREAM, GROUP)

    assert await store.trimmed_unread(STREAM, GROUP) is None
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xtrim(key, maxlen=1, approximate=False)
    assert 1 == await store.trimmed_unread(STREAM, GROUP)


async def test_a_look_costs_the_same_however_much_is_unread(store: RedisStore, server: Server, key: str) -> None:
    await store.join(STREAM, GROUP)
    add = "for number = 1, 25000 do redis.call('XADD', KEYS[1], '*', 'number', number) end"
    server.redis.eval(add, 1, key)
    await store.read(READER, limit=12_000)
    assert 0 == await store.trimmed_unread(STREAM, GROUP)
    server.redis.xdel(key, server.redis.xrange(key, count=12_010)[-1][0])

    # Too many on both sides to count: reported when the group is nearer to the end.
    assert await store.trimmed_unread(STREAM, GROUP) is None
    await store.read(READER, limit=12_000)
    assert 1 == await store.trimmed_unread(STREAM, GROUP)


async def test_groups_that_begin_later_have_a_right_lag_at_the_server(
    store: RedisStore, server: Server, key: str
) -> None:
    positions = await store.append(STREAM, orders(10))
    server.redis.xtrim(key, maxlen=8, approximate=False)

    for group, start in (("all", START), ("half", positions[4]), ("new", END)):
        await store.join(STREAM, group, start=start)
    await store.append(STREAM, orders(3))
    await store.read(Reader(STREAM, "half", "worker"), limit=2)

    assert {"all": 11, "half": 6, "new": 3} == lags(server, key)
