"""While leases may have been lost, deliveries wait without any work for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from forebay import Event
from forebay.event import to_record
from forebay.payload import LIMITS
from forebay.runtime.alarm import Alarm
from forebay.runtime.handler import Handler
from forebay.runtime.in_flight import Flight, InFlight
from forebay.runtime.options import Options
from forebay.runtime.settler import Settler
from forebay.runtime.tasks import TaskSet
from forebay.runtime.wakeups import Wakeups
from forebay.runtime.workers import Workers
from forebay.signals import Signals
from forebay.store import Delivery, Reader
from forebay.stores.memory import MemoryStore

READER = Reader("t", "g", "c")


class CountingTasks(TaskSet):
    """Counts the tasks that were started."""

    started = 0

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        self.started += 1
        return super().start(work, name=name)


def ignore(event: Event) -> None:
    """Handle an event."""


async def test_no_worker_starts_until_the_leases_are_known_to_hold() -> None:
    options, signals, tasks = Options(concurrency=4), Signals(), CountingTasks(asyncio.Event())
    in_flight, wakeups = InFlight(options), Wakeups(options.lease, [READER])
    alarm = Alarm[Flight](take_due=lambda stream: None, resume=lambda flight: None)
    settler = Settler(MemoryStore(), options, in_flight, alarm=alarm, signals=signals, tasks=tasks, wakeups=wakeups)
    handler = Handler(ignore, kind=None, batch=False, timeout=None, threads=1, group="g")
    workers = Workers(
        {"t": handler}, options, in_flight, settler, signals=signals, limits=LIMITS, tasks=tasks, wakeups=wakeups
    )
    unstarted = [Delivery(READER, str(number), to_record("t", source="s", data=number)) for number in (1, 2, 3)]
    # Their leases have run out, and no one releases them: the loop that would is waiting for the store.
    in_flight.add_read(unstarted, safe_until=0.0)

    for _ in range(50):
        workers.start()
        await asyncio.sleep(0)

    assert in_flight.may_have_lost_leases
    assert tasks.started == 1
    assert tasks.error is None
    handler.close()
