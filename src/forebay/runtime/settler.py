"""What becomes of a delivery once it was handled: batched acks, retries, dead letters, releases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from forebay.errors import NotFound, OutcomeUnknown
from forebay.policy import GiveUp, RetryIn, decide, failure_of, history
from forebay.restarts import Backoff
from forebay.runtime.alarm import Alarm
from forebay.runtime.in_flight import InFlight
from forebay.runtime.options import Options
from forebay.runtime.supervise import TRANSIENT, wait_for
from forebay.signals import DeadLettered, LateAck, LeaseLost, Released, Retried, Signals
from forebay.store import Delivery, Failure, Leases, Reader


class Settler:
    """Tells the store how deliveries ended.

    Acks are collected while one batch of them is on its way, so their number per call grows with the
    load. Everything else is one move each, repeated over transient errors for the length of a lease, and on while
    the lease is renewed; after that the delivery is left to lapse and will be taken over.
    """

    def __init__(
        self,
        store: Leases,
        reader: Reader,
        options: Options,
        in_flight: InFlight,
        alarm: Alarm,
        signals: Signals,
        *,
        on_settled: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._store = store
        self._reader = reader
        self._options = options
        self._in_flight = in_flight
        self._signals = signals
        self._alarm = alarm
        self._on_settled = on_settled
        self._on_lost = on_lost
        self._acks: list[Delivery] = []
        self._sending: list[Delivery] = []
        self._more = asyncio.Event()
        self._closed = False

    @property
    def unacked(self) -> int:
        """How many handled deliveries the store has not confirmed yet."""
        return len(self._acks) + len(self._sending)

    def unconfirmed(self) -> dict[str, Delivery]:
        """These deliveries, by position. From any thread."""
        return {delivery.position: delivery for delivery in [*self._sending, *self._acks]}

    def done(self, delivery: Delivery) -> None:
        """The delivery was handled."""
        self._in_flight.done(delivery)
        if not self._acks:
            self._more.set()
        self._acks.append(delivery)

    async def failed(self, delivery: Delivery, error: BaseException) -> None:
        """The handler raised: the retry policy says what follows."""
        failures, failure = delivery.failures + 1, failure_of(error)
        match decide(error, failures=failures, retry=self._options.retry):
            case RetryIn(delay):
                await self._again(delivery, error, delay, failure)
            case GiveUp(reason):
                reason = history(reason, attempts=delivery.attempt, failures=failures)
                await self.dead(delivery, GiveUp(reason, failure.traceback))

    async def _again(self, delivery: Delivery, error: BaseException, delay: float, failure: Failure) -> None:
        keep = self._options.ordered
        held = await self._persist(
            delivery, lambda: self._store.retry(self._current(delivery), delay=delay, keep=keep, failure=failure)
        )
        if held is None:
            return
        self._signals.emit(Retried(delivery, error, delay))
        if not keep:
            self._let_go(delivery)
            self._alarm.look_in(delay)
            return
        current = self._current(delivery)
        again = msgspec.structs.replace(
            current, attempt=current.attempt + 1, failures=current.failures + 1, last_failure=failure
        )
        # The keeper goes on renewing it, under its new self, while it waits here.
        self._in_flight.held[delivery.position] = again
        self._alarm.again_in(delay, again)

    async def dead(self, delivery: Delivery, verdict: GiveUp) -> None:
        """The delivery becomes a dead letter."""
        reason, traceback, attempts = verdict.reason, verdict.traceback, verdict.attempts
        buried = await self._persist(
            delivery,
            lambda: self._store.dead_letter(
                self._current(delivery), reason=reason, traceback=traceback, attempts=attempts
            ),
        )
        if buried is not None:
            self._let_go(delivery)
            self._signals.emit(DeadLettered(delivery, reason, traceback))

    async def release(self, deliveries: Sequence[Delivery], *, until: asyncio.Event | None = None) -> None:
        """Give deliveries back untried, over transient errors `until` something happens.

        What the store does not hear lapses with its lease.
        """
        if not deliveries:
            return
        deliveries = [self._current(delivery) for delivery in deliveries]
        for delivery in deliveries:
            self._in_flight.forget(delivery)
        backoff = Backoff()
        while True:
            try:
                await self._store.release(deliveries)
            except NotFound:
                return
            except TRANSIENT:
                if until is None or await wait_for(until, backoff.next()):
                    return
            else:
                self._signals.emit(Released(tuple(deliveries)))
                return

    async def _persist(self, delivery: Delivery, move: Callable[[], Awaitable[bool]]) -> bool | None:
        """Repeat a fenced move over transient errors; None where the delivery is ours no more."""
        deadline = asyncio.get_running_loop().time() + self._options.lease
        backoff = Backoff()
        unsure = False
        while True:
            try:
                if await move() or unsure:
                    return True
                break
            except (NotFound, *TRANSIENT) as error:
                # A lost group is made again, and this event read again, by the reader meanwhile.
                # The move may have happened unheard; then its repetition finds the lease gone.
                unsure = unsure or isinstance(error, OutcomeUnknown)
                is_ours = self._in_flight.is_safe(delivery) and not isinstance(error, NotFound)
                if asyncio.get_running_loop().time() > deadline and not is_ours:
                    break
                await asyncio.sleep(backoff.next())
        self._on_lost()
        self._let_go(delivery)
        self._signals.emit(LeaseLost(delivery))
        return None

    def _current(self, delivery: Delivery) -> Delivery:
        """The delivery under its newest lease: if its group was lost, it was read again while its handler runs."""
        return self._in_flight.held.get(delivery.position, delivery)

    def _let_go(self, delivery: Delivery) -> None:
        self._in_flight.done(delivery)
        self._on_settled()

    async def flush(self) -> None:
        """Send acks until `close`, and then those that are left."""
        while self._acks or not self._closed:
            await self._more.wait()
            self._more.clear()
            if self._acks:
                self._sending, self._acks = self._acks, []
                await self._ack(self._sending)
                self._sending = []
                self._on_settled()

    async def _ack(self, batch: list[Delivery]) -> None:
        backoff = Backoff()
        unsure = False
        count = None
        while count is None:
            try:
                count = await self._store.ack(batch, remember=self._options.remember)
            except NotFound:
                count = 0  # the group is lost; where it is healed, these are done again
            except TRANSIENT as error:
                # An ack repeated does no harm; one forgotten is a duplicate.
                unsure = unsure or isinstance(error, OutcomeUnknown)
                await asyncio.sleep(backoff.next())
        if count < len(batch) and not unsure:
            late = sum(delivery.record is not None for delivery in batch) - count
            if late > 0:
                self._signals.emit(LateAck(self._reader.stream, self._reader.group, late))

    def close(self) -> None:
        """Let `flush` end once all acks are sent."""
        self._closed = True
        self._more.set()
