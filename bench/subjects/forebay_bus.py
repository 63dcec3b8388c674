"""forebay on any store: the speed and the cost of publish, handle and wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.samples import sampled
from bench.subject import DATA, SOURCE, TYPE, Options, main

from forebay import Event, EventBus, StoreError

GROUP = "bench"
AT_ONCE = 1000


async def publish(options: Options) -> float:
    """Events a second, from so many tasks that each await their own event."""
    async with EventBus(options.url) as bus:
        await bus.publish(TYPE, SOURCE, DATA)
        return await rate_of_publishing(bus, options.events, options.tasks)


async def rate_of_publishing(bus: EventBus, events: int, tasks: int) -> float:
    """Events a second."""

    async def publisher() -> None:
        for _ in range(events // tasks):
            await bus.publish(TYPE, SOURCE, DATA)

    started = time.perf_counter()
    with sampled():
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(publisher())
    return events / (time.perf_counter() - started)


async def fill(bus: EventBus, events: int) -> None:
    """Publish so many events, as fast as possible."""
    for start in range(0, events, AT_ONCE):
        await bus.publish_many(TYPE, SOURCE, [DATA] * min(AT_ONCE, events - start))


async def publish_many(options: Options) -> float:
    """Events a second, in calls of 1,000."""
    async with EventBus(options.url) as bus:
        await bus.publish(TYPE, SOURCE, DATA)
        started = time.perf_counter()
        with sampled():
            await fill(bus, options.events)
        return options.events / (time.perf_counter() - started)


async def handle(options: Options) -> float:
    """Events a second through a handler that does nothing: read, decoded, handed over, acked."""
    async with EventBus(options.url) as bus:
        await fill(bus, options.events)
        return await rate_of_handling(bus, options.events)


async def rate_of_handling(bus: EventBus, events: int) -> float:
    """Events a second, up to the last handler's end."""
    left = events
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    started = time.perf_counter()
    async with consuming(bus, handler):
        with sampled():
            await done.wait()
        return events / (time.perf_counter() - started)


class consuming:  # noqa: N801  # it is used as a verb: `async with consuming(...)`
    """A consumer of the benchmark's group that runs inside the block."""

    def __init__(self, bus: EventBus, handler: Callable[[Event], Awaitable[None]]) -> None:
        self._bus = bus
        self._handler = handler

    async def __aenter__(self) -> None:
        consumer = self._bus.subscribe_to_stream(TYPE, GROUP)
        self._task = asyncio.create_task(consumer.consume_events(self._handler))

    async def __aexit__(self, *_: object) -> None:
        self._bus.stop()
        await self._task


async def latency(options: Options) -> list[float]:
    """Seconds from before `publish` to the beginning of the handler, on a bus that is idle otherwise."""
    found: list[float] = []
    arrived = asyncio.Event()
    started = 0.0

    async def handler(event: Event) -> None:
        found.append(time.perf_counter() - started)
        arrived.set()

    async with EventBus(options.url) as bus, consuming(bus, handler):
        for _ in range(options.events + 1):
            await asyncio.sleep(0.005)
            arrived.clear()
            started = time.perf_counter()
            await bus.publish(TYPE, SOURCE, DATA)
            await arrived.wait()
    return found[1:]


async def idle(options: Options) -> float:
    """The part of one core, in percent, that a consumer takes that has nothing to do, over ten seconds."""

    async def handler(event: Event) -> None:
        """Never called."""

    async with EventBus(options.url) as bus, consuming(bus, handler):
        await asyncio.sleep(2)
        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.sleep(10)
        return 100 * (time.process_time() - cpu) / (time.perf_counter() - started)


async def fit(options: Options) -> int:
    """How many events fit before the server says that its memory is full."""
    async with EventBus(options.url) as bus:
        while True:
            try:
                await bus.publish_many(TYPE, SOURCE, [DATA] * 500)
            except StoreError:
                return (await bus.stats(TYPE))[0].length


if __name__ == "__main__":
    main(
        {
            "publish": publish,
            "publish_many": publish_many,
            "handle": handle,
            "latency": latency,
            "idle": idle,
            "fit": fit,
        }
    )
