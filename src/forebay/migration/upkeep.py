"""Background tasks of a DualBus that go on whatever happens: a failure is reported, and the task starts again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from forebay.migration.signals import MigrationTaskFailed
from forebay.restarts import Restarts
from forebay.runtime.supervise import wait_for
from forebay.signals import Signals


def keep_running(
    name: str, work: Callable[[], Awaitable[object]], *, signals: Signals, until: asyncio.Event
) -> asyncio.Task[None]:
    """Do the work, and again after a while if it fails, until it is done or `until` is set."""

    async def keep() -> None:
        restarts = Restarts()
        while not until.is_set():
            try:
                await work()
                return
            except Exception as error:  # noqa: BLE001  # no error here may reach the old bus
                delay = restarts.failed()
                signals.emit(MigrationTaskFailed(name, error, delay))
                await wait_for(until, delay)

    return asyncio.create_task(keep(), name=f"forebay-{name}")
