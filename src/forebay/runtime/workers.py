"""One delivery's way through the handler, by long-lived workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from forebay.callables import completed
from forebay.errors import ForebayError, HandlerTimeout, MalformedEvent
from forebay.event import Event, to_event
from forebay.payload import Limits
from forebay.policy import GiveUp, judge_recovered, last_frames
from forebay.reason import describe
from forebay.runtime.dedup import Deduplicator
from forebay.runtime.handler import Handler
from forebay.runtime.in_flight import InFlight
from forebay.runtime.options import Options
from forebay.runtime.poison import PoisonGuard
from forebay.runtime.settler import Settler
from forebay.signals import Delivered, EntryMissing, Finished, Signals, Skipped
from forebay.store import Delivery

EVENTS_PER_YIELD = 64
"""Events a worker handles before it lets the rest of the loop go on."""


class Workers:
    """As many tasks as the consumer's `concurrency`. Each takes a delivery, handles it and has it settled.

    Where a lease does not surely hold, `have_lapsed` says, in more time, whether the deliveries were given
    back instead. `on_hung` is called when a worker begins or ends to wait for a thread
    that runs over its time.
    """

    def __init__(
        self,
        handler: Handler,
        options: Options,
        in_flight: InFlight,
        settler: Settler,
        deduplicator: Deduplicator,
        poison_guard: PoisonGuard,
        signals: Signals,
        limits: Limits,
        *,
        have_lapsed: Callable[[Sequence[Delivery]], Awaitable[bool]],
        on_begun: Callable[[Delivery], None],
        on_over: Callable[[Delivery], None],
        on_hung: Callable[[], Awaitable[None]],
    ) -> None:
        self._handler = handler
        self._options = options
        self._in_flight = in_flight
        self._settler = settler
        self._deduplicator = deduplicator
        self._poison_guard = poison_guard
        self._signals = signals
        self._limits = limits
        self._have_lapsed = have_lapsed
        self._on_begun = on_begun
        self._on_over = on_over
        self._on_hung = on_hung
        self._hung = 0
        self._abandoned = False
        self._tasks: list[asyncio.Task[None]] = []
        # What each worker has begun last.
        self._begun: list[Sequence[Delivery]] = [()] * options.concurrency
        self._stopping: asyncio.Future[Any]
        self._is_torn_down: Callable[[], bool]

    def start(self, stopping: asyncio.Future[Any], *, is_torn_down: Callable[[], bool]) -> list[asyncio.Task[None]]:
        """The tasks, each of which ends when `in_flight` is closed.

        After `stopping` none waits for a thread that hangs. `is_torn_down` says whether the whole loop is
        being cancelled, and not a handler from within.
        """
        self._stopping = stopping
        self._is_torn_down = is_torn_down
        self._tasks = [
            asyncio.create_task(self._work(number), name="forebay-worker")
            for number in range(self._options.concurrency)
        ]
        return self._tasks

    @property
    def all_hang(self) -> bool:
        """Whether every worker waits for a thread that nothing can stop."""
        return self._hung == self._options.concurrency

    def abandon(self, workers: Iterable[asyncio.Task[None]]) -> None:
        """Cancel these, which had their time; what their handlers did is not settled."""
        self._abandoned = True
        for worker in workers:
            worker.cancel()

    def unended(self) -> list[Delivery]:
        """What handlers still run with, though their workers were cancelled."""
        pairs = zip(self._tasks, self._begun, strict=True)
        return [delivery for task, begun in pairs if not task.done() for delivery in begun]

    def begun_by(self, task: object) -> Sequence[Delivery]:
        """What this task has begun last; nothing where it is none of the workers. From any thread."""
        return next((begun for each, begun in zip(self._tasks, self._begun, strict=False) if each is task), ())

    async def _work(self, number: int) -> None:
        in_flight, batch = self._in_flight, self._options.batch
        turns = 0
        while (delivery := in_flight.pop() or await in_flight.next()) is not None:
            self._begun[number] = alone = (delivery,)
            if batch is not None:
                self._begun[number] = several = [delivery, *in_flight.more(batch - 1, beside=delivery)]
                await self._handle_batch(several)
            elif isinstance(event := self._decode(delivery), Event):
                if in_flight.is_safe(delivery) or not await self._have_lapsed(alone):
                    await self._call(event, alone)
            elif event is not None:
                await self._settle_dead(delivery, event)
            turns += 1
            if not turns % EVENTS_PER_YIELD:
                await asyncio.sleep(0)

    async def _handle_batch(self, deliveries: list[Delivery]) -> None:
        opened = [(self._decode(delivery), delivery) for delivery in deliveries]
        for event, delivery in opened:
            if isinstance(event, GiveUp):
                await self._settle_dead(delivery, event)
        events = [event for event, _ in opened if isinstance(event, Event)]
        deliveries = [delivery for event, delivery in opened if isinstance(event, Event)]
        if events and (all(map(self._in_flight.is_safe, deliveries)) or not await self._have_lapsed(deliveries)):
            await self._call(events, deliveries)

    def _decode(self, delivery: Delivery) -> Event | GiveUp | None:
        """The event to hand over; why it is dead already; or None where it was settled without a handler."""
        if delivery.recovered:
            self._on_begun(delivery)
        if delivery.record is None:
            self._signals.emit(EntryMissing(delivery))
            self._settle_unhandled(delivery)
            return None
        if delivery.recovered and (verdict := judge_recovered(delivery, self._options.retry)) is not None:
            return verdict
        if self._options.dedup and self._deduplicator.is_repeated(delivery):
            self._signals.emit(Skipped(delivery))
            self._settle_unhandled(delivery)
            return None
        try:
            return to_event(
                delivery.record,
                position=delivery.position,
                attempt=delivery.attempt,
                limits=self._limits,
                kind=self._handler.kind,
            )
        except MalformedEvent as error:
            return GiveUp(str(error), last_frames(error))

    async def _call(self, event: Event | list[Event], deliveries: Sequence[Delivery]) -> None:
        if self._signals.wanted(Delivered):
            for delivery in deliveries:
                self._signals.emit(Delivered(delivery))
        is_timed = self._signals.wanted(Finished)
        started = time.perf_counter() if is_timed else 0.0
        error: BaseException | None = None
        try:
            if (result := await self._handler.call(event)) is not None:
                await completed(result)
        except BaseException as raised:  # noqa: BLE001  # whatever a handler raises is its event's fate
            error = self._classify(raised, deliveries)
        for delivery in deliveries:
            if error is not None:
                await self._settler.failed(delivery, error)
            else:
                self._settler.done(delivery)
                if is_timed:
                    self._signals.emit(Finished(delivery, time.perf_counter() - started))
                if self._options.dedup:
                    self._deduplicator.handled(delivery)
            if delivery.position in self._poison_guard.positions:
                self._on_over(delivery)
        if isinstance(error, HandlerTimeout) and error.still_running is not None:
            await self._wait_for_thread(error.still_running)

    def _classify(self, raised: BaseException, deliveries: Sequence[Delivery]) -> BaseException:
        """What a handler's error means for its events; raised again where the process or the consumer ends."""
        if isinstance(raised, asyncio.CancelledError):
            task = asyncio.current_task()
            # Where the whole loop is torn down, all its tasks are cancelled at once, the acks' too;
            # a handler that cancels itself is alone.
            if self._abandoned or task is None or self._is_torn_down():
                raise raised
            task.uncancel()
            return ForebayError("the handler was cancelled from within")
        if isinstance(raised, (KeyboardInterrupt, SystemExit)):
            # An attempt was made, so nothing is given back as if it had not been.
            for delivery in deliveries:
                self._in_flight.forget(delivery)
            raise raised
        return raised if isinstance(raised, Exception) else ForebayError(f"the handler raised {describe(raised)}")

    async def _wait_for_thread(self, thread: asyncio.Future[Any]) -> None:
        """Wait for a thread that nothing can stop: its event is settled, but its worker's place is taken."""
        self._hung += 1
        await self._on_hung()
        await asyncio.wait([thread, self._stopping], return_when=asyncio.FIRST_COMPLETED)
        self._hung -= 1
        await self._on_hung()

    def _settle_unhandled(self, delivery: Delivery) -> None:
        self._settler.done(delivery)
        self._on_over(delivery)

    async def _settle_dead(self, delivery: Delivery, verdict: GiveUp) -> None:
        await self._settler.dead(delivery, verdict)
        self._on_over(delivery)
