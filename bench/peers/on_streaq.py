"""streaq on Redis Streams."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.subject import DATA, Options, main
from streaq import Worker


async def publish(options: Options) -> float:
    """Tasks a second, from so many tasks of asyncio."""
    worker: Any = Worker(redis_url=options.url)

    @worker.task
    async def handler(data: dict[str, Any]) -> None:
        """Do nothing."""

    async def publisher() -> None:
        for _ in range(options.events // options.tasks):
            await handler.enqueue(DATA)

    async with worker:
        started = time.perf_counter()
        await asyncio.gather(*(publisher() for _ in range(options.tasks)))
        return options.events / (time.perf_counter() - started)


async def handle(options: Options) -> float:
    """Tasks a second, by a worker as it comes."""
    worker: Any = Worker(redis_url=options.url, handle_signals=False)
    left = options.events
    first = 0.0
    done = asyncio.Event()

    @worker.task
    async def handler(data: dict[str, Any]) -> None:
        nonlocal left, first
        first = first or time.perf_counter()
        left -= 1
        if not left:
            done.set()

    async with worker:
        for start in range(0, options.events, 100):
            await asyncio.gather(*(handler.enqueue(DATA) for _ in range(min(100, options.events - start))))
    working = asyncio.create_task(worker.run_async())
    await done.wait()
    elapsed = time.perf_counter() - first
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
