"""One consumer of a group: it joins, handles the events of its streams until it is stopped, and drains.

store ---> Fetcher ---> InFlight ---> Workers ---> Settler ---> store

Services (shared by the consumers of a bus) wake the Fetcher; so does the Alarm, when a retry is due. The LeaseKeeper, a
thread, renews the leases of all deliveries in InFlight.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from forebay.announcer import Announcer
from forebay.cleanup import finish, until_first_ends
from forebay.payload import LIMITS, Limits
from forebay.runtime.alarm import Alarm
from forebay.runtime.fetcher import READ_SECONDS, Fetcher
from forebay.runtime.groups import ConsumerGroups, ConsumerStore, GroupMaker
from forebay.runtime.handler import Handler
from forebay.runtime.in_flight import Flight, InFlight, Key
from forebay.runtime.lease_keeper import LeaseKeeper
from forebay.runtime.options import Options
from forebay.runtime.run import leave
from forebay.runtime.services import Services
from forebay.runtime.settler import Settler
from forebay.runtime.supervise import repeat
from forebay.runtime.tasks import TaskSet
from forebay.runtime.wakeups import Wakeups
from forebay.runtime.workers import Workers
from forebay.signals import LoopFailed, LoopRecovered, Signals
from forebay.store import Delivery, Reader

DRAIN_SECONDS = 1.2
"""Seconds after the grace of the handlers for the rest of a stop: releases and acks."""


class Source(msgspec.Struct, frozen=True):
    """One stream of a consumer."""

    reader: Reader
    handler: Handler
    group_maker: GroupMaker


class Consumer:
    """Handles the events of its streams for one group until it is stopped.

    The readers of its sources have one group, one consumer name and one `ordered`, and different streams. `lease` is
    in seconds.
    """

    def __init__(
        self,
        store: ConsumerStore,
        sources: Sequence[Source],
        options: Options,
        *,
        signals: Signals,
        keeper: LeaseKeeper,
        services: Services,
        announcer: Announcer | None = None,
        limits: Limits = LIMITS,
        wait: float = READ_SECONDS,
    ) -> None:
        readers = [source.reader for source in sources]
        self.lease = options.lease
        self.groups = [(reader.stream, reader.group) for reader in readers]
        self._signals = signals
        self._keeper = keeper
        self._services = services
        self._announcer = announcer
        self._serving = contextlib.AsyncExitStack()
        self._handlers = {source.reader.stream: source.handler for source in sources}
        self._unstarted_at_stop: list[Flight] = []
        self._stop = asyncio.Event()
        self._joined = asyncio.Event()
        self._tasks = TaskSet(self._stop)
        self._in_flight = InFlight(options)
        self._wakeups = wakeups = Wakeups(self.lease, readers)
        self._groups = ConsumerGroups([source.group_maker for source in sources], self._in_flight, wakeups)
        self._alarm = Alarm[Flight](take_due=lambda stream: wakeups.add(wakeups.due, stream), resume=self._resume)
        self._settler = Settler(
            store,
            options,
            self._in_flight,
            alarm=self._alarm,
            signals=signals,
            tasks=self._tasks,
            wakeups=wakeups,
        )
        self._workers = Workers(
            self._handlers,
            options,
            self._in_flight,
            self._settler,
            signals=signals,
            limits=limits,
            tasks=self._tasks,
            wakeups=wakeups,
        )
        self._fetcher = Fetcher(
            store,
            options,
            self._in_flight,
            self._settler,
            self._workers,
            signals=signals,
            services=services,
            wakeups=wakeups,
            stop=self._stop,
            wait=wait,
        )
        self.renewed = self._fetcher.renewed
        self.blocking = self._workers.handling

    @property
    def leased(self) -> dict[Key, Delivery]:
        """The deliveries whose leases must be renewed, the handled ones that the store has not acked included.

        If the store refuses acks for longer than a lease, this consumer must not look dead. From any thread.
        """
        return self._in_flight.leased

    @property
    def is_idle(self) -> bool:
        """True if nothing is in flight, and the last read of every stream found nothing."""
        is_read = self._services.is_blocking or not self._wakeups.unread
        return self._fetcher.found_nothing and is_read and not len(self._in_flight)

    @property
    def last_read(self) -> float | None:
        """The monotonic time of the last sign of life: a read ended, or was not needed.

        It is not needed while the window is full, nor while the shared services watch the streams.
        """
        polled_at = self._services.polled_at if self._fetcher.waits_for_work else None
        return max((at for at in (self._fetcher.read_at, polled_at) if at is not None), default=None)

    # Its life.

    def stop(self) -> None:
        """Read nothing more, finish running handlers, release the rest; `run` then returns."""
        self._alarm.close()
        self._unstarted_at_stop.extend(self._in_flight.close())
        for event in (self._stop, self._joined, self._wakeups.may_read, self._wakeups.changed):
            event.set()

    async def run(self, *, grace: float = 10.0) -> None:
        """Consume until `stop`; handlers get `grace` seconds to finish, then they are cancelled.

        A cancelled handler's event is released and charged no attempt. An error that does not pass (denied, damaged, a
        bug) stops the consumer in the same orderly way, and is raised.
        """
        self._keeper.add(self)
        if self._announcer is not None:
            self._announcer.add(self.groups)
        stopping = asyncio.create_task(self._stop.wait())
        self._workers.open(stopping)
        loops = [
            asyncio.create_task(self._loop("read", self._read, before=self._join), name="forebay-read"),
            asyncio.create_task(
                self._loop("claim", self._fetcher.maintain, before=self._joined.wait), name="forebay-claim"
            ),
        ]
        try:
            await until_first_ends(stopping, *loops)
        finally:
            self.stop()
            await finish(self._end([stopping, *loops], grace))
        for loop in loops:
            if loop.done() and not loop.cancelled():
                loop.result()
        if self._tasks.error is not None:
            raise self._tasks.error

    async def _loop(
        self, name: str, turn: Callable[[], Awaitable[None]], *, before: Callable[[], Awaitable[object]]
    ) -> None:
        stream, group = self.groups[0] if len(self.groups) == 1 else ("*", self.groups[0][1])

        def failed(error: BaseException, delay: float) -> None:
            self._signals.emit(LoopFailed(name, stream, group, error, delay))

        def recovered() -> None:
            self._signals.emit(LoopRecovered(name, stream, group))

        await repeat(
            turn, stop=self._stop, before=before, heal=self._groups.heal, on_error=failed, on_recovery=recovered
        )

    async def _end(self, own: Sequence[asyncio.Task[object]], grace: float) -> None:
        try:
            await self._drain(own, grace)
        finally:
            for handler in self._handlers.values():
                handler.close()
            for task in own:
                task.cancel()
            if self._announcer is not None:
                self._announcer.remove(self.groups)
            await self._serving.aclose()
            await self._keeper.remove(self)

    async def _drain(self, own: Sequence[asyncio.Task[object]], grace: float) -> None:
        """Let handlers finish within `grace` seconds; release the rest and send the acks within DRAIN_SECONDS more."""
        end = time.monotonic() + grace
        releases = [asyncio.create_task(self._release(self._unstarted_at_stop))]
        if workers := self._workers.tasks:
            _, late = await asyncio.wait(workers, timeout=grace)
            self._workers.abandon(late)
        # Reads are not cancelled before: one may have leased entries that no consumer knows of.
        await asyncio.wait([*releases, *workers, *own], timeout=_until(end + DRAIN_SECONDS / 2))
        # A handler that goes on, although it was cancelled, keeps its events until their leases run out.
        for flight in self._workers.unended():
            self._in_flight.abandon(flight)
        unsettled = self._in_flight.unsettled()
        for flight in unsettled:
            self._in_flight.finish(flight)
        releases.append(asyncio.create_task(self._release(unsettled)))
        await leave(releases[1:], after=_until(end + DRAIN_SECONDS))
        self._settler.close()
        # Acks that the store does not take by now lapse with their leases: handled again, not lost.
        await leave([*releases, *self._settler.sending(), *workers, *own], after=_until(end + DRAIN_SECONDS))
        await leave([asyncio.create_task(self._groups.check_trimmed_at_last())], after=_until(end + DRAIN_SECONDS))
        for release in releases:
            if release.done() and not release.cancelled():
                release.result()

    async def _release(self, flights: Sequence[Flight]) -> None:
        await self._settler.release([flight.delivery for flight in flights])

    async def _read(self) -> None:
        # Not between a wakeup and its read, where it would be in the way of a new event.
        if await self._fetcher.read():
            await self._groups.check_trimmed()

    def _resume(self, flight: Flight) -> None:
        self._in_flight.resume(flight)
        self._workers.start()

    async def _join(self) -> None:
        await self._groups.join()
        await self._serving.enter_async_context(self._services.serving(self._wakeups))
        self._joined.set()


def _until(moment: float) -> float:
    return max(0.0, moment - time.monotonic())
