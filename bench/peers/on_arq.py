"""arq on Redis."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func
from bench.subject import DATA, Options, main


async def publish(options: Options) -> float:
    """Jobs a second, from so many tasks."""
    pool = await create_pool(RedisSettings.from_dsn(options.url))

    async def publisher() -> None:
        for _ in range(options.events // options.tasks):
            await pool.enqueue_job("handler", DATA)

    started = time.perf_counter()
    await asyncio.gather(*(publisher() for _ in range(options.tasks)))
    elapsed = time.perf_counter() - started
    await pool.aclose()
    return options.events / elapsed


async def handle(options: Options) -> float:
    """Jobs a second."""
    settings = RedisSettings.from_dsn(options.url)
    first = last = 0.0
    handled = 0

    async def handler(context: dict[str, Any], data: dict[str, Any]) -> None:
        nonlocal first, last, handled
        last = time.perf_counter()
        first = first or last
        handled += 1

    pool = await create_pool(settings)
    for start in range(0, options.events, 100):
        await asyncio.gather(*(pool.enqueue_job("handler", DATA) for _ in range(min(100, options.events - start))))
    await pool.aclose()
    # `max_jobs` bounds a burst too, by 10 at a time unless set.
    worker = Worker(
        [func(handler, name="handler")],
        redis_settings=settings,
        burst=True,
        poll_delay=0.01,
        max_jobs=100,
        handle_signals=False,
    )
    await worker.main()
    await worker.close()
    assert handled == options.events, handled
    return options.events / (last - first)


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
