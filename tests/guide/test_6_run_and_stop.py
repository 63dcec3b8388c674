"""Run: stop, grace, leases and the sign of life."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import Any

from forebay import Event, EventBus
from forebay.signals import LeaseLost
from forebay.testing import eventually


async def test_stop_finishes_running_handlers_and_releases_the_other_deliveries_uncharged(bus: EventBus) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    done: list[int] = []

    @bus.on("t", group="g", concurrency=1, prefetch=10)
    async def handle(event: Event) -> None:
        begun.set()
        await go.wait()
        done.append(event.data)

    await bus.publish_many("t", source="s", data=range(10))
    run = asyncio.create_task(bus.run())
    await begun.wait()
    bus.stop()
    await asyncio.sleep(0)
    go.set()
    await run

    assert [0] == done
    assert all(p.consumer is None and p.attempt == 0 for p in await bus.pending("t", "g"))
    await bus.run(until_idle=True)
    assert sorted(range(10)) == sorted(done)


async def test_a_handler_past_its_grace_is_cancelled_and_its_event_released(bus: EventBus) -> None:
    begun = asyncio.Event()
    attempts: list[int] = []
    patient = True

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        begun.set()
        if patient:
            await asyncio.Event().wait()

    await bus.publish("t", source="s")
    run = asyncio.create_task(bus.run(grace=0.05))
    await begun.wait()
    bus.stop()
    await run
    patient = False
    await bus.run(until_idle=True)

    assert [1, 1] == attempts


async def test_a_handler_that_blocks_the_loop_keeps_its_lease(bus: EventBus) -> None:
    blocked, stop = threading.Event(), threading.Event()
    calls: list[int] = []
    stolen: list[int] = []
    lost: list[Any] = []
    bus.signals.listen(lost.append, LeaseLost)

    @bus.on("t", group="g", lease=0.4)
    async def handle(event: Event) -> None:
        calls.append(event.attempt)
        blocked.set()
        time.sleep(1.6)  # noqa: ASYNC251  # blocking the loop is the point

    async def rival() -> None:
        async def steal(event: Event) -> None:
            stolen.append(event.attempt)

        async with EventBus(bus.store.clone()) as other:
            await asyncio.to_thread(blocked.wait)
            consumer = other.subscribe_to_stream("t", "g", lease=0.4)
            task = asyncio.create_task(consumer.consume_events(steal))
            await asyncio.to_thread(stop.wait)
            other.stop()
            await task

    thread = threading.Thread(target=asyncio.run, args=(rival(),))
    thread.start()
    await bus.publish("t", source="s")
    await bus.run(until_idle=True)
    stop.set()
    await asyncio.to_thread(thread.join)

    assert [1] == calls
    assert [] == stolen
    assert [] == lost


async def test_the_sign_of_life_moves_while_a_bus_runs(bus: EventBus) -> None:
    bus.on("t")(functools.partial(_note, []))
    assert bus.last_read is None

    run = asyncio.create_task(bus.run())
    await eventually(lambda: bus.last_read is not None)
    first = bus.last_read
    await eventually(lambda: bus.last_read is not None and first is not None and bus.last_read > first)
    bus.stop()
    await run


async def _note(seen: list[int], event: Event) -> None:
    seen.append(event.data)
