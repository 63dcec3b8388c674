"""NATS JetStream, a broker of its own: a stream in a file, a durable pull consumer, explicit acks."""

from __future__ import annotations

import asyncio
import json
import time

import nats
from bench.subject import DATA, TYPE, Options, main


async def publish(options: Options) -> float:
    """Messages a second, from so many tasks that each wait for the server's acknowledgement."""
    connection = await nats.connect(options.url)
    stream = connection.jetstream()
    await stream.add_stream(name=TYPE, subjects=[TYPE])

    async def publisher() -> None:
        for _ in range(options.events // options.tasks):
            await stream.publish(TYPE, json.dumps(DATA).encode())

    started = time.perf_counter()
    await asyncio.gather(*(publisher() for _ in range(options.tasks)))
    elapsed = time.perf_counter() - started
    await connection.close()
    return options.events / elapsed


async def handle(options: Options) -> float:
    """Messages a second, fetched 500 at a time, decoded and acked."""
    connection = await nats.connect(options.url)
    stream = connection.jetstream()
    await stream.add_stream(name=TYPE, subjects=[TYPE])
    payload = json.dumps(DATA).encode()
    for start in range(0, options.events, 500):
        await asyncio.gather(*(stream.publish(TYPE, payload) for _ in range(min(500, options.events - start))))

    async def handler(data: object) -> None:
        """Do nothing."""

    subscription = await stream.pull_subscribe(TYPE, durable="bench")
    handled = 0
    started = time.perf_counter()
    while handled < options.events:
        for message in await subscription.fetch(500, timeout=10):
            await handler(json.loads(message.data))
            await message.ack()
            handled += 1
    elapsed = time.perf_counter() - started
    await connection.close()
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})
