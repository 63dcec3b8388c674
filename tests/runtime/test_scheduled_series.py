"""Scheduled events that are due shortly after one another each come at their own time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from forebay.event import to_record
from forebay.runtime.services import Services
from forebay.runtime.wakeups import Wakeups
from forebay.signals import Signals
from forebay.store import START, Reader
from forebay.stores.memory import MemoryStore
from forebay.testing import eventually


async def test_each_event_of_a_scheduled_series_is_found_before_the_next_poll() -> None:
    store, delays = MemoryStore(), [0.02, 0.04, 0.06]
    await store.join("t", "g")
    # The next poll is in an hour.
    services = Services(store, Signals(), poll=3600.0)
    async with AsyncExitStack() as stack:
        for delay in delays:
            await store.schedule("t", [to_record("t", source="s", data=delay)], delay=delay)
        await stack.enter_async_context(services.serving(Wakeups(30.0, [Reader("t", "g", "c")])))

        async def are_appended() -> bool:
            return len(await store.scan("t", after=START, limit=9)) == len(delays)

        async with asyncio.timeout(20):
            await eventually(are_appended)
