"""The program whose instructions are counted: publishing and handling on the memory store, in one process.

Under valgrind an event takes about a millisecond, and more on a busy machine. So the count must not depend on clocks:

- The wall clock goes on by 10 microseconds for each event, as at 100,000 events a second. Otherwise the parts of ids
  and times that events of one millisecond share would be made anew for most events.
- The monotonic clock goes on only while the event loop waits. Otherwise handlers would be slow: the consumer would read
  few events ahead, and its timers would end in the middle of the work.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from bench.subject import DATA, SOURCE, TYPE, Options, main
from bench.subjects.forebay_bus import rate_of_handling, rate_of_publishing

from forebay import EventBus


class IdleClock(selectors.DefaultSelector):
    """The selector of an event loop, and a clock that goes on only while the loop waits for something."""

    def __init__(self) -> None:
        super().__init__()
        self._idle = 0.0

    def now(self) -> float:
        """Seconds that the loop has waited."""
        return self._idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        began = time.perf_counter()
        events = super().select(timeout)
        self._idle += time.perf_counter() - began
        return events


def counted(measure: Callable[[Options], Coroutine[Any, Any, int]]) -> Callable[[Options], int]:
    """Run this measure by clocks that do not depend on the speed of the machine."""

    @wraps(measure)
    def run(options: Options) -> int:
        clock = IdleClock()
        time.time_ns = itertools.count(time.time_ns(), 10_000).__next__
        time.monotonic = clock.now
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(clock)) as runner:
            return runner.run(measure(options))

    return run


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
    main({"publish": counted(publish), "handle": counted(handle)})
