"""One consumer of a group: it reads ahead, hands events to workers, settles them, and stops cleanly.

reader ---> in flight ---> workers ---> settler ---> store
claimer ------^
lease keeper (a thread): renews what is in flight
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from forebay.announcer import Announcer
from forebay.cleanup import finish
from forebay.clock import boottime
from forebay.errors import ForebayError, OutcomeUnknown
from forebay.event import Record
from forebay.payload import LIMITS, Limits
from forebay.policy import crashes_allowed
from forebay.runtime.alarm import Alarm
from forebay.runtime.dedup import Deduplicator, id_of
from forebay.runtime.handler import Handler
from forebay.runtime.in_flight import InFlight, Lane
from forebay.runtime.lease_keeper import LeaseKeeper
from forebay.runtime.membership import Membership
from forebay.runtime.options import READ_AHEAD, Options
from forebay.runtime.poison import PoisonGuard
from forebay.runtime.run import leave
from forebay.runtime.settler import Settler
from forebay.runtime.sizes import AT_ONCE, Sizes
from forebay.runtime.supervise import TRANSIENT, repeat, wait_for
from forebay.runtime.workers import Workers
from forebay.signals import LeaseLost, LoopFailed, LoopRecovered, Recovered, Signals
from forebay.store import Delivery, Leases, Log, Reader

LAST = 1.2
"""Seconds after the grace of the handlers for what else there is to do at the end."""
TRIMMED_CHECK_INTERVAL = 5.0
"""Seconds between looks whether somebody trimmed the stream under the group."""
POLL = 0.5
"""Seconds between looks for due retries; also the longest that one read waits."""
READS_PER_WINDOW = 3
"""Reads that fill the window: one part is handled, the acks of another and the read of a third are on their way."""
REFILL_DELAY = 0.05
"""Seconds after a read in which the next one waits until it is worth its while."""
LEASE_SAFETY = 0.8
"""The part of a lease, from the moment before it was asked for, in which an event may be begun."""


class LogAndLeases(Log, Leases, Protocol):
    """What a consumer needs of a store."""


class Consumer:
    """Handles a stream's events for one group until it is stopped.

    `last_read` is the monotonic time when a read last finished, or was not needed because all hands
    are full: the sign of life. `is_idle` is true while nothing is held and the last read found nothing.
    """

    def __init__(
        self,
        store: LogAndLeases,
        reader: Reader,
        handler: Handler,
        options: Options,
        membership: Membership,
        *,
        signals: Signals,
        keeper: LeaseKeeper,
        announcer: Announcer | None = None,
        limits: Limits = LIMITS,
        wait: float = POLL,
    ) -> None:
        self.reader = reader
        self.lease = options.lease
        self.last_read: float | None = None
        self._store = store
        self._handler = handler
        self._options = options
        self._signals = signals
        self._keeper = keeper
        self._announcer = announcer
        self._membership = membership
        self._wait = wait
        self._in_flight = InFlight(_lane(options))
        self._claim_wakeup = asyncio.Event()
        self._alarm = Alarm(look=self._claim_wakeup.set, again=self._in_flight.again)
        self._settler = Settler(
            store,
            reader,
            options,
            self._in_flight,
            self._alarm,
            signals,
            on_settled=self._make_room,
            on_lost=self._doubt_leases,
        )
        self._stop = asyncio.Event()
        self._has_room = asyncio.Event()
        self._joined = asyncio.Event()
        batch = options.batch or 1
        self._slots = options.concurrency * batch
        # Whole batches: else every other one would be what was left beside those in hand.
        self._largest = options.prefetch or READ_AHEAD // batch * batch or READ_AHEAD
        self._smallest = min(self._slots, self._largest) if options.prefetch is None else options.prefetch
        self._window = self._smallest
        self._at_once = max(AT_ONCE // batch, 1) * batch
        self._sizes = Sizes(batch=batch)
        self._read_at = 0.0
        # What was in hand after the last read, what was finished since `_measured_at`: the speed of the handlers.
        self._load = 0
        self._finished = 0
        self._measured_at = 0.0
        self._scan_at = 0.0
        self._gaps_at = 0.0
        self._position: str | None = None
        # What was read together, behind the place where that read began; see `_heal`.
        self._reads: deque[tuple[str | None, list[str]]] = deque()
        self._claim_blocked = False
        self._empty = False
        self._unbegun_at_stop: list[Delivery] = []
        self._poison_guard = PoisonGuard(crashes_allowed(options.retry))
        self._deduplicator = Deduplicator()
        self._workers = Workers(
            handler,
            options,
            self._in_flight,
            self._settler,
            self._deduplicator,
            self._poison_guard,
            signals,
            limits,
            have_lapsed=self._have_lapsed,
            on_begun=self._on_started,
            on_over=self._on_finished,
            on_hung=self._on_worker_hung,
        )
        # What was asked for before something was given back may stand behind it, and goes back too.
        self._giving_back = 0
        self._gave_back_at = 0.0

    @property
    def held(self) -> dict[str, Delivery]:
        """What is leased and not yet handled, by position."""
        return self._in_flight.held

    def blocking(self, task: object) -> tuple[str, Delivery] | None:
        """The handler that this task runs, and the first event that it was given. From any thread."""
        begun = self._workers.begun_by(task)
        return (self._handler.name, begun[0]) if begun else None

    @property
    def leased(self) -> dict[str, Delivery]:
        """What is leased, by position; also what is handled while the store does not take the acks.

        A store that refuses acks for longer than a lease must not take this consumer for dead.
        """
        return {**self._in_flight.held, **self._settler.unconfirmed()}

    @property
    def groups(self) -> list[tuple[str, str]]:
        """The stream and the group that it serves."""
        return [(self.reader.stream, self.reader.group)]

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to do at the last look."""
        return self._empty and not self._in_flight.held and not self._settler.unacked

    def stop(self) -> None:
        """Read nothing more, finish what runs, give back the rest; `run` then returns."""
        self._alarm.close()
        self._unbegun_at_stop.extend(self._in_flight.close())
        for event in (self._stop, self._claim_wakeup, self._has_room, self._joined):
            event.set()

    async def run(self, *, grace: float = 10.0) -> None:
        """Consume until `stop`; handlers get `grace` seconds to finish, then they are cancelled.

        A cancelled handler's event is given back and charged no attempt. An error that does not pass
        (denied, damaged, a bug) stops the consumer in the same orderly way, and is raised.
        """
        self._keeper.add(self)
        if self._announcer is not None:
            self._announcer.add(self.groups)
        acks = asyncio.create_task(self._settler.flush(), name="forebay-acks")
        stopping = asyncio.create_task(self._stop.wait())
        workers = self._workers.start(stopping, is_torn_down=lambda: acks.cancelling() > 0)
        loops = [
            asyncio.create_task(self._loop("read", self._read, before=self._join), name="forebay-read"),
            asyncio.create_task(self._loop("claim", self._claim, before=self._joined.wait), name="forebay-claim"),
        ]
        try:
            # Whichever ends first ends them all: none dies in silence.
            await asyncio.wait([stopping, acks, *workers, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            await finish(self._end([stopping, acks, *loops], acks, workers, loops, grace))
        for task in (*loops, *workers, acks):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _end(
        self,
        own: Sequence[asyncio.Task[Any]],
        acks: asyncio.Task[None],
        workers: Sequence[asyncio.Task[None]],
        loops: Sequence[asyncio.Task[None]],
        grace: float,
    ) -> None:
        try:
            await self._drain(acks, workers, loops, grace)
        finally:
            self._handler.close()
            for task in own:
                task.cancel()
            if self._announcer is not None:
                self._announcer.remove(self.groups)
            await self._keeper.remove(self)

    async def _drain(
        self,
        acks: asyncio.Task[None],
        workers: Sequence[asyncio.Task[None]],
        loops: Sequence[asyncio.Task[None]],
        grace: float,
    ) -> None:
        """Let handlers finish within `grace` seconds, give back the rest, and send the acks, all within `LAST` more."""
        end = time.monotonic() + grace
        giving_back = asyncio.create_task(self._settler.release(self._unbegun_at_stop))
        _, late = await asyncio.wait(workers, timeout=grace)
        self._workers.abandon(late)
        # Reads are not cancelled in time: one may have leased entries that nobody would know of.
        await asyncio.wait([giving_back, *workers, *loops], timeout=_until(end + LAST / 2))
        # A handler that goes on, though it was cancelled, keeps its events until their leases run out.
        for delivery in self._workers.unended():
            self._in_flight.forget(delivery)
        rest = asyncio.create_task(self._settler.release(list(self.held.values())))
        await leave([rest], after=_until(end + LAST))
        self._settler.close()
        # Acks that the store does not take by now lapse with their leases: handled again, not lost.
        await leave([giving_back, acks, *workers, *loops], after=_until(end + LAST))
        if self._gaps_at:
            await leave([asyncio.create_task(self._look_for_gaps_at_last())], after=_until(end + LAST))
        for task in (giving_back, rest):
            if task.done() and not task.cancelled():
                task.result()

    # The loops.

    async def _loop(
        self, name: str, turn: Callable[[], Awaitable[None]], *, before: Callable[[], Awaitable[object]]
    ) -> None:
        def failed(error: BaseException, delay: float) -> None:
            self._signals.emit(LoopFailed(name, self.reader.stream, self.reader.group, error, delay))

        def recovered() -> None:
            self._signals.emit(LoopRecovered(name, self.reader.stream, self.reader.group))

        await repeat(turn, stop=self._stop, before=before, heal=self._heal, on_error=failed, on_recovery=recovered)

    async def _join(self) -> None:
        if (position := await self._membership.join()) is not None:
            self._position = position
        await self._look_for_gaps()
        self._joined.set()

    async def _look_for_gaps_at_last(self) -> None:
        # Where it fails, the next consumer of the group reports them.
        with contextlib.suppress(ForebayError):
            await self._look_for_gaps()

    async def _look_for_gaps(self) -> None:
        """Report what others removed from under the group since the last look."""
        await self._membership.report_trimmed()
        self._gaps_at = time.monotonic() + TRIMMED_CHECK_INTERVAL

    async def _heal(self) -> None:
        self._position = await self._membership.rejoin(self._before_what_is_held())

    async def _read(self) -> None:
        window = self._sizes.most(self._window, least=self._options.concurrency)
        part = min(-(-window // READS_PER_WINDOW), self._at_once)
        load = len(self.held) + self._settler.unacked
        room = window - load
        least = part if time.monotonic() < self._read_at + REFILL_DELAY else 1
        if room < least or self._workers.all_hang:
            self._has_room.clear()
            await wait_for(self._has_room, REFILL_DELAY if room > 0 else self._wait)
            self.last_read = time.monotonic()
            return
        limit = min(room, max(part, self._slots), self._at_once)
        requested_at = boottime()
        deliveries = await self._lease(self._store.read(self.reader, limit=limit, wait=self._wait))
        self.last_read = time.monotonic()
        self._empty = not deliveries
        if deliveries:
            self._sizes.seen(deliveries)
            self._forget_finished_reads()
            self._reads.append((self._position, [delivery.position for delivery in deliveries]))
            self._position = deliveries[-1].position
            self._finished += max(0, self._load - load)
            self._load = load + len(deliveries)
            self._adapt(part, full=len(deliveries) == limit >= part)
            self._read_at = self.last_read
            await self._take(deliveries, requested_at)

    def _before_what_is_held(self) -> str | None:
        """The place behind which all is read that is still in hand: else its retries would have nowhere to go."""
        self._forget_finished_reads()
        if not self._reads:
            return self._position
        before, positions = self._reads[0]
        for position in positions:
            if position in self.held:
                break
            before = position
        return before

    def _forget_finished_reads(self) -> None:
        while self._reads and self.held.keys().isdisjoint(self._reads[0][1]):
            self._reads.popleft()

    def _adapt(self, part: int, *, full: bool) -> None:
        """Read ahead about as much as the handlers finish in a tenth of a second."""
        now = time.monotonic()
        elapsed = now - self._measured_at
        # That there is room says nothing: a window that has just grown has room before anything is finished.
        if self._finished < part and elapsed <= 0.5:
            return
        if full and elapsed < 0.1:
            self._window = min(self._largest, self._window * 2)
        elif elapsed > 0.5:
            self._window = max(self._smallest, self._window // 2)
        self._finished, self._measured_at = 0, now

    async def _claim(self) -> None:
        if self._in_flight.leases_doubtful:
            await self._give_back()
        window = self._sizes.most(self._window, least=self._options.concurrency)
        room = 0 if self._workers.all_hang else window - len(self.held)
        self._claim_blocked = room <= 0
        if room > 0 and not self._stop.is_set():
            while not self._stop.is_set() and await self._store.append_due(self.reader.stream):
                pass
            requested_at = boottime()
            due = await self._lease(self._store.take_due(self.reader, limit=min(room, self._at_once)))
            if due:
                self._sizes.seen(due)
            await self._take(due, requested_at)
        may_claim = self._poison_guard.are_none and not self._workers.all_hang and time.monotonic() >= self._scan_at
        if may_claim and not self._stop.is_set():
            requested_at = boottime()
            claimed = await self._lease(self._store.claim(self.reader, idle=self.lease, limit=1))
            if claimed:
                await self._take_over(claimed, requested_at)
                return
            self._scan_at = time.monotonic() + min(1.0, self.lease / 4)
            if time.monotonic() >= self._gaps_at:
                await self._look_for_gaps()
        await wait_for(self._claim_wakeup, POLL)
        self._claim_wakeup.clear()

    async def _lease(self, move: Awaitable[list[Delivery]]) -> list[Delivery]:
        """What a move leases to this consumer."""
        reader = self.reader
        try:
            deliveries = await move
        except OutcomeUnknown:
            if self._options.ordered and reader is self.reader:
                # It may have leased events that nobody knows of.
                self._rename()
            raise
        if reader is self.reader:
            return deliveries
        await self._return(deliveries)
        return []

    async def _take_over(self, claimed: list[Delivery], requested_at: float) -> None:
        for delivery in claimed:
            if delivery.recovered:
                self._signals.emit(Recovered(delivery))
                self._poison_guard.add(delivery)
        await self._take(claimed, requested_at, first=True)

    async def _take(self, deliveries: list[Delivery], requested_at: float, *, first: bool = False) -> None:
        if not deliveries:
            return
        if self._options.dedup:
            ids = [id for delivery in deliveries if (id := id_of(delivery)) is not None]
            try:
                handled = await self._store.handled(self.reader.stream, self.reader.group, ids)
            except TRANSIENT:
                await self._return(deliveries)
                raise
            self._deduplicator.told(deliveries, handled)
        if self._stop.is_set() or self._giving_back or requested_at < self._gave_back_at:
            await self._return(deliveries)
            # A store in memory never waits: whoever gives back must come to its end all the same.
            await asyncio.sleep(0)
        else:
            self._in_flight.put(deliveries, safe_until=requested_at + LEASE_SAFETY * self.lease, first=first)

    # Leases that may have run out: the process or the machine stood still, or the store did not answer.

    def renewed(self, kept: list[Delivery], lost: list[Delivery], requested_at: float) -> None:
        """What the keeper found. Handlers that run go on: an ack may come late."""
        self._in_flight.renewed(kept, safe_until=requested_at + LEASE_SAFETY * self.lease)
        lost = [delivery for delivery in lost if self.held.get(delivery.position) is delivery]
        self._in_flight.drop(lost)
        for delivery in lost:
            self._signals.emit(LeaseLost(delivery))
            if delivery.position not in self.held:
                self._on_finished(delivery)
        if lost:
            self._doubt_leases()

    def _doubt_leases(self) -> None:
        """A lease is lost, or left to lapse: in an ordered group, what is not begun comes after that event."""
        if self._options.ordered:
            self._rename()
            self._in_flight.leases_doubtful = True
            self._claim_wakeup.set()

    def _rename(self) -> None:
        """Wait, as all others do, until what stands under the old name is finished or can be claimed.

        Under that name this consumer would read on behind it.
        """
        name = f"{self.reader.consumer[:119]}-{os.urandom(4).hex()}"
        self.reader = msgspec.structs.replace(self.reader, consumer=name)

    async def _have_lapsed(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether these may be somebody else's by now; then they are given back, and what is behind them."""
        # The keeper may have renewed them, and wait to tell, if a handler held up the loop.
        looked = boottime()
        await asyncio.sleep(0)
        # Where all that is not begun was given back meanwhile, these belong to it.
        if all(map(self._in_flight.is_safe, deliveries)) and not self._giving_back and self._gave_back_at < looked:
            return False
        await self._give_back(deliveries)
        return True

    async def _give_back(self, deliveries: Sequence[Delivery] = ()) -> None:
        """Give back these and all that no worker has begun."""
        self._in_flight.leases_doubtful = False
        for delivery in deliveries:
            self._in_flight.done(delivery)
        self._giving_back += 1
        try:
            await self._return([*deliveries, *self._in_flight.withdraw()])
        finally:
            self._giving_back -= 1
            self._gave_back_at = boottime()
            self._make_room()

    async def _return(self, deliveries: Sequence[Delivery]) -> None:
        await self._settler.release(deliveries, until=self._stop)
        for delivery in deliveries:
            self._on_finished(delivery)

    async def _on_worker_hung(self) -> None:
        """Workers hang, or hang no more. When all do, others get what they would have begun."""
        if self._workers.all_hang:
            await self._give_back()
        else:
            self._has_room.set()
            self._claim_wakeup.set()

    def _make_room(self) -> None:
        self._has_room.set()
        if self._claim_blocked:
            self._claim_wakeup.set()

    def _on_started(self, delivery: Delivery) -> None:
        if self._poison_guard.begun(delivery):
            self._claim_wakeup.set()

    def _on_finished(self, delivery: Delivery) -> None:
        # Of any delivery: what this consumer took over may have been its own, which a worker had begun before.
        if self._poison_guard.over(delivery):
            self._claim_wakeup.set()


def _until(moment: float) -> float:
    return max(0.0, moment - time.monotonic())


def _lane(options: Options) -> Lane | None:
    if options.ordered:
        return lambda delivery: delivery.record.key if isinstance(delivery.record, Record) else None
    if options.dedup:
        return lambda delivery: id_of(delivery) or delivery.position
    return None
