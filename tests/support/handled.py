"""A consumer in this process, and the events that it has handled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from forebay import Event, EventBus
from forebay.testing import eventually


class Handled:
    """Counts events by their data, and remembers their attempts."""

    def __init__(self, busy: float = 0.0) -> None:
        self.times: Counter[int] = Counter()
        self._busy = busy

    async def handle(self, event: Event) -> None:
        await asyncio.sleep(self._busy)
        self.times[event.data] += 1

    def has(self, count: int) -> bool:
        return len(self.times) >= count


@contextlib.asynccontextmanager
async def running(bus: EventBus) -> AsyncIterator[None]:
    """The bus runs meanwhile."""
    run = asyncio.create_task(bus.run())
    try:
        await eventually(lambda: bus.last_read is not None)
        yield
    finally:
        bus.stop()
        await asyncio.wait_for(run, 30)
