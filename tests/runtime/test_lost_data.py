"""A store that lost its data, and gives later entries earlier positions: nothing published since is passed over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from forebay import Event, EventBus, TransferRefused
from forebay.signals import GroupCreated
from forebay.stores.memory import MemoryStore
from forebay.testing import eventually
from forebay.transfer.copy import copy
from tests.support.clocks import WallClock
from tests.support.redis_servers import Server, binaries, version


async def test_a_consumer_handles_all_that_came_since_its_stream_was_lost(bus: EventBus) -> None:
    seen: list[int] = []

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        seen.append(event.data)

    recreated: list[GroupCreated] = []
    bus.signals.listen(recreated.append, GroupCreated)
    run = asyncio.create_task(bus.run())
    await bus.publish_many("t", "s", range(20))
    await eventually(lambda: len(seen) == 20)

    await bus.store.drop("t")
    await bus.publish_many("t", "s", range(100, 105))

    await eventually(lambda: set(seen) == {*range(20), *range(100, 105)})
    assert [False, True] == [signal.recreated for signal in recreated]
    bus.stop()
    await run


@pytest.mark.parametrize("start", ["latest", "earliest"])
async def test_a_follower_sees_all_that_came_since_the_stream_was_lost(bus: EventBus, start: str) -> None:
    seen: list[object] = []

    async def follow() -> None:
        async for event in bus.events("t", start=start, follow=True):
            assert isinstance(event, Event)
            seen.append(event.data)

    await bus.publish_many("t", "s", range(3))
    following = asyncio.create_task(follow())

    async def sees_a_new_one() -> bool:
        await bus.publish("t", "s", "before")
        return "before" in seen

    # The follower has found its start.
    await eventually(sees_a_new_one)
    await bus.store.drop("t")
    await bus.publish("t", "s", "new")

    await eventually(lambda: "new" in seen)
    following.cancel()


async def test_a_follower_continues_after_the_remaining_events_of_a_stream_that_lost_its_newest() -> None:
    store = MemoryStore()
    async with EventBus(store) as bus:
        seen: list[object] = []

        async def follow() -> None:
            async for event in bus.events("t", follow=True):
                assert isinstance(event, Event)
                seen.append(event.data)

        await bus.publish_many("t", "s", range(6))
        following = asyncio.create_task(follow())
        await eventually(lambda: len(seen) == 6)
        entries = await store.scan("t")
        # As a server that begins anew with an older snapshot.
        await store.drop("t")
        await store.restore("t", entries[:3])

        await asyncio.sleep(0)
        await eventually(lambda: _published(bus, seen))
        following.cancel()
        assert [0, 1, 2, 3, 4, 5] == seen[:6]
        assert seen.count(2) == 1


async def _published(bus: EventBus, seen: list[object]) -> bool:
    if len(await bus.store.scan("t")) == 3:
        await bus.publish("t", "s", "new")
    return "new" in seen


async def test_a_copy_does_not_continue_from_a_source_that_lost_the_copied_events() -> None:
    source, target = MemoryStore(), MemoryStore()
    async with EventBus(source) as bus, target:
        await bus.publish_many("t", "s", range(5))
        switch = asyncio.Event()
        copying = asyncio.create_task(copy(source, target, origin="here", switch=switch))
        await eventually(lambda: _has(target, 5))
        await source.drop("t")
        await bus.publish("t", "s", "new")
        switch.set()

        with pytest.raises(TransferRefused, match="has lost events since"):
            await copying


async def _has(store: MemoryStore, count: int) -> bool:
    return count == len(await store.scan("t"))


@pytest.mark.parametrize("binary", binaries(), ids=version)
async def test_a_server_that_restarts_with_a_slow_clock_loses_no_later_event(binary: str, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    server = Server(binary, tmp_path, environment=clock.environment)
    seen: list[int] = []
    followed: list[int] = []

    async def follow(bus: EventBus) -> None:
        async for event in bus.events("t", follow=True):
            assert isinstance(event, Event)
            followed.append(event.data)

    try:
        async with EventBus(server.url) as bus:
            bus.on("t", group="g", lease=2)(lambda event: seen.append(event.data))
            run, following = asyncio.create_task(bus.run()), asyncio.create_task(follow(bus))
            await bus.publish_many("t", "s", range(10))
            await eventually(lambda: len(seen) == len(followed) == 10)

            server.redis.flushall()
            clock.shift(-3600)
            await bus.publish_many("t", "s", range(100, 110))

            await eventually(lambda: set(range(100, 110)) <= set(seen))
            await eventually(lambda: set(range(100, 110)) <= set(followed))
            following.cancel()
            bus.stop()
            await run
    finally:
        server.stop()
