"""Fixtures for tests of one store: a server of each binary, emptied for each test, and the path of a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_servers import Server, binaries, version


@pytest.fixture(scope="module", params=binaries(), ids=version)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(request.param, tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    running.redis.flushall()
    return running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"
