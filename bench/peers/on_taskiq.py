"""Taskiq on Redis Streams, with its broker that acknowledges."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.subject import DATA, Options, main
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker


async def publish(options: Options) -> float:
    """Tasks a second, from so many tasks of asyncio."""
    broker = RedisStreamBroker(options.url)

    @broker.task
    async def handler(data: dict[str, Any]) -> None:
        """Do nothing."""

    async def publisher() -> None:
        for _ in range(options.events // options.tasks):
            await handler.kiq(DATA)

    await broker.startup()
    started = time.perf_counter()
    await asyncio.gather(*(publisher() for _ in range(options.tasks)))
    elapsed = time.perf_counter() - started
    await broker.shutdown()
    return options.events / elapsed


async def handle(options: Options) -> float:
    """Tasks a second."""
    broker = RedisStreamBroker(options.url)
    left = options.events
    first = 0.0
    done = asyncio.Event()

    @broker.task
    async def handler(data: dict[str, Any]) -> None:
        nonlocal left, first
        first = first or time.perf_counter()
        left -= 1
        if not left:
            done.set()

    await broker.startup()
    for start in range(0, options.events, 100):
        await asyncio.gather(*(handler.kiq(DATA) for _ in range(min(100, options.events - start))))
    broker.is_worker_process = True
    with ThreadPoolExecutor() as executor:
        # With the limit that its command line sets.
        receiver = Receiver(broker, executor, max_async_tasks=100)
        finish = asyncio.Event()
        worker = asyncio.create_task(receiver.listen(finish))
        await done.wait()
        elapsed = time.perf_counter() - first
        finish.set()
        await worker
    await broker.shutdown()
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
