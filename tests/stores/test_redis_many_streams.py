"""Many streams in one process: reads and looks share commands, and one damaged stream does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from forebay.errors import NotFound, StoreDamaged, StoreUnavailable
from forebay.event import Record, to_event, to_record
from forebay.store import Outlook, Reader
from forebay.stores.redis import RedisStore, scripts, upkeep
from tests.support.redis_servers import Server, binaries, version
from tests.support.topologies import make_cluster

STREAMS = [f"stream-{number:02}" for number in range(12)]
READERS = [Reader(stream, "billing", "worker-1") for stream in STREAMS]
IDLE = Outlook(scheduled=None, waiting=None, leased=False, unread=False)


def order(number: int = 1) -> Record:
    return to_record("order_placed", source="shop", data=number)


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url) as store:
        await asyncio.gather(*(store.join(stream, "billing") for stream in STREAMS))
        yield store


@pytest.fixture(scope="module", params=binaries(), ids=version)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    servers: list[Server] = []
    try:
        yield make_cluster(servers, request.param, tmp_path_factory.mktemp("many"))
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
async def spread(cluster: list[Server]) -> AsyncIterator[RedisStore]:
    """A store on a cluster, with a group in each stream."""
    for node in cluster:
        node.redis.flushall()
    async with RedisStore(f"redis+cluster://127.0.0.1:{cluster[0].port}") as store:
        await asyncio.gather(*(store.join(stream, "billing") for stream in STREAMS))
        yield store


def calls(server: Server, command: str) -> int:
    return int(server.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_streams_of_one_server_are_read_by_one_command(store: RedisStore, server: Server) -> None:
    for number, stream in enumerate(STREAMS):
        await store.append(stream, [order(number), order(number)])
    server.redis.config_resetstat()

    found = await store.read(*READERS, limit=10)

    assert 1 == calls(server, "xreadgroup")
    assert dict.fromkeys(STREAMS, 2) == {
        stream: sum(each.reader.stream == stream for each in found) for stream in STREAMS
    }


async def test_a_read_that_waits_blocks_on_all_streams_of_a_server(store: RedisStore, server: Server) -> None:
    reading = asyncio.create_task(store.read(*READERS, limit=10, wait=20))
    async with asyncio.timeout(20):
        while not server.redis.info("clients")["blocked_clients"]:
            await asyncio.sleep(0.02)  # another server's state can only be polled

    await store.append(STREAMS[7], [order()])

    assert [STREAMS[7]] == [each.reader.stream for each in await reading]


async def test_the_streams_of_a_cluster_are_read_together(spread: RedisStore) -> None:
    for number, stream in enumerate(STREAMS):
        await spread.append(stream, [order(number)])

    found = await spread.read(*READERS, limit=10)

    assert set(STREAMS) == {each.reader.stream for each in found}
    assert found == await spread.extend(found)
    assert len(STREAMS) == await spread.ack(found)
    waiting = asyncio.create_task(spread.read(*READERS, limit=10, wait=20))
    await spread.append(STREAMS[3], [order()])
    assert [STREAMS[3]] == [each.reader.stream for each in await waiting]


async def test_a_read_from_a_cluster_that_fails_keeps_no_leases(spread: RedisStore) -> None:
    for number, stream in enumerate(STREAMS):
        await spread.append(stream, [order(number)])
    await spread.leave(STREAMS[4], "billing")

    with pytest.raises(NotFound, match=STREAMS[4]):
        await spread.read(*READERS, limit=10)

    rest = [reader for reader in READERS if reader.stream != STREAMS[4]]
    found = [each for reader in rest for each in await spread.take_due(reader, limit=10)]
    found += await spread.read(*rest, limit=10)
    numbers = [to_event(each.record).data for each in found if each.record]
    assert [number for number in range(12) if number != 4] == sorted(numbers)
    assert {1} == {each.attempt for each in found}


async def test_the_outlook_of_hundreds_of_groups_takes_a_few_script_calls(store: RedisStore, server: Server) -> None:
    readers = [Reader(stream, f"group-{number}", "worker-1") for stream in STREAMS for number in range(25)]
    await asyncio.gather(*(store.join(reader.stream, reader.group) for reader in readers))
    await store.outlook(readers)
    server.redis.config_resetstat()

    assert [IDLE] * 300 == await store.outlook(readers)

    assert calls(server, "evalsha") <= 2


async def test_the_outlook_of_a_cluster_is_that_of_each_stream(spread: RedisStore) -> None:
    await spread.append(STREAMS[2], [order()])
    await spread.schedule(STREAMS[5], [order()], delay=60)
    [held] = await spread.read(READERS[2], limit=1)

    found = await spread.outlook([*READERS, Reader(STREAMS[2], "billing", "worker-2")])

    assert [IDLE] * 5 == [each for number, each in enumerate(found[:6]) if number != 5]
    assert found[5] is not None
    assert 0 < (found[5].scheduled or 0) <= 60
    assert [Outlook(None, None, leased=True, unread=False)] == found[12:]
    assert [held] == await spread.extend([held])


async def test_a_key_that_is_something_else_stops_no_other_outlook(store: RedisStore, server: Server) -> None:
    server.redis.delete(f"events:{STREAMS[0]}")
    server.redis.set(f"events:{STREAMS[0]}", "text")
    server.redis.set(f"{{events:{STREAMS[1]}}}:waiting:billing", "text")
    server.redis.set(f"{{events:{STREAMS[2]}}}:scheduled", "text")
    server.redis.set(f"{{events:{STREAMS[3]}}}:clock", "text")

    found = await store.outlook(READERS)

    assert [None, *[IDLE] * 11] == found
    with pytest.raises(StoreDamaged):
        await store.read(READERS[0], limit=1)


async def test_the_outlook_notes_up_to_where_a_group_has_finished(
    store: RedisStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_SECONDS", 0.0)
    reader, key = READERS[0], f"{{events:{STREAMS[0]}}}:finished:billing"
    positions = await store.append(reader.stream, [order(number) for number in range(3)])
    first, second, third = await store.read(reader, limit=3)
    await store.ack([first, third])
    await store.outlook([reader])
    noted = server.redis.get(key).decode()
    assert positions[0] <= noted < positions[1]

    await store.ack([second])
    await store.outlook([reader])
    assert positions[2] == server.redis.get(key).decode()

    # Without progress there is nothing to note.
    server.redis.config_resetstat()
    await store.outlook([reader])
    assert 0 == calls(server, "set")
    assert 1 == calls(server, "evalsha")


async def test_the_names_of_streams_are_listed_without_looking_into_them(store: RedisStore, server: Server) -> None:
    await store.schedule("only_scheduled", [order()], delay=60)
    [position] = await store.append("only_dead", [order()])
    await store.join("only_dead", "billing")
    [dead] = await store.read(Reader("only_dead", "billing", "worker-1"), limit=1)
    await store.dead_letter(dead, reason="no")
    server.redis.delete("events:only_dead")
    await store.set_note("only_noted", "note", b"1")
    server.redis.set("events:counter", 7)
    server.redis.xadd("events:with a space", {"a": "b"})
    server.redis.xadd("other:stream", {"a": "b"})
    server.redis.config_resetstat()

    names = await store.streams()

    assert position == dead.position
    assert sorted([*STREAMS, "only_scheduled", "only_dead"]) == names
    assert 0 == calls(server, "evalsha")
    assert names == [stats.stream for stats in await store.stats()]


async def test_the_names_of_all_streams_of_a_cluster_are_listed(spread: RedisStore) -> None:
    assert STREAMS == await spread.streams()


async def test_entries_for_another_group_that_cannot_be_finished_now_are_passed_over_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[0]
    async with RedisStore(server.url) as store:
        await store.join(reader.stream, "billing")
        await store.append(reader.stream, [msgspec.structs.replace(order(1), only_group="mail"), order(2)])
        with monkeypatch.context() as patched:
            patched.setattr(scripts, "ack", refuse)
            assert [2] == [to_event(each.record).data for each in await store.read(reader, limit=10) if each.record]
        assert 2 == len(await store.pending(reader.stream, "billing"))

        claimed = await store.claim(reader, idle=0, limit=10)

        assert [2] == [to_event(each.record).data for each in claimed if each.record]
        assert 1 == len(await store.pending(reader.stream, "billing"))


async def refuse(*_: object, **__: object) -> int:
    raise StoreUnavailable("the connection was lost")
