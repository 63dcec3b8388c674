"""Settles deliveries in the store once their handlers have ended: batched acks, retries, dead letters, releases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from forebay.clock import boottime
from forebay.errors import NotFound, OutcomeUnknown
from forebay.policy import GiveUp, RetryIn, decide, failure_of, history
from forebay.restarts import Backoff
from forebay.runtime.alarm import Alarm
from forebay.runtime.in_flight import Flight, InFlight
from forebay.runtime.options import Options
from forebay.runtime.supervise import TRANSIENT, wait_for
from forebay.runtime.tasks import TaskSet
from forebay.runtime.wakeups import Wakeups
from forebay.signals import DeadLettered, LateAck, LeaseLost, Released, Retried, Signals
from forebay.store import Delivery, Failure, Leases


class Settler:
    """Settles deliveries in the store and in the ledger.

    Acks are collected while a batch of them is on its way, so their number per call grows with the load. The task that
    sends them runs only while there are some. Every other outcome is one move each. It is repeated over transient
    errors for the length of a lease, and on while the lease is renewed. After that the delivery is left to its lease.
    """

    def __init__(
        self,
        store: Leases,
        options: Options,
        in_flight: InFlight,
        *,
        alarm: Alarm[Flight],
        signals: Signals,
        tasks: TaskSet,
        wakeups: Wakeups,
    ) -> None:
        self._store = store
        self._options = options
        self._in_flight = in_flight
        self._alarm = alarm
        self._signals = signals
        self._tasks = tasks
        self._wakeups = wakeups
        self._acks: list[Flight] = []
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def ack(self, flight: Flight) -> None:
        """Acknowledge a delivery whose handler returned, or that needs none."""
        self._in_flight.handled(flight)
        self._acks.append(flight)
        if self._sending is None and not self._closed:
            self._sending = self._tasks.start(self._send_acks(), name="forebay-acks")

    async def fail(self, flight: Flight, error: BaseException) -> None:
        """Retry a delivery whose handler raised, or give it up, as the retry policy decides."""
        delivery = flight.delivery
        failures, failure = delivery.failures + 1, failure_of(error)
        match decide(error, failures=failures, retry=self._options.retry):
            case RetryIn(delay):
                await self._retry(flight, error, delay, failure)
            case GiveUp(reason):
                reason = history(reason, attempts=delivery.attempt, failures=failures)
                await self.dead_letter(flight, GiveUp(reason, failure.traceback))

    async def _retry(self, flight: Flight, error: BaseException, delay: float, failure: Failure) -> None:
        keep = self._options.ordered
        settled = await self._settle(
            flight, lambda delivery: self._store.retry(delivery, delay=delay, keep=keep, failure=failure)
        )
        if settled is None:
            return
        self._signals.emit(Retried(settled, error, delay))
        if keep:
            again = msgspec.structs.replace(
                flight.delivery, attempt=settled.attempt + 1, failures=settled.failures + 1, last_failure=failure
            )
            self._in_flight.keep(flight, again)
            self._alarm.resume_in(delay, flight)
        elif flight.delivery is settled:
            self._finish(flight)
            self._alarm.take_due_in(delay, settled.reader.stream)
        else:
            # The answer was lost, and meanwhile the event was due and was taken again, under a new lease.
            self._in_flight.resume(flight)

    async def dead_letter(self, flight: Flight, verdict: GiveUp) -> None:
        """Move the delivery to the dead letters."""
        reason, traceback, attempts = verdict.reason, verdict.traceback, verdict.attempts
        settled = await self._settle(
            flight,
            lambda delivery: self._store.dead_letter(delivery, reason=reason, traceback=traceback, attempts=attempts),
        )
        if settled is not None:
            self._finish(flight)
            self._signals.emit(DeadLettered(settled, reason, traceback))

    async def _settle(self, flight: Flight, move: Callable[[Delivery], Awaitable[bool]]) -> Delivery | None:
        """Settle a delivery by a fenced move, repeated over transient errors.

        Return the delivery as it was settled, or None if its lease was lost.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._options.lease
        backoff = Backoff()
        may_have_happened = False
        while True:
            delivery = flight.delivery
            try:
                # If the move has happened before, its repetition finds the lease gone.
                if await move(delivery) or may_have_happened:
                    return delivery
                if flight.delivery is delivery:
                    break
            except (NotFound, *TRANSIENT) as error:
                # The consumer makes a lost group again, and reads this event again.
                may_have_happened = may_have_happened or isinstance(error, OutcomeUnknown)
                is_ours = self._in_flight.is_safe(flight, boottime()) and not isinstance(error, NotFound)
                if now() > deadline and not is_ours:
                    break
                await asyncio.sleep(backoff.next())
        for lost in self._in_flight.lose([flight.delivery]):
            self._signals.emit(LeaseLost(lost.delivery))
            # In an ordered group, the unstarted events are released.
            self._wakeups.changed.set()
        self._finish(flight)
        return None

    def _finish(self, flight: Flight) -> None:
        self._in_flight.finish(flight)
        self._made_room()

    def _made_room(self) -> None:
        self._wakeups.may_read.set()
        if self._wakeups.due:
            self._wakeups.changed.set()

    async def release(self, deliveries: Sequence[Delivery], *, until: asyncio.Event | None = None) -> None:
        """Release unstarted deliveries. Retry on transient errors until `until` is set; without it, try once.

        What the store has not released then is left to its leases.
        """
        if not deliveries:
            return
        backoff = Backoff()
        while True:
            try:
                await self._store.release(deliveries)
            except TRANSIENT:
                if until is None or await wait_for(until, backoff.next()):
                    return
            else:
                self._signals.emit(Released(tuple(deliveries)))
                return

    # Acks.

    def sending(self) -> list[asyncio.Task[None]]:
        """The task that sends acks, if there are any."""
        return [] if self._sending is None else [self._sending]

    def close(self) -> None:
        """Start no further task. The one that runs sends all acks."""
        self._closed = True

    async def _send_acks(self) -> None:
        try:
            while self._acks:
                batch, self._acks = self._acks, []
                await self._send([flight.delivery for flight in batch])
                self._in_flight.acked(batch)
                self._made_room()
        finally:
            self._sending = None

    async def _send(self, batch: list[Delivery]) -> None:
        backoff = Backoff()
        may_have_happened = False
        count: int | None = None
        while count is None:
            try:
                count = await self._store.ack(batch, remember=self._options.remember)
            except TRANSIENT as error:
                # An ack that is repeated does no harm; one that is missing is a duplicate.
                may_have_happened = may_have_happened or isinstance(error, OutcomeUnknown)
                await asyncio.sleep(backoff.next())
        if count < len(batch) and not may_have_happened:
            self._report_late(batch, count)

    def _report_late(self, batch: Sequence[Delivery], count: int) -> None:
        """Report the events that were no longer pending. Entries that have left the stream do not count."""
        late = sum(delivery.record is not None for delivery in batch) - count
        if late > 0:
            streams = Counter(delivery.reader.stream for delivery in batch)
            stream = streams.most_common(1)[0][0] if len(streams) == 1 else "*"
            self._signals.emit(LateAck(stream, batch[0].reader.group, late))
