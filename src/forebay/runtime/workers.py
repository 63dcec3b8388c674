"""Runs the handler for each delivery that may start, in tasks that are started as they are needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forebay.callables import completed
from forebay.cause import enter_cause
from forebay.cleanup import until_first_ends
from forebay.clock import boottime
from forebay.errors import ForebayError, HandlerTimeout, MalformedEvent
from forebay.event import Event, to_event
from forebay.payload import Limits
from forebay.policy import GiveUp, judge_recovered, last_frames
from forebay.reason import describe
from forebay.runtime.handler import Handler
from forebay.runtime.in_flight import Flight, InFlight
from forebay.runtime.options import Options
from forebay.runtime.settler import Settler
from forebay.runtime.tasks import TaskSet
from forebay.runtime.wakeups import Wakeups
from forebay.signals import Delivered, EntryMissing, Finished, Signals, Skipped
from forebay.store import Delivery

EVENTS_IN_A_ROW = 64
"""Events that a worker handles before it lets the other tasks of the event loop run."""


Unhandled = GiveUp | EntryMissing | Skipped
"""Why an event is settled without its handler: it is dead, its entry is gone, or its id was handled before."""


class Workers:
    """At most `concurrency` tasks. Each starts deliveries, has them handled and settled, until none may start.

    `handlers` are the handlers of the consumer's streams. A worker whose handler runs in a thread that does not end
    after its timeout waits for that thread: it hangs, and its place is taken.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        options: Options,
        in_flight: InFlight,
        settler: Settler,
        *,
        signals: Signals,
        limits: Limits,
        tasks: TaskSet,
        wakeups: Wakeups,
    ) -> None:
        self._handlers = handlers
        # A consumer of one stream has no other handler to look for.
        self._only_handler = next(iter(handlers.values())) if len(handlers) == 1 else None
        self._options = options
        self._in_flight = in_flight
        self._settler = settler
        self._signals = signals
        self._limits = limits
        self._tasks = tasks
        self._wakeups = wakeups
        # The deliveries that each worker handles; none before it has taken the first.
        self._running: dict[asyncio.Task[None], Sequence[Flight]] = {}
        self._is_starting = False
        self._hung = 0
        self._abandoned = False
        self._stopping: asyncio.Task[Any] | None = None

    def open(self, stopping: asyncio.Task[Any]) -> None:
        """Allow workers. `stopping` is done when the consumer stops; it is cancelled if the event loop is torn down."""
        self._stopping = stopping

    def start(self) -> None:
        """Start workers, as many as are needed, up to `concurrency` in all.

        One starts at once. A worker whose handler never waits needs no other one beside it, so the others start turn by
        turn of the event loop, twice as many each time, if there still are deliveries that may start.
        """
        if not self._is_starting:
            self._start_more()

    def _start_more(self) -> None:
        room = self._options.concurrency - len(self._running)
        self._is_starting = room > 0 and self._in_flight.startable > 0
        if self._is_starting:
            for _ in range(min(room, max(1, len(self._running)))):
                self._running[self._tasks.start(self._work(), name="forebay-worker")] = ()
            asyncio.get_running_loop().call_soon(self._start_more)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of the workers that have not ended."""
        return list(self._running)

    @property
    def all_hang(self) -> bool:
        """True if every worker waits for a thread that cannot be stopped."""
        return self._hung == self._options.concurrency

    def abandon(self, workers: Iterable[asyncio.Task[None]]) -> None:
        """Cancel these, whose grace is over; the events of their handlers are not settled."""
        self._abandoned = True
        for worker in workers:
            worker.cancel()

    def unended(self) -> list[Flight]:
        """The deliveries whose handlers still run, although their workers were cancelled."""
        return [flight for flights in self._running.values() for flight in flights]

    def handling(self, task: object) -> tuple[str, Delivery] | None:
        """The name of the handler that this task runs, and its first event; None for other tasks. From any thread."""
        flights = self._running.get(task) if isinstance(task, asyncio.Task) else None
        return (self._handlers[flights[0].key[0]].name, flights[0].delivery) if flights else None

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        in_flight, batch, running = self._in_flight, self._options.batch, self._running
        turns = 0
        try:
            while True:
                if batch is not None:
                    if not (flights := in_flight.next_batch(boottime(), batch)):
                        return
                    running[task] = flights
                    await self._handle_batch(flights)
                else:
                    if (flight := in_flight.next(boottime())) is None:
                        return
                    running[task] = alone = (flight,)
                    if isinstance(event := self._open(flight), Event):
                        enter_cause(event)
                        await self._call(event, alone)
                    else:
                        await self._settle_unhandled(flight, event)
                turns += 1
                if not turns % EVENTS_IN_A_ROW:
                    await asyncio.sleep(0)
        finally:
            del running[task]
            if in_flight.may_have_lost_leases:
                self._wakeups.changed.set()

    async def _handle_batch(self, flights: Sequence[Flight]) -> None:
        opened = [(flight, self._open(flight)) for flight in flights]
        for flight, event in opened:
            if not isinstance(event, Event):
                await self._settle_unhandled(flight, event)
        if events := [event for _, event in opened if isinstance(event, Event)]:
            # An event that the handler publishes has no single cause.
            enter_cause(None)
            await self._call(events, [flight for flight, event in opened if isinstance(event, Event)])

    async def _settle_unhandled(self, flight: Flight, reason: Unhandled) -> None:
        if isinstance(reason, GiveUp):
            await self._settler.dead_letter(flight, reason)
        else:
            self._signals.emit(reason)
            self._settler.ack(flight)
        self._wakeups.changed.set()

    def _open(self, flight: Flight) -> Event | Unhandled:
        """The event for the handler, or why it needs none."""
        delivery = flight.delivery
        if flight.is_suspect:
            # It has started: the next event may be taken over.
            self._wakeups.changed.set()
        if delivery.record is None:
            return EntryMissing(delivery)
        if delivery.recovered and (verdict := judge_recovered(delivery, self._options.retry)) is not None:
            return verdict
        if self._options.dedup and self._in_flight.is_repeat(flight):
            return Skipped(delivery)
        try:
            return to_event(
                delivery.record,
                position=delivery.position,
                attempt=delivery.attempt,
                limits=self._limits,
                kind=(self._only_handler or self._handlers[flight.key[0]]).kind,
            )
        except MalformedEvent as error:
            return GiveUp(str(error), last_frames(error))

    async def _call(self, events: Event | list[Event], flights: Sequence[Flight]) -> None:
        if self._signals.listeners[Delivered]:
            for flight in flights:
                self._signals.emit(Delivered(flight.delivery))
        is_timed = bool(self._signals.listeners[Finished])
        started = time.perf_counter() if is_timed else 0.0
        try:
            handler = self._only_handler or self._handlers[flights[0].key[0]]
            if (result := await handler.call(events)) is not None:
                await completed(result)
        except BaseException as raised:  # noqa: BLE001  # the event's fate depends on whatever its handler raises
            await self._fail(flights, self._meaning(raised, flights))
            return
        for flight in flights:
            self._settler.ack(flight)
            if is_timed:
                self._signals.emit(Finished(flight.delivery, time.perf_counter() - started))
            if flight.is_suspect:
                self._wakeups.changed.set()

    async def _fail(self, flights: Sequence[Flight], error: BaseException) -> None:
        for flight in flights:
            await self._settler.fail(flight, error)
        self._wakeups.changed.set()
        # More than one lane may go on.
        self.start()
        if isinstance(error, HandlerTimeout) and error.still_running is not None:
            await self._wait_for_hung(error.still_running)

    def _meaning(self, raised: BaseException, flights: Sequence[Flight]) -> BaseException:
        """The handler's error, for the retry policy. Raised again if the process or the consumer ends."""
        if isinstance(raised, asyncio.CancelledError):
            task = asyncio.current_task()
            # If the event loop is torn down, all its tasks are cancelled together. A handler that cancels itself is
            # alone.
            if self._abandoned or task is None or self._stopping is None or self._stopping.cancelling():
                raise raised
            task.uncancel()
            return ForebayError("the handler was cancelled from within")
        if isinstance(raised, (KeyboardInterrupt, SystemExit)):
            # An attempt was made, so the event is not released as unstarted.
            for flight in flights:
                self._in_flight.abandon(flight)
            raise raised
        return raised if isinstance(raised, Exception) else ForebayError(f"the handler raised {describe(raised)}")

    async def _wait_for_hung(self, thread: asyncio.Future[Any]) -> None:
        """Wait for a thread that cannot be stopped, until it ends or the consumer stops. Its event is settled."""
        assert self._stopping is not None
        self._hung += 1
        self._wakeups.changed.set()
        await until_first_ends(thread, self._stopping)
        self._hung -= 1
        self._wakeups.changed.set()
