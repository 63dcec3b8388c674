"""Real stores for tests: a file, and each server that this machine has."""

from __future__ import annotations

import gc
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from forebay import EventBus
from tests.stores.redis_servers import Server, binaries, version


def pytest_configure() -> None:
    """Give signals their usual actions: under nohup, or in the background of a script, some are ignored.

    What is ignored stays ignored in forebay, and in the processes that the tests start.
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


SERVERS: list[Any] = [
    pytest.param(binary, marks=[pytest.mark.slow] if number else []) for number, binary in enumerate(binaries())
]
"""The servers present: on the others than the first the contract suite runs, and `make slow`."""


def _name(param: str) -> str:
    return param if "/" not in param else version(param)


def dealt(name: str, *values: Any, ids: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Parametrize `bus` and `name` together: each store and each value is met, in as few tests as that takes."""
    stores = ["memory", "sqlite", binaries()[0]]
    count = max(len(stores), len(values))
    names = ids or [str(value) for value in values]
    hands = [(stores[each % len(stores)], values[each % len(values)]) for each in range(count)]
    return pytest.mark.parametrize(
        ("bus", name),
        hands,
        indirect=["bus"],
        ids=[f"{_name(store)}-{names[each % len(values)]}" for each, (store, _) in enumerate(hands)],
    )


def _durable(request: pytest.FixtureRequest) -> str:
    """The URL of the store that a parameter names: "sqlite", or a server's binary."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("servers")[request.param].url)


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


@pytest.fixture(params=["sqlite", *SERVERS], ids=_name)
def durable_url(request: pytest.FixtureRequest) -> str:
    """A store that several processes share."""
    return _durable(request)


@pytest.fixture(params=["memory", "sqlite", *SERVERS], ids=_name)
async def bus(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[EventBus]:
    """An open bus on each store."""
    url = "memory://" if request.param == "memory" else _durable(request)
    async with EventBus(url, namespace=namespace) as open_bus:
        yield open_bus
