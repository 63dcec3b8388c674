"""The Redis store reports streams that grow, over lost connections, failovers and changes of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay.errors import ConfigurationError, StoreDenied, StoreError, StoreUnavailable
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.redis import RedisStore, arrivals
from tests.support.redis_rights import ROLES, let
from tests.support.redis_servers import Proxy, Server, binaries, eventually, version
from tests.support.topologies import insist, make_cluster, replica_of, watched

each_server = pytest.mark.parametrize("binary", binaries(), ids=version)

STREAM = "order_placed"
READER = Reader(STREAM, "billing", "worker-1")


def order(number: int = 1, id: str | None = None) -> Record:
    return to_record(STREAM, source="shop", data=number, id=id)


class Heard:
    """The items of one iteration, collected as they come."""

    def __init__(self, store: RedisStore) -> None:
        self.items: list[str | None] = []
        self._new = asyncio.Event()
        self._task = asyncio.create_task(self._listen(store))

    async def _listen(self, store: RedisStore) -> None:
        try:
            async with contextlib.aclosing(store.arrivals()) as arrivals:
                async for name in arrivals:
                    self.items.append(name)
                    self._new.set()
        finally:
            self._new.set()

    async def until(self, *expected: str | None) -> list[str | None]:
        """Wait until these have come, and take out everything."""
        async with asyncio.timeout(20):
            while not set(expected) <= set(self.items) and not self._task.done():
                self._new.clear()
                await self._new.wait()
        if self._task.done():
            self._task.result()
        items, self.items = self.items, []
        return items

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def error(self) -> BaseException | None:
        """The error that ended it."""
        await asyncio.wait([self._task], timeout=20)
        return self._task.exception()


@contextlib.asynccontextmanager
async def hearing(store: RedisStore) -> AsyncIterator[Heard]:
    heard = Heard(store)
    try:
        assert [None] == await heard.until(None)
        yield heard
    finally:
        await heard.end()


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


async def test_each_way_to_append_is_reported(server: Server) -> None:
    async with RedisStore(server.url) as store, RedisStore(server.url) as other, hearing(store) as heard:
        await other.append(STREAM, [order()])
        assert [STREAM] == await heard.until(STREAM)
        await other.append(STREAM, [order(), order()])
        assert {STREAM} == set(await heard.until(STREAM))
        await other.append(STREAM, [order(id="1")], dedup_window=60)
        assert [STREAM] == await heard.until(STREAM)
        await other.schedule(STREAM, [order()], delay=0)
        await other.append_due(STREAM)
        assert [STREAM] == await heard.until(STREAM)
        server.redis.xadd(f"events:{STREAM}", {"written": "by another program"})
        assert [STREAM] == await heard.until(STREAM)


async def test_an_append_of_this_store_object_is_reported_before_its_reply(server: Server) -> None:
    async with RedisStore(server.url) as store, hearing(store) as heard:
        server.redis.client_pause(60_000, all=False)
        append = asyncio.create_task(store.append(STREAM, [order()]))

        assert [STREAM] == await heard.until(STREAM)

        assert not append.done()
        server.redis.client_unpause()
        await append


async def test_reads_and_settlements_are_not_reported(server: Server) -> None:
    async with RedisStore(server.url) as store, RedisStore(server.url) as other:
        await store.join(STREAM, "billing")
        await store.append(STREAM, [order(number) for number in range(4)])
        async with hearing(store) as heard:
            done, failed, dead, given = await store.read(READER, limit=4)
            await store.extend([done])
            await store.ack([done], remember=60)
            await store.retry(failed, delay=0)
            await store.dead_letter(dead, reason="no")
            await store.release([given])
            await store.take_due(READER, limit=4)
            await store.claim(READER, idle=0)
            await store.set_note(STREAM, "note", b"1")
            await other.append("another", [order()])

            assert ["another"] == await heard.until("another")


async def test_streams_that_grow_together_come_without_a_turn_of_the_loop_between_them(server: Server) -> None:
    names = [f"stream-{number}" for number in range(20)]
    async with RedisStore(server.url) as store:
        arrivals = store.arrivals()
        assert await anext(arrivals) is None
        with server.redis.pipeline() as pipe:
            for name in names:
                pipe.xadd(f"events:{name}", {"a": "b"})
            pipe.execute()

        found = {await anext(arrivals)}
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        while len(found) < len(names):
            found.add(await anext(arrivals))

        assert set(names) == found
        assert not turned.is_set()
        await arrivals.aclose()


async def test_other_namespaces_and_keys_that_are_not_streams_of_forebay_are_left_out(server: Server) -> None:
    async with RedisStore(server.url) as store, hearing(store) as heard:
        server.redis.xadd("other:stream", {"a": "b"})
        server.redis.xadd("events:with a space", {"a": "b"})
        server.redis.xadd(b"events:\xff", {"a": "b"})
        server.redis.xadd("events:known", {"a": "b"})

        assert ["known"] == await heard.until("known")


async def test_an_emptied_database_may_have_changed_any_stream(server: Server) -> None:
    async with RedisStore(server.url) as store, hearing(store) as heard:
        server.redis.flushall()

        assert [None] == await heard.until(None)


async def test_a_lost_connection_is_made_again_and_any_stream_may_have_grown(server: Server) -> None:
    async with RedisStore(server.url) as store, hearing(store) as heard:
        server.redis.client_kill_filter(_type="pubsub", skipme=True)
        assert [None] == await heard.until(None)

        await insist(lambda: store.append(STREAM, [order()]))

        assert {STREAM} == set(await heard.until(STREAM))


async def test_a_server_that_falls_silent_is_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PING_SECONDS", 0.1)
    proxy = Proxy(server.port)
    async with proxy.listen() as url, RedisStore(f"{url}?timeout=0.4") as store, hearing(store) as heard:
        proxy.silent = True
        async with asyncio.timeout(20):
            while _watchers(server):
                await asyncio.sleep(0.05)  # the server ends the connection when its client does
        proxy.silent = False

        assert None in await heard.until(None)
        await insist(lambda: store.append(STREAM, [order()]))
        assert STREAM in await heard.until(STREAM)


async def test_the_end_of_the_iteration_closes_its_connection(server: Server) -> None:
    async with RedisStore(server.url) as store:
        async with hearing(store):
            assert 1 == len(_watchers(server))
        await asyncio.to_thread(eventually, lambda: not _watchers(server), "the connection is still there")
        assert await store.append(STREAM, [order()])


async def test_the_end_of_the_store_ends_the_iteration(server: Server) -> None:
    async with RedisStore(server.url) as store:
        heard = Heard(store)
        await heard.until(None)

    assert isinstance(await heard.error(), ConfigurationError)
    with pytest.raises(ConfigurationError, match="not open"):
        await anext(store.arrivals())


def _watchers(server: Server) -> list[str]:
    return [client["id"] for client in server.redis.client_list() if "t" in client["flags"]]


async def test_the_server_limits_its_buffer_for_a_stopped_process(server: Server) -> None:
    async with RedisStore(server.url) as store, hearing(store):
        # The limits of subscribers (client-output-buffer-limit pubsub) hold for it.
        assert ["P"] == [flag for client in server.redis.client_list() for flag in client["flags"] if flag == "P"]


async def test_a_right_that_is_missing_is_named(server: Server) -> None:
    rights = [right for right in ROLES["consumer"] if not right.startswith("+client")]
    async with RedisStore(let(server, *rights)) as store:
        with pytest.raises(StoreDenied, match=r"\+client\|tracking"):
            await anext(store.arrivals())


async def test_the_documented_rights_of_a_consumer_are_enough(server: Server) -> None:
    async with RedisStore(let(server, *ROLES["consumer"])) as store, hearing(store) as heard:
        server.redis.xadd(f"events:{STREAM}", {"a": "b"})

        assert [STREAM] == await heard.until(STREAM)


@each_server
async def test_a_server_without_client_tracking_cannot_be_watched(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    started.append(Server(binary, tmp_path, "--rename-command", "HELLO", ""))
    async with RedisStore(started[0].url) as store:
        with pytest.raises(StoreError, match="does not know client tracking") as error:
            await anext(store.arrivals())
        assert not isinstance(error.value, StoreUnavailable | StoreDenied)


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    server = Server(binaries()[0], tmp_path)
    async with RedisStore(server.url) as store:
        server.stop()
        with pytest.raises(StoreUnavailable):
            await anext(store.arrivals())


@each_server
async def test_at_a_stable_address_the_new_master_is_watched(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    old = Server(binary, tmp_path, "--repl-diskless-sync-delay", "0")
    started.append(old)
    new = replica_of(old, binary, tmp_path)
    started.append(new)
    proxy = Proxy(old.port)
    async with proxy.listen() as url, RedisStore(url) as store:
        await store.join(STREAM, "billing")
        async with hearing(store) as heard:
            eventually(lambda: new.redis.exists(f"events:{STREAM}"), "the replica has not heard of the stream")
            new.redis.execute_command("REPLICAOF", "NO", "ONE")
            proxy.target = new.port
            old.redis.execute_command("REPLICAOF", "127.0.0.1", new.port)

            # A process that only consumes learns of it by its outlook.
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await store.outlook([READER])

            assert [None] == await heard.until(None)
            new.redis.xadd(f"events:{STREAM}", {"a": "b"})
            assert [STREAM] == await heard.until(STREAM)


@each_server
async def test_after_a_failover_by_sentinel_the_new_master_is_watched(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    master, replica, sentinel = watched(started, binary, tmp_path)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
    async with RedisStore(url, timeout=1.0) as store, hearing(store) as heard:
        master.stop()

        assert None in await heard.until(None)
        replica.redis.xadd(f"events:{STREAM}", {"a": "b"})
        assert STREAM in await heard.until(STREAM)


@each_server
async def test_every_master_of_a_cluster_is_watched_and_a_new_one_too(
    started: list[Server], binary: str, tmp_path: Path
) -> None:
    nodes = make_cluster(started, binary, tmp_path)
    names = [f"stream-{number}" for number in range(12)]
    url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    async with RedisStore(url) as store, RedisStore(url) as other, hearing(store) as heard:
        for name in names:
            await other.append(name, [order()])
        assert set(names) == set(await heard.until(*names))

        # A master joins and takes over a stream.
        new = Server(binary, tmp_path, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        started.append(new)
        new.redis.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        everybody = [*nodes, new]
        for node in everybody:
            eventually(lambda node=node: len(_known(node)) == 4, "the master does not join")  # type: ignore[misc]  # bound in the loop
        slot = nodes[0].redis.execute_command("CLUSTER", "KEYSLOT", f"events:{names[0]}")
        old = next(node for node in nodes if node.redis.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))
        old.redis.delete(f"events:{names[0]}")
        mine = new.redis.execute_command("CLUSTER", "MYID")
        for node in everybody:
            node.redis.execute_command("CLUSTER", "SETSLOT", slot, "NODE", mine)
        await insist(lambda: store.append(names[0], [order()]))

        async with asyncio.timeout(20):
            while not _watchers(new):
                await asyncio.sleep(0.05)  # another server's connections can only be polled
        await insist(lambda: other.append(names[0], [order()]))
        assert names[0] in await heard.until(None, names[0])


def _known(node: Server) -> list[str]:
    reply = node.redis.execute_command("CLUSTER", "NODES", NEVER_DECODE=True)
    return list(reply if isinstance(reply, dict) else reply.splitlines())
