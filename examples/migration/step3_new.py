"""Week 3: the shop takes its orders straight to the new bus; `forebay agents agents` handles them, elsewhere."""

import asyncio
import signal

import shop

from forebay import connect


async def main():
    closed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, closed.set)
    async with connect() as bus:
        await shop.take_orders(bus, closed)


asyncio.run(main())
