"""From one store to another without a stop: the durable bus is the old one now."""

import asyncio
import os

import shop

from forebay import connect
from forebay.migration import DualBus


async def main():
    closed = asyncio.Event()
    bus = DualBus(connect(os.environ["OLD_URL"]), connect())
    await shop.start(bus)
    async with bus:
        orders = asyncio.create_task(shop.take_orders(bus, closed))
        await bus.run()  # until SIGTERM
        closed.set()
        await orders


asyncio.run(main())
