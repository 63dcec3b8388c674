"""Before: the shop on its old bus."""

import asyncio
import signal

import shop
from old_bus import OldBus


async def main():
    closed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, closed.set)
    bus = OldBus()
    await shop.start(bus)
    await shop.take_orders(bus, closed)
    await bus.close()


asyncio.run(main())
