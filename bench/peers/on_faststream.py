"""FastStream on Redis Streams: a stream, a consumer group, acknowledged when the handler returns."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.subject import DATA, TYPE, Options, main
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis


async def publish(options: Options) -> float:
    """Events a second, from so many tasks."""
    async with RedisBroker(options.url) as broker:

        async def publisher() -> None:
            for _ in range(options.events // options.tasks):
                await broker.publish(DATA, stream=TYPE)

        started = time.perf_counter()
        await asyncio.gather(*(publisher() for _ in range(options.tasks)))
        return options.events / (time.perf_counter() - started)


async def handle(options: Options) -> float:
    """Events a second through a handler that does nothing."""
    # Its log has two lines for each message, which would take most of the measured time.
    broker = RedisBroker(options.url, logger=None)
    left = options.events
    first = 0.0
    done = asyncio.Event()

    @broker.subscriber(stream=StreamSub(TYPE, group="bench", consumer="1", last_id=">"))
    async def handler(data: dict[str, Any]) -> None:
        nonlocal left, first
        first = first or time.perf_counter()
        left -= 1
        if not left:
            done.set()

    async with Redis.from_url(options.url) as redis:
        # It makes its group at the end of the stream; this one is there already, at the beginning.
        await redis.xgroup_create(TYPE, "bench", "0", mkstream=True)
    async with RedisBroker(options.url) as publishing:
        for start in range(0, options.events, 100):
            await asyncio.gather(
                *(publishing.publish(DATA, stream=TYPE) for _ in range(min(100, options.events - start)))
            )
    await broker.start()
    await done.wait()
    elapsed = time.perf_counter() - first
    await broker.stop()
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
