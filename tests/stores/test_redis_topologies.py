"""The Redis store with Sentinel and on a cluster: it follows the streams to the servers that have them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from forebay.errors import ConfigurationError, NotFound, OutcomeUnknown, StoreUnavailable
from forebay.event import Record, to_event, to_record
from forebay.store import Reader
from forebay.stores.memory import MemoryStore
from forebay.stores.redis import RedisStore
from forebay.transfer import copy
from tests.support.contents import contents, fill
from tests.support.redis_servers import Server, binaries, eventually, version
from tests.support.topologies import LAST_OF_FIRST, insist, make_cluster, watched

each_server = pytest.mark.parametrize("binary", binaries(), ids=version)


def order(number: int = 1) -> Record:
    return to_record("order_placed", source="shop", data={"order_id": number})


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


# Sentinel.


@each_server
async def test_after_a_failover_the_store_goes_on_with_the_new_master(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    """Row D1 of docs/faults.md."""
    master, replica, sentinel = watched(started, binary, tmp_path)
    async with RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", timeout=1.0) as store:
        reader = Reader("order_placed", "billing", "worker")
        await store.join("order_placed", "billing")
        await store.append("order_placed", [order(n) for n in range(10)])
        deliveries = await store.read(reader, limit=4, wait=0.1)
        eventually(lambda: _leases_at(replica) == [4], "the replica has not heard of the leases")

        master.stop()
        await insist(lambda: store.append("order_placed", [order(10)]))

        assert 4 == await insist(lambda: store.ack(deliveries))
        rest = await insist(lambda: store.read(reader, limit=50, wait=0.1))
        numbers = [to_event(delivery.record).data["order_id"] for delivery in rest if delivery.record]
        assert list(range(4, 11)) == sorted(set(numbers))


@each_server
async def test_a_service_that_no_sentinel_watches_is_a_wrong_url(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    *_, sentinel = watched(started, binary, tmp_path)

    with pytest.raises(ConfigurationError, match="'elsewhere'"):
        async with RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/elsewhere"):
            pass


def _leases_at(server: Server) -> list[int]:
    key = "events:order_placed"
    return [group["pending"] for group in server.redis.xinfo_groups(key)] if server.redis.exists(key) else []


# Cluster.


@pytest.fixture(scope="module", params=binaries(), ids=version)
def formed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    servers: list[Server] = []
    try:
        yield make_cluster(servers, request.param, tmp_path_factory.mktemp("cluster"))
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def nodes(formed: list[Server]) -> list[Server]:
    for node in formed:
        node.redis.flushall()
    return formed


async def test_streams_are_spread_over_a_cluster_and_every_move_works_on_each(nodes: list[Server]) -> None:
    """Row D12 of docs/faults.md."""
    streams = [f"stream-{n}" for n in range(12)]
    async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}") as store:
        for stream in streams:
            reader = Reader(stream, "billing", "worker")
            await store.join(stream, "billing")
            await store.append(stream, [order(n) for n in range(4)], dedup_window=60)
            done, failed, dead, kept = await store.read(reader, limit=10, wait=0.1)
            await store.ack([done], remember=60)
            await store.retry(failed, delay=0)
            await store.dead_letter(dead, reason="no")
            assert [kept] == await store.extend([kept])
            assert [2] == [delivery.attempt for delivery in await store.take_due(reader, limit=10)]
            assert 1 == await store.redrive(stream, [letter.id for letter in await store.dead_letters(stream)])
            await store.schedule(stream, [order(9)], delay=60)

        everything = await store.stats()
        assert sorted(streams) == [stats.stream for stats in everything]
        assert {(5, 1, 2, 1)} == {
            (stats.length, stats.scheduled, stats.groups[0].pending, stats.groups[0].lag) for stats in everything
        }
        assert "lost" == (await store.durability()).store_killed
    assert all(node.redis.dbsize() for node in nodes)


async def test_a_store_is_copied_onto_a_cluster_and_back(nodes: list[Server]) -> None:
    async with MemoryStore() as source, MemoryStore() as back:
        await fill(source, events=200, pending=10, dead=4)
        for number in range(12):
            await source.append(f"stream-{number}", [order(number)])

        async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}") as between:
            await copy(source, between, origin="memory")
            await copy(between, back, origin="cluster")

        assert await contents(source) == await contents(back)


async def test_a_stream_that_moves_to_another_node_is_followed(nodes: list[Server]) -> None:
    """Row D10 of docs/faults.md."""
    stream, key = "order_placed", "events:order_placed"
    reader = Reader(stream, "billing", "worker")
    async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}") as store:
        await store.join(stream, "billing")
        await store.append(stream, [order(n) for n in range(3)], dedup_window=60)
        [held] = await store.read(reader, limit=1)
        slot = key_slot(key.encode())
        source = next(node for node in nodes if node.redis.dbsize())
        target = next(node for node in nodes if node is not source)
        ids = {node: node.redis.execute_command("CLUSTER", "MYID") for node in nodes}

        target.redis.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.redis.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        keys = source.redis.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        source.redis.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        await store.append(stream, [order(3)])
        await store.append(stream, [order(4), order(5)], dedup_window=60)
        during = await store.read(reader, limit=2, wait=0.1)
        for node in nodes:
            node.redis.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        await store.append(stream, [order(6)])
        after = await store.read(reader, limit=10, wait=0.1)

        assert 7 == await store.ack([held, *during, *after])
        assert 0 == source.redis.dbsize()


@each_server
async def test_a_lost_master_takes_only_its_own_streams_along(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    """Rows D8, D11 of docs/faults.md."""
    nodes = make_cluster(started, binary, tmp_path, "--cluster-require-full-coverage", "no")
    streams = [f"stream-{n}" for n in range(12)]
    async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}", timeout=1.0) as store:
        for stream in streams:
            await store.append(stream, [order()])
        mine = {stream for stream in streams if key_slot(f"events:{stream}".encode()) <= LAST_OF_FIRST}

        nodes[0].stop()

        for stream in streams:
            if stream in mine:
                with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                    await store.append(stream, [order()])
            else:
                assert await insist(lambda stream=stream: store.append(stream, [order()]))  # type: ignore[misc]  # bound in the loop


async def test_a_cluster_is_not_mistaken_for_one_server(nodes: list[Server]) -> None:
    async with RedisStore(nodes[0].url) as store:
        appends = (store.append(f"stream-{n}", [order()]) for n in range(12))
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await asyncio.gather(*appends)


@each_server
async def test_one_server_is_not_mistaken_for_a_cluster(started: list[Server], binary: str, tmp_path: Path) -> None:
    started.append(Server(binary, tmp_path))

    with pytest.raises((StoreUnavailable, NotFound), match="cluster support disabled"):
        async with RedisStore(f"redis+cluster://127.0.0.1:{started[0].port}"):
            pass
