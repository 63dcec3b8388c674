"""Week 1 and 2: the shop on both buses. Only the line that makes the bus is new."""

import asyncio

import shop
from old_bus import OldBus

from forebay import connect
from forebay.migration import DualBus


async def main():
    closed = asyncio.Event()
    bus = DualBus(OldBus(), connect())
    await shop.start(bus)
    async with bus:
        orders = asyncio.create_task(shop.take_orders(bus, closed))
        await bus.run()  # until SIGTERM
        closed.set()
        await orders


asyncio.run(main())
