"""The contract suite on every store, and on every server this machine has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from forebay.stores.memory import MemoryStore
from forebay.stores.redis import RedisStore
from forebay.stores.sqlite import SQLiteStore
from forebay.testing.contract import Fields, Plant, StoreContract
from forebay.testing.contract.trimmed_unread import TrimmedUnreadContract
from tests.support import foreign
from tests.support.redis_servers import Server, binaries, version


class TestMemory(StoreContract):
    @pytest.fixture
    def survives(self) -> tuple[str, str, str]:
        return "lost", "lost", "lost"

    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        async with MemoryStore() as store:
            yield store

    @pytest.fixture
    def plant(self, store: MemoryStore) -> Plant:
        async def plant(stream: str, fields: Fields) -> None:
            await foreign.plant(store, stream, fields)

        return plant


class TestSQLite(StoreContract):
    @pytest.fixture
    def survives(self) -> tuple[str, str, str]:
        return "kept", "kept", "at risk"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
        async with SQLiteStore(tmp_path / "events.db", synchronous="normal") as store:
            yield store

    @pytest.fixture
    def plant(self, store: SQLiteStore) -> Plant:
        async def plant(stream: str, fields: Fields) -> None:
            await store.append(stream, [])
            columns = ", ".join(name.decode() for name, _ in fields)
            marks = ", ".join("?" for _ in fields)
            connection = apsw.Connection(str(store.path))
            connection.set_busy_timeout(5000)
            try:
                connection.execute("INSERT OR IGNORE INTO streams (namespace, name) VALUES ('events', ?)", (stream,))
                connection.execute(
                    f"INSERT INTO entries (stream_id, {columns}) SELECT id, {marks} FROM streams WHERE name = ?",
                    (*(value for _, value in fields), stream),
                )
            finally:
                connection.close()

        return plant


@pytest.mark.parametrize("binary", binaries(), ids=version)
class TestRedis(StoreContract):
    @pytest.fixture
    def server(self, servers: dict[str, Server], binary: str) -> Server:
        return servers[binary]

    @pytest.fixture
    def counts_trimmed_unread(self, server: Server) -> bool:
        # Redis before 7 does not count the entries that were added to a stream.
        return not str(server.redis.info("server")["redis_version"]).startswith("6.")

    @pytest.fixture(autouse=True)
    def counting(self, counts_trimmed_unread: bool, request: pytest.FixtureRequest) -> None:
        if not counts_trimmed_unread and request.function.__qualname__.startswith(TrimmedUnreadContract.__name__):
            pytest.skip("this server does not count the entries that were trimmed unread")

    @pytest.fixture
    def survives(self) -> tuple[str, str, str]:
        return "kept", "lost", "lost"

    @pytest.fixture
    async def store(self, server: Server, namespace: str) -> AsyncIterator[RedisStore]:
        async with RedisStore(server.url, namespace=namespace) as store:
            yield store

    @pytest.fixture
    def plant(self, server: Server, namespace: str) -> Plant:
        async def plant(stream: str, fields: Fields) -> None:
            parts = [part for pair in fields for part in pair]
            server.redis.execute_command("XADD", f"{namespace}:{stream}", "*", *parts)

        return plant
