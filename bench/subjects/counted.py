"""The program whose instructions are counted: publishing and handling on the memory store, in one process.

The wall clock goes on by 10 microseconds for each event, as at 100,000 events a second. Under valgrind an event takes
about a millisecond, so the parts of ids and times that events of one millisecond share would be made anew for most
events on a slow machine, and for few on a fast one.
"""

from __future__ import annotations

import itertools
import time

from bench.subject import DATA, SOURCE, TYPE, Options, main
from bench.subjects.forebay_bus import rate_of_handling, rate_of_publishing

from forebay import EventBus


async def publish(options: Options) -> int:
    """Publish so many events one by one, from 50 tasks."""
    async with EventBus("memory://") as bus:
        await rate_of_publishing(bus, options.events, 50)
    return options.events


async def handle(options: Options) -> int:
    """Publish so many in one call, and handle them."""
    async with EventBus("memory://") as bus:
        await bus.publish_many(TYPE, SOURCE, [DATA] * options.events)
        await rate_of_handling(bus, options.events)
    return options.events


if __name__ == "__main__":
    time.time_ns = itertools.count(time.time_ns(), 10_000).__next__
    main({"publish": publish, "handle": handle})
