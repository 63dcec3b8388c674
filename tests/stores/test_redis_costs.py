"""Looks that change nothing cost a server the same, however many entries wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from forebay.event import to_record
from forebay.store import Reader
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, version
from tests.support.stores import SERVERS

STREAM = "order_placed"
GROUP = "billing"
READER = Reader(STREAM, GROUP, "worker-1")
ORDERED = Reader(STREAM, GROUP, "worker-1", ordered=True)
WAITING = 100_000
FAR = 9e12

LOOKS: dict[str, Callable[[RedisStore], Awaitable[object]]] = {
    "stats": lambda store: store.stats([STREAM]),
    "a trim that removes nothing": lambda store: store.trim(STREAM, max_length=1),
    "a trim that has nothing to remove": lambda store: store.trim(STREAM, max_length=WAITING, max_age=3600),
    "append_due": lambda store: store.append_due(STREAM),
    "outlook": lambda store: store.outlook([READER, ORDERED]),
    "take_due": lambda store: store.take_due(READER, limit=100),
    "due in order": lambda store: store.take_due(ORDERED, limit=100),
    "claim": lambda store: store.claim(READER, idle=1),
    "claim in order": lambda store: store.claim(ORDERED, idle=1),
    "read in order": lambda store: store.read(ORDERED, limit=10),
    "trimmed_unread": lambda store: store.trimmed_unread(STREAM, GROUP),
    "pending": lambda store: store.pending(STREAM, GROUP, limit=3),
}


@pytest.fixture(params=SERVERS, ids=version)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path)
    yield server
    server.stop()


async def test_no_look_goes_through_all_that_waits(server: Server) -> None:
    async with RedisStore(server.url, timeout=30) as store:
        await store.join(STREAM, GROUP)
        record = to_record(STREAM, source="shop", data=1)
        positions = [each for _ in range(WAITING // 1000) for each in await store.append(STREAM, [record] * 1000)]
        server.redis.xgroup_setid(f"events:{STREAM}", GROUP, positions[-1])
        for start in range(0, WAITING, 1000):
            some = dict.fromkeys(positions[start : start + 1000], FAR - start)
            server.redis.zadd(f"{{events:{STREAM}}}:waiting:{GROUP}", some)
        for look in LOOKS.values():
            await look(store)  # the first one sends the script
        assert positions[:3] == [each.position for each in await store.pending(STREAM, GROUP, limit=3)]

        # The server's own count, as the machine may be busy with other things.
        most = {}
        for name, look in LOOKS.items():
            server.redis.config_resetstat()
            await look(store)
            found = server.redis.info("commandstats")
            most[name] = max(each["usec_per_call"] for key, each in found.items() if key.startswith(SOURCES))

    assert {} == {name: spent for name, spent in most.items() if spent > 25_000}


SOURCES = ("cmdstat_evalsha", "cmdstat_zscan")
"""The commands of the polls; a script runs parts of these."""
