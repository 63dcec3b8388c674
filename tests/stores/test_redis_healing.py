"""A store on Redis finds its server anew: by a stable name, past an odd sentinel, on a cluster that moves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis
import pytest
from redis.crc import key_slot

from forebay.errors import ConfigurationError, OutcomeUnknown, StoreDenied, StoreUnavailable
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.redis import RedisStore
from forebay.stores.redis.address import Address
from forebay.stores.redis.errors import TABLE, Fate, fate
from forebay.stores.redis.node import SingleFlight
from forebay.stores.redis.topology import Cluster
from tests.support.redis_servers import Proxy, Server, binaries, eventually, version
from tests.support.topologies import insist, make_cluster, replica_of

each_server = pytest.mark.parametrize("binary", binaries(), ids=version)

READER = Reader("order_placed", "billing", "worker")

FATES = {
    Fate.HEALABLE: ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "NOREPLICAS"],
    Fate.TRANSIENT: ["TRYAGAIN", "MOVED", "ASK", "BUSY", "MISCONF", "OOM", "ERR max number of clients reached"],
}


def order(number: int = 1) -> Record:
    return to_record("order_placed", source="shop", data={"order_id": number})


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


# What can be done about an error.


@pytest.mark.parametrize("word", TABLE)
def test_each_error_reply_is_transient_or_healed_or_ends_the_run(word: str) -> None:
    expected = next((each for each, words in FATES.items() if word in words), Fate.FATAL)

    plain = hiredis.ReplyError(f"{word} and so on")
    nested = hiredis.ReplyError(f"ERR Error running script (call to f_0): @user_script:1: {word} and")
    assert [expected, expected] == [fate(plain), fate(nested)]


def test_an_unknown_error_reply_ends_the_run() -> None:
    assert Fate.FATAL is fate(hiredis.ReplyError("ERR syntax error"))


# One server with a stable name.


@each_server
@pytest.mark.parametrize("move", ["one", "many", "script"])
async def test_at_a_stable_address_the_new_master_is_found_though_the_old_one_lives_on(
    started: list[Server], binary: str, tmp_path: Path, move: str
) -> None:
    """Row D3 of docs/faults.md."""
    old = Server(binary, tmp_path, "--repl-diskless-sync-delay", "0")
    started.append(old)
    new = replica_of(old, binary, tmp_path)
    started.append(new)
    moves: dict[str, Callable[[RedisStore], object]] = {
        "one": lambda store: store.append("order_placed", [order()]),
        "many": lambda store: store.append("order_placed", [order(), order()]),
        "script": lambda store: store.schedule("order_placed", [order()], delay=60),
    }
    proxy = Proxy(old.port)
    async with proxy.listen() as url, RedisStore(url) as store:
        await store.join("order_placed", "billing")
        assert [] == await store.read(READER, limit=1, wait=0.05)
        eventually(lambda: new.redis.exists("events:order_placed"), "the replica has not heard of the stream")
        new.redis.execute_command("REPLICAOF", "NO", "ONE")
        proxy.target = new.port
        old.redis.execute_command("REPLICAOF", "127.0.0.1", new.port)

        with pytest.raises(StoreUnavailable, match="READONLY"):
            await moves[move](store)  # type: ignore[misc]  # each returns an awaitable
        await moves[move](store)  # type: ignore[misc]  # each returns an awaitable
        await store.append("order_placed", [order(7)])

        # The connection of blocking reads has gone over too.
        assert await store.read(READER, limit=10, wait=1.0)
        eventually(lambda: not _ours(old), "connections to the old master are left")


@each_server
async def test_a_replica_that_has_lost_its_master_is_left_for_the_server_of_the_name(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    lost = Server(binary, tmp_path, "--replica-serve-stale-data", "no")
    other = Server(binary, tmp_path)
    started += [lost, other]
    proxy = Proxy(lost.port)
    async with proxy.listen() as url, RedisStore(url) as store:
        lost.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        proxy.target = other.port

        with pytest.raises(StoreUnavailable, match=r"MASTERDOWN|READONLY"):
            await store.append("order_placed", [order()])
        assert await store.append("order_placed", [order()])


def _ours(server: Server) -> list[str]:
    return [client["addr"] for client in server.redis.client_list() if client["name"] == "forebay"]


async def test_commands_in_flight_are_answered_when_a_node_reconnects(servers: dict[str, Server]) -> None:
    server = servers[binaries()[0]]
    async with RedisStore(server.url, namespace="anew") as store:
        await store.join("order_placed", "billing")
        [node] = store._client.topology.masters()
        reading = asyncio.create_task(store.read(READER, limit=1, wait=5.0))
        await asyncio.to_thread(
            eventually, lambda: server.redis.info("clients")["blocked_clients"], "it does not block"
        )
        appending = asyncio.create_task(store.append("order_placed", [order(1)]))
        await asyncio.sleep(0)

        node.renew()

        assert await appending
        assert 1 == len(await reading)
        assert await store.append("order_placed", [order(2)])
        assert [] == [wire for wire in node._retired if wire.is_connected]


async def test_a_server_that_vanished_is_noticed_by_a_blocking_read_too(servers: dict[str, Server]) -> None:
    proxy = Proxy(servers[binaries()[0]].port)
    async with proxy.listen() as url, RedisStore(f"{url}?timeout=0.4", namespace="vanished") as store:
        await store.join("order_placed", "billing")
        proxy.silent = True

        began = time.monotonic()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await store.read(READER, limit=1, wait=0.4)
        assert 0.4 <= time.monotonic() - began < 3.0

        proxy.silent = False
        assert [] == await insist(lambda: store.read(READER, limit=1, wait=0.05))


async def test_the_kernel_watches_over_connections_that_wait(servers: dict[str, Server]) -> None:
    async with RedisStore(f"{servers[binaries()[0]].url}?timeout=4") as store:
        [node] = store._client.topology.masters()
        assert node.wire is not None
        assert node.wire._transport is not None
        wire: socket.socket = node.wire._transport.get_extra_info("socket")

        assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert [2, 1, 2] == [
            wire.getsockopt(socket.IPPROTO_TCP, each)
            for each in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]


async def test_a_server_that_accepts_and_says_nothing_is_given_up_after_the_timeout_of_the_url() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    deaf = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = deaf.sockets[0].getsockname()[1]
    for url in (
        f"redis://127.0.0.1:{port}",
        f"redis+sentinel://127.0.0.1:{port}/m",
        f"redis+cluster://127.0.0.1:{port}",
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await RedisStore(f"{url}?timeout=0.2").__aenter__()
        assert time.monotonic() - began < 4.0
    deaf.close()


# One odd sentinel.


def _sentinel(binary: str, folder: Path, watched: Server | None) -> Server:
    watch = f"sentinel monitor main 127.0.0.1 {watched.port} 1\n" if watched else "# it watches nothing\n"
    return Server(binary, folder, config=watch)


@each_server
@pytest.mark.parametrize("oddity", ["knows nothing", "names a dead one", "names another one", "hangs", "is gone"])
async def test_one_odd_sentinel_is_put_aside_and_reported(
    started: list[Server], binary: str, tmp_path: Path, oddity: str, caplog: pytest.LogCaptureFixture
) -> None:
    master, other = Server(binary, tmp_path), Server(binary, tmp_path)
    started += [master, other]
    odd = _sentinel(binary, tmp_path, None if oddity == "knows nothing" else other)
    started.append(odd)
    sound = [_sentinel(binary, tmp_path, master) for _ in range(2)]
    started.extend(sound)
    match oddity:
        case "names a dead one":
            other.process.kill()
            other.process.wait()
        case "hangs":
            os.kill(odd.process.pid, signal.SIGSTOP)
        case "is gone":
            odd.process.kill()
            odd.process.wait()
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in (odd, *sound))

    with caplog.at_level(logging.WARNING, "forebay"):
        began = time.monotonic()
        async with RedisStore(f"redis+sentinel://{hosts}/main?timeout=3") as store:
            await store.append("order_placed", [order()])
            master.redis.client_kill_filter(_type="normal", skipme=True)
            await insist(lambda: store.append("order_placed", [order()]))

    assert time.monotonic() - began < 2.5
    assert 2 <= master.redis.xlen("events:order_placed")
    if oddity != "hangs":  # the others agree before it is missed
        assert any("put aside" in message and str(odd.port) in message for message in caplog.messages)


@each_server
async def test_a_minority_of_sentinels_is_not_believed_while_the_master_is_away(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    """Row D6 of docs/faults.md."""
    master, other = Server(binary, tmp_path), Server(binary, tmp_path)
    started += [master, other]
    sentinels = [_sentinel(binary, tmp_path, watched) for watched in (other, master, master)]
    started.extend(sentinels)
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    async with RedisStore(f"redis+sentinel://{hosts}/main?timeout=1") as store:
        master.process.kill()
        master.process.wait()
        for _ in range(3):
            with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                await store.append("order_placed", [order()])
        master.restart()
        assert await insist(lambda: store.append("order_placed", [order()]))

    assert 0 == other.redis.dbsize()


async def test_a_caller_that_waits_for_a_connection_of_a_closed_store_gets_an_error() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    attempt = SingleFlight(lambda: never)
    waiting = [asyncio.create_task(attempt.get()) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[1].cancel()

    await attempt.cancel()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [StoreUnavailable, asyncio.CancelledError] == [type(each) for each in outcomes]


@each_server
async def test_a_service_is_a_wrong_url_only_if_no_sentinel_knows_it(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    ignorant = [_sentinel(binary, tmp_path, None) for _ in range(2)]
    started.extend(ignorant)
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in ignorant)

    with pytest.raises(ConfigurationError, match="'main'"):
        await RedisStore(f"redis+sentinel://{hosts}/main").__aenter__()
    # One that cannot be asked may know.
    with pytest.raises(StoreUnavailable, match="watches no service"):
        await RedisStore(f"redis+sentinel://{hosts},127.0.0.1:1/main").__aenter__()


@each_server
async def test_a_master_that_was_known_is_waited_for_when_all_sentinels_have_forgotten_it(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    master = Server(binary, tmp_path)
    started.append(master)
    sentinel = _sentinel(binary, tmp_path, master)
    started.append(sentinel)
    async with RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as store:
        await store.append("order_placed", [order()])
        sentinel.redis.execute_command("SENTINEL", "REMOVE", "main")
        [node] = store._client.topology.masters()
        store._client.topology.invalidate(node)

        with pytest.raises(StoreUnavailable):
            await store.append("order_placed", [order()])
        sentinel.redis.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", master.port, 1)
        assert await store.append("order_placed", [order()])


# One odd node of a cluster.


@pytest.fixture(scope="module", params=binaries(), ids=version)
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    servers: list[Server] = []
    try:
        yield make_cluster(servers, request.param, tmp_path_factory.mktemp("cluster"))
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("oddity", ["is no cluster", "has left it", "hangs", "is gone"])
async def test_one_odd_seed_is_put_aside(
    started: list[Server], nodes: list[Server], tmp_path: Path, oddity: str
) -> None:
    options = ["--cluster-enabled", "yes"] if oddity == "has left it" else []
    odd = Server(binaries()[0], tmp_path, *options)
    started.append(odd)
    if oddity == "hangs":
        os.kill(odd.process.pid, signal.SIGSTOP)
    if oddity == "is gone":
        odd.process.kill()
        odd.process.wait()
    if oddity == "has left it":
        odd.redis.execute_command("CLUSTER", "ADDSLOTS", 1)

    began = time.monotonic()
    async with RedisStore(f"redis+cluster://127.0.0.1:{odd.port},127.0.0.1:{nodes[0].port}?timeout=3") as store:
        for number in range(12):
            await store.append(f"stream-{number}", [order()])
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("kind", ["hostname", "unknown-endpoint"])
async def test_nodes_that_have_no_name_are_found_by_their_addresses(nodes: list[Server], kind: str) -> None:
    for node in nodes:
        if node.redis.info("server")["redis_version"] < "7":
            pytest.skip("Redis before 7 always tells addresses")
        node.redis.config_set("cluster-preferred-endpoint-type", kind)
    try:
        async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}") as store:
            for number in range(12):
                await store.append(f"stream-{number}", [order()])
            # A node that serves it no more names the other one as "?:port", or ":port".
            topology = store._client.topology
            assert isinstance(topology, Cluster)
            slot = key_slot(b"events:stream-0")
            right = topology._slots[slot]
            topology._slots[slot] = next(node for node in topology.masters() if node is not right)
            assert await store.append("stream-0", [order()])
            assert right is topology._slots[slot]
    finally:
        for node in nodes:
            node.redis.config_set("cluster-preferred-endpoint-type", "ip")


async def test_a_node_without_a_distinct_address_is_an_error_that_names_the_settings(nodes: list[Server]) -> None:
    async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}") as store:
        topology = store._client.topology
        asked = topology.masters()[0]

        with pytest.raises(StoreUnavailable, match="cluster-announce-hostname"):
            await topology.redirect(Address("?", 1), 5, asked=asked, for_good=False)


async def test_a_node_whose_name_leads_nowhere_is_an_error_that_names_the_settings(nodes: list[Server]) -> None:
    async with RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}?timeout=1") as store:
        topology = store._client.topology
        assert isinstance(topology, Cluster)
        topology._slots = dict.fromkeys(range(16384), topology._nodes.at(Address("127.0.0.1", 1)))

        with pytest.raises(StoreUnavailable, match="cluster-announce-hostname"):
            await store.append("order_placed", [order()])
        assert await store.append("order_placed", [order()])


def test_a_refusal_by_all_is_a_refusal_and_one_by_some_is_not() -> None:
    from forebay.stores.redis.topology import _all_failed

    denied, away = StoreDenied("no"), StoreUnavailable("gone")
    assert StoreDenied is type(_all_failed("w", [denied, denied]))
    assert StoreUnavailable is type(_all_failed("w", [denied, away]))
