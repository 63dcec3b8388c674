"""A follower of a stream goes on over an outage of its store, after the last event that it has seen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from forebay import Event, EventBus, StoreDenied, StoreError, StoreFull, StoreUnavailable, replay
from forebay.errors import ConfigurationError, OutcomeUnknown
from forebay.event import to_record
from forebay.signals import LoopFailed, LoopRecovered
from forebay.store import Store
from forebay.stores.memory import MemoryStore
from forebay.stores.redis import RedisStore
from forebay.stores.sqlite import SQLiteStore
from forebay.testing import eventually
from forebay.testing.faulty import FaultyStore
from forebay.transfer import copy, verify
from tests.support.redis_servers import Server, binaries, version


@contextlib.asynccontextmanager
async def following(bus: EventBus, **options: Any) -> AsyncIterator[list[object]]:
    """The data of the events of `t` that a follower has seen so far."""
    seen: list[object] = []

    async def follow() -> None:
        async for event in bus.events("t", follow=True, **options):
            assert isinstance(event, Event)
            seen.append(event.data)

    follower = asyncio.create_task(follow())
    try:
        yield seen
        assert not follower.done()
    finally:
        follower.cancel()
        await asyncio.wait([follower])


@pytest.mark.parametrize("binary", binaries(), ids=version)
async def test_a_follower_goes_on_over_restarts_of_its_server(binary: str, tmp_path: Path) -> None:
    server = Server(binary, tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    outages: list[StoreError | None] = []
    try:
        async with EventBus(server.url) as bus, following(bus, on_outage=outages.append) as seen:
            for number in range(3):
                await bus.publish("t", "s", number)
                await eventually(lambda number=number: number in seen)
                server.process.kill()
                server.process.wait()
                await eventually(lambda number=number: len(outages) == 2 * number + 1)
                server.restart()
                await eventually(lambda number=number: len(outages) == 2 * number + 2, within=20)
            await bus.publish("t", "s", 3)
            await eventually(lambda: 3 in seen)
    finally:
        server.stop()

    assert [0, 1, 2, 3] == seen
    assert [True, False] * 3 == [outage is not None for outage in outages]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OutcomeUnknown("lost"), StoreFull("full")], ids=str)
async def test_a_follower_waits_out_each_transient_error_and_logs_it_in_two_lines(
    error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryStore())
    failures: list[LoopFailed] = []
    recoveries: list[LoopRecovered] = []
    caplog.set_level(logging.WARNING, "forebay")
    async with EventBus(store) as bus:
        bus.signals.listen(failures.append, LoopFailed)
        bus.signals.listen(recoveries.append, LoopRecovered)
        await bus.publish("t", "s", 1)
        store.fail_before("scan", error, times=3)
        async with following(bus, newest=5) as seen:
            await eventually(lambda: 1 in seen)
            store.fail_before("scan", error, times=2)
            await bus.publish("t", "s", 2)
            await eventually(lambda: 2 in seen)

    assert [1, 2] == seen
    assert [("follow", "t", error)] * 5 == [(each.loop, each.stream, each.error) for each in failures]
    assert [LoopRecovered("follow", "t", "*")] * 2 == recoveries
    assert 4 == len(caplog.messages)


async def test_a_follower_waits_out_an_outage_in_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(replay, "FOLLOW", 0.001)
    store = FaultyStore(MemoryStore())
    outages: list[StoreError | None] = []
    async with EventBus(store) as bus, following(bus, start="latest", on_outage=outages.append) as seen:
        for number in range(12):
            # Each read of new events is followed by one of passed events: every second outage meets the other.
            store.fail_before("scan")
            await eventually(lambda number=number: len(outages) >= 2 * number + 2)
            await bus.publish("t", "s", number)
            await eventually(lambda number=number: number in seen)

    assert list(range(12)) == seen


async def test_a_permanent_error_ends_a_follower_and_a_single_read_raises_every_error() -> None:
    store = FaultyStore(MemoryStore())
    async with EventBus(store) as bus:
        for error, follow in ((StoreDenied("no"), True), (StoreUnavailable("away"), False)):
            store.fail_before("scan", error)
            with pytest.raises(type(error)):
                async for _ in bus.events("t", follow=follow):
                    pass


async def test_a_listener_of_outages_that_is_a_generator_is_refused() -> None:
    def listener(error: object) -> Any:
        yield error

    async with EventBus("memory://") as bus:
        with pytest.raises(ConfigurationError, match="generator"):
            await anext(bus.events("t", follow=True, on_outage=listener))


@pytest.mark.parametrize("which", ["source", "target"])
async def test_a_copy_that_follows_goes_on_over_a_restart_of_either_server(which: str, tmp_path: Path) -> None:
    server = Server(binaries()[0], tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    file, redis = SQLiteStore(tmp_path / "events.db"), RedisStore(f"{server.url}?timeout=1")
    source, target = (redis, file) if which == "source" else (file, redis)
    outages: list[StoreError | None] = []
    switch = asyncio.Event()
    try:
        async with source, target:
            await _append(source, 0)
            copying = asyncio.create_task(copy(source, target, origin="it", switch=switch, on_outage=outages.append))
            await eventually(lambda: _has(target, 50), within=20)
            server.process.kill()
            server.process.wait()
            if which == "target":
                await _append(source, 50)
            await eventually(lambda: len(outages) == 1, within=20)
            server.restart()
            await eventually(lambda: len(outages) == 2, within=20)
            await _append(source, 100)
            await eventually(lambda: _has(target, 150 if which == "target" else 100), within=20)
            switch.set()
            await copying
            assert [()] == [tuple(each.different) for each in await verify(source, target)]
    finally:
        server.stop()


async def _append(store: Store, first: int) -> None:
    await store.append("t", [to_record("t", source="s", data=number) for number in range(first, first + 50)])


async def _has(store: Store, count: int) -> bool:
    return [count] == [stats.length for stats in await store.stats(["t"])]
