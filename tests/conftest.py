"""Real stores for tests: a file, and each server that this machine has."""

from __future__ import annotations

import gc
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay import EventBus
from tests.support.redis_servers import Server
from tests.support.stores import SERVERS, store_name, url_of


def pytest_configure() -> None:
    """Give signals their usual actions: under nohup, or in the background of a script, some are ignored.

    An ignored signal stays ignored in forebay, and in the processes that the tests start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Thousands of collected tests are there to the end: no search for garbage is to go through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that does not exist yet."""
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """All servers present, by their binary; each is started when it is first asked for."""
    running = _Running(tmp_path_factory)
    yield running
    for each in running.values():
        each.stop()


class _Running(dict[str, Server]):
    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._folders = folders

    def __missing__(self, binary: str) -> Server:
        self[binary] = Server(binary, self._folders.mktemp("server"))
        return self[binary]


@pytest.fixture(params=["sqlite", *SERVERS], ids=store_name)
def durable_url(request: pytest.FixtureRequest) -> str:
    """A store that several processes share."""
    return url_of(request)


@pytest.fixture(params=["memory", "sqlite", *SERVERS], ids=store_name)
async def bus(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[EventBus]:
    """An open bus on each store."""
    url = "memory://" if request.param == "memory" else url_of(request)
    async with EventBus(url, namespace=namespace) as open_bus:
        yield open_bus
