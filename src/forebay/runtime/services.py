"""The services that all consumers of a bus share: the doorbell and the lookout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from forebay.cleanup import finish
from forebay.runtime.doorbell import Doorbell
from forebay.runtime.lookout import POLL_SECONDS, LogAndLeases, Lookout
from forebay.runtime.wakeups import Wakeups
from forebay.signals import Signals

BLOCKING_CONSUMERS = 4
"""The most consumers of one stream each that wait in `read`. It has the lowest latency and needs a connection each."""


class Services:
    """The doorbell and the lookout of a bus. They run from the first consumer that is served to the last one."""

    def __init__(self, store: LogAndLeases, signals: Signals, *, poll: float = POLL_SECONDS) -> None:
        self._store = store
        self._signals = signals
        self._poll = poll
        self._consumers: dict[Wakeups, None] = {}
        self._make()
        self._of_many_streams = 0
        self._tasks: dict[Callable[[], object], asyncio.Task[None]] = {}

    @property
    def is_blocking(self) -> bool:
        """Whether a consumer waits for entries in `read`, and not for `Wakeups.unread`. Asked before each read.

        False while the doorbell is being set up.
        """
        return self._doorbell.is_refused or not self._needs_doorbell

    @property
    def polled_at(self) -> float | None:
        """The time of the lookout's last answer from the store, on `time.monotonic`; None before the first one.

        The sign of life of a consumer that has nothing to read.
        """
        return self._lookout.polled_at

    @asynccontextmanager
    async def serving(self, wakeups: Wakeups) -> AsyncIterator[None]:
        """Find work for a consumer while the block runs.

        Its groups must exist: a group that does not is reported as lost. The store is asked for due entries and leases
        of others at once.
        """
        self._add(wakeups)
        try:
            yield
        finally:
            self._remove(wakeups)
            if not self._consumers and self._tasks:
                tasks, self._tasks = list(self._tasks.values()), {}
                await finish(_end(tasks))

    def drop(self) -> None:
        """Forget all consumers: their event loop is gone."""
        for wakeups in list(self._consumers):
            self._remove(wakeups)
        self._tasks.clear()

    @property
    def _needs_doorbell(self) -> bool:
        return self._of_many_streams > 0 or len(self._consumers) > BLOCKING_CONSUMERS

    def _make(self) -> None:
        self._doorbell = Doorbell(self._store, self._signals)
        self._lookout = Lookout(self._store, self._signals, poll=self._poll)

    def _add(self, wakeups: Wakeups) -> None:
        if not self._consumers:
            # The event loop may have changed, and so may the user's right to watch.
            self._make()
        self._consumers[wakeups] = None
        self._of_many_streams += len(wakeups.streams) > 1
        self._lookout.add(wakeups)
        self._doorbell.add(wakeups)
        self._start(self._lookout.run)
        if self._needs_doorbell and not self._doorbell.is_refused:
            self._start(self._doorbell.run)

    def _remove(self, wakeups: Wakeups) -> None:
        if wakeups in self._consumers:
            del self._consumers[wakeups]
            self._of_many_streams -= len(wakeups.streams) > 1
            self._lookout.remove(wakeups)
            self._doorbell.remove(wakeups)

    def _start(self, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._tasks.get(service)
        if task is None or task.done():
            self._tasks[service] = asyncio.create_task(self._run(service), name="forebay-services")

    async def _run(self, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await service()
        except Exception as error:  # noqa: BLE001  # nothing awaits this task: the consumers raise its error
            for wakeups in self._consumers:
                wakeups.fail(error)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
