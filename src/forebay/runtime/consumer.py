"""One consumer of a group: it reads ahead, hands events to workers, settles them, and stops cleanly.

reader ---> intake ---> workers ---> settler ---> store
claimer ------^
lease keeper (a thread): renews what the intake holds
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from forebay.errors import ForebayError, HandlerTimeout, MalformedEvent
from forebay.event import Event, Record, to_event
from forebay.payload import LIMITS, Limits
from forebay.policy import crashes_allowed, describe
from forebay.runtime.handler import Handler
from forebay.runtime.intake import Intake, Lane
from forebay.runtime.lease import LeaseKeeper
from forebay.runtime.options import LARGEST_FETCH, Options
from forebay.runtime.settle import Settler
from forebay.runtime.supervise import PASSING, repeat, wait_for
from forebay.signals import Delivered, Finished, Joined, LeaseLost, LoopFailed, Recovered, Signals, Skipped, Vanished
from forebay.store import START, Delivery, Leases, Reader

POLL = 0.5
"""Seconds between looks for due retries; also the longest that one read waits."""
TURN = 64
"""Events a worker handles before it lets the rest of the loop go on."""
ALONE_FROM = 3
"""From this delivery on, an event taken over from dead consumers is tried with no other such event beside it."""


class Consumer:
    """Handles a stream's events for one group until it is stopped.

    `last_read` is the monotonic time when a read last finished, or was not needed because all hands
    are full: the sign of life. `quiet` is true while nothing is held and the last read found nothing.
    """

    def __init__(
        self,
        store: Leases,
        reader: Reader,
        handler: Handler,
        options: Options,
        *,
        signals: Signals,
        keeper: LeaseKeeper,
        start: str = START,
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
        self._start = start
        self._limits = limits
        self._wait = wait
        self._intake = Intake(_lane(options))
        self._settler = Settler(
            store, reader, options, self._intake, signals, on_waiting=self._look_again_in, on_settled=self._make_room
        )
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._room = asyncio.Event()
        self._joined = asyncio.Event()
        self._smallest = options.prefetch or min(options.concurrency * (options.batch or 1), LARGEST_FETCH)
        self._largest = options.prefetch or LARGEST_FETCH
        self._window = self._smallest
        self._read_at = 0.0
        self._scan_at = 0.0
        self._position: str | None = None
        # What was read together, behind the place where that read began; see `_heal`.
        self._reads: deque[tuple[str | None, list[str]]] = deque()
        self._abandoned = False
        self._acks_cancelled: Callable[[], bool] = lambda: False
        self._starved = False
        self._empty = False
        self._unbegun_at_stop: list[Delivery] = []
        self._unbegun: str | None = None
        self._alone: str | None = None
        self._alone_from = min(ALONE_FROM, crashes_allowed(options.retry))
        self._repeated: set[str] = set()
        self._handled_ids: dict[str, None] = {}

    @property
    def held(self) -> dict[str, Delivery]:
        """What is leased and not yet handled, by position."""
        return self._intake.held

    @property
    def groups(self) -> list[tuple[str, str]]:
        """The stream and the group that it serves."""
        return [(self.reader.stream, self.reader.group)]

    @property
    def quiet(self) -> bool:
        """Whether there was nothing to do at the last look."""
        return self._empty and not self._intake.held and not self._settler.unacked

    def stop(self) -> None:
        """Read nothing more, finish what runs, give back the rest; `run` then returns."""
        self._unbegun_at_stop.extend(self._intake.close())
        for event in (self._stop, self._look, self._room, self._joined):
            event.set()

    async def run(self, *, grace: float = 10.0) -> None:
        """Consume until `stop`; handlers get `grace` seconds to finish, then they are cancelled.

        A cancelled handler's event is given back and charged no attempt. An error that does not pass
        (denied, damaged, a bug) stops the consumer in the same orderly way, and is raised.
        """
        self._keeper.add(self)
        acks = asyncio.create_task(self._settler.flush(), name="forebay-acks")
        self._acks_cancelled = lambda: acks.cancelling() > 0
        workers = [asyncio.create_task(self._work(), name="forebay-worker") for _ in range(self._options.concurrency)]
        loops = [
            asyncio.create_task(self._loop("read", self._read, before=self._join), name="forebay-read"),
            asyncio.create_task(self._loop("claim", self._claim, before=self._joined.wait), name="forebay-claim"),
        ]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            # Whichever ends first ends them all: none dies in silence.
            await asyncio.wait([stopping, acks, *workers, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            try:
                await stopping
                await asyncio.shield(self._drain(acks, workers, loops, grace))
            finally:
                await self._keeper.remove(self)
                self._handler.close()
        for task in (*loops, *workers, acks):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _drain(
        self,
        acks: asyncio.Task[None],
        workers: Sequence[asyncio.Task[None]],
        loops: Sequence[asyncio.Task[None]],
        grace: float,
    ) -> None:
        await self._settler.release(self._unbegun_at_stop)
        _, late = await asyncio.wait(workers, timeout=grace)
        self._abandoned = True
        for worker in late:
            worker.cancel()
        # Reads are never cancelled: one may have leased entries that nobody would know of.
        await asyncio.wait([*workers, *loops])
        await self._settler.release(list(self.held.values()))
        self._settler.close()
        # Acks that the store does not take by now lapse with their leases: handled again, not lost.
        _, unsent = await asyncio.wait([acks], timeout=max(grace, 1.0))
        if unsent:
            acks.cancel()
            await asyncio.wait([acks])

    # The loops.

    async def _loop(
        self, name: str, turn: Callable[[], Awaitable[None]], *, before: Callable[[], Awaitable[object]]
    ) -> None:
        def failed(error: BaseException, delay: float) -> None:
            self._signals.emit(LoopFailed(name, self.reader.stream, self.reader.group, error, delay))

        await repeat(turn, stop=self._stop, before=before, heal=self._heal, on_error=failed)

    async def _join(self) -> None:
        if await self._store.join(self.reader.stream, self.reader.group, start=self._start):
            self._position = self._start
            self._signals.emit(Joined(self.reader.stream, self.reader.group, healed=False))
        self._joined.set()

    async def _heal(self) -> None:
        # Never at the end: what was published since the group was lost would be passed over. And not
        # behind what is still in hand: its retries would have nowhere to go.
        self._forget_finished_reads()
        known = self._reads[0][0] if self._reads else self._position
        start = START if known is None else known
        self._position = start
        if await self._store.join(self.reader.stream, self.reader.group, start=start):
            self._signals.emit(Joined(self.reader.stream, self.reader.group, healed=True))

    async def _read(self) -> None:
        room = self._window - len(self.held) - self._settler.unacked
        if room < max(1, self._window // 2):
            self._room.clear()
            await wait_for(self._room, self._wait)
            self.last_read = time.monotonic()
            return
        deliveries = await self._store.read(self.reader, limit=room, wait=self._wait)
        self.last_read = time.monotonic()
        self._empty = not deliveries
        if deliveries:
            self._forget_finished_reads()
            self._reads.append((self._position, [delivery.position for delivery in deliveries]))
            self._position = deliveries[-1].position
            self._adapt(full=len(deliveries) == room, elapsed=self.last_read - self._read_at)
            self._read_at = self.last_read
            await self._take(deliveries)

    def _forget_finished_reads(self) -> None:
        while self._reads and not any(position in self.held for position in self._reads[0][1]):
            self._reads.popleft()

    def _adapt(self, *, full: bool, elapsed: float) -> None:
        """Read ahead about as much as the handlers finish in a tenth of a second."""
        if full and elapsed < 0.1:
            self._window = min(self._largest, self._window * 2)
        elif elapsed > 0.5:
            self._window = max(self._smallest, self._window // 2)

    async def _claim(self) -> None:
        room = self._window - len(self.held)
        self._starved = room <= 0
        if room > 0 and not self._stop.is_set():
            await self._take(await self._store.due(self.reader, limit=room))
        unsuspected = self._unbegun is None and self._alone is None
        if unsuspected and time.monotonic() >= self._scan_at and not self._stop.is_set():
            # One at a time, and only when the one before has begun: being taken over counts as an
            # attempt, and what never reaches a handler must not be charged for one.
            claimed = await self._store.claim(self.reader, idle=self.lease, limit=1)
            if claimed:
                await self._take_over(claimed)
                return
            self._scan_at = time.monotonic() + min(1.0, self.lease / 4)
        await wait_for(self._look, POLL)
        self._look.clear()

    async def _take_over(self, claimed: list[Delivery]) -> None:
        await self._take(claimed, first=True)
        for delivery in claimed:
            self._signals.emit(Recovered(delivery))
            self._unbegun = delivery.position
            if delivery.attempt >= self._alone_from:
                # It may be what killed its consumers: nothing else under suspicion dies with it.
                self._alone = delivery.position

    async def _take(self, deliveries: list[Delivery], *, first: bool = False) -> None:
        if not deliveries:
            return
        if self._options.dedup:
            ids = [d.record.id for d in deliveries if isinstance(d.record, Record)]
            try:
                handled = await self._store.handled(self.reader.stream, self.reader.group, ids)
            except PASSING:
                await self._settler.release(deliveries)
                raise
            if handled:
                self._repeated.update(
                    d.position for d in deliveries if isinstance(d.record, Record) and d.record.id in handled
                )
        if self._stop.is_set():
            await self._settler.release(deliveries)
        else:
            self._intake.put(deliveries, first=first)

    def _look_again_in(self, delay: float) -> None:
        # A hair later than due, so that the store agrees that it is.
        asyncio.get_running_loop().call_later(delay + 0.002, self._look.set)

    def _make_room(self) -> None:
        self._room.set()
        if self._starved:
            self._look.set()

    def lost(self, deliveries: list[Delivery]) -> None:
        """The keeper found these leases gone. Handlers that run go on: an ack may come late."""
        for delivery in deliveries:
            if self.held.get(delivery.position) is delivery:
                self._signals.emit(LeaseLost(delivery))

    # One delivery through the handler.

    async def _work(self) -> None:
        intake, batch = self._intake, self._options.batch
        turns = 0
        while (delivery := intake.pop() or await intake.next()) is not None:
            if batch is None:
                await self._handle(delivery)
            else:
                await self._handle_batch([delivery, *intake.more(batch - 1, beside=delivery)])
            turns += 1
            if not turns % TURN:
                await asyncio.sleep(0)

    async def _handle(self, delivery: Delivery) -> None:
        event = await self._open(delivery)
        if event is not None:
            await self._call(event, [delivery])

    async def _handle_batch(self, deliveries: list[Delivery]) -> None:
        opened = [(await self._open(delivery), delivery) for delivery in deliveries]
        events = [event for event, _ in opened if event is not None]
        if events:
            await self._call(events, [delivery for event, delivery in opened if event is not None])

    async def _open(self, delivery: Delivery) -> Event | None:
        """The event to hand over, or None where the delivery was settled without a handler."""
        if delivery.recovered:
            self._begun(delivery)
        if delivery.record is None:
            self._signals.emit(Vanished(delivery))
            self._settle_unhandled(delivery)
            return None
        if delivery.recovered and delivery.attempt > crashes_allowed(self._options.retry):
            await self._settle_dead(delivery, f"{delivery.attempt - 1} consumers died or fell silent while they had it")
            return None
        if self._options.dedup and self._is_repeated(delivery):
            self._signals.emit(Skipped(delivery))
            self._settle_unhandled(delivery)
            return None
        try:
            event = to_event(
                delivery.record,
                position=delivery.position,
                attempt=delivery.attempt,
                limits=self._limits,
                kind=self._handler.kind,
            )
        except MalformedEvent as error:
            await self._settle_dead(delivery, str(error))
            return None
        if self._signals.wanted(Delivered):
            self._signals.emit(Delivered(delivery))
        return event

    async def _call(self, event: Event | list[Event], deliveries: list[Delivery]) -> None:
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            await self._handler.call(event)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Where the whole loop is torn down, all its tasks are cancelled at once, the acks' too;
            # a handler that cancels itself is alone.
            if self._abandoned or task is None or self._acks_cancelled():
                raise
            task.uncancel()
            error = ForebayError("the handler was cancelled from within")
        except (KeyboardInterrupt, SystemExit):
            # The process ends: an attempt was made, so nothing is given back as if it had not been.
            for delivery in deliveries:
                self._intake.held.pop(delivery.position, None)
            raise
        except Exception as raised:  # noqa: BLE001  # whatever a handler raises is its event's fate
            error = raised
        except BaseException as raised:  # noqa: BLE001
            error = ForebayError(f"the handler raised {describe(raised)}")
        for delivery in deliveries:
            if error is not None:
                await self._settler.failed(delivery, error)
            else:
                self._settler.done(delivery)
                if self._signals.wanted(Finished):
                    self._signals.emit(Finished(delivery, time.perf_counter() - started))
                if self._options.dedup and isinstance(delivery.record, Record):
                    self._remember(delivery.record.id)
            self._after(delivery)
        if isinstance(error, HandlerTimeout) and error.still_running is not None:
            await asyncio.wait([error.still_running])

    def _settle_unhandled(self, delivery: Delivery) -> None:
        self._settler.done(delivery)
        self._after(delivery)

    async def _settle_dead(self, delivery: Delivery, reason: str) -> None:
        await self._settler.dead(delivery, reason)
        self._after(delivery)

    def _begun(self, delivery: Delivery) -> None:
        if self._unbegun == delivery.position:
            self._unbegun = None
            self._look.set()

    def _after(self, delivery: Delivery) -> None:
        if self._alone == delivery.position:
            self._alone = None
            self._look.set()

    def _is_repeated(self, delivery: Delivery) -> bool:
        if delivery.position in self._repeated:
            self._repeated.discard(delivery.position)
            return True
        return isinstance(delivery.record, Record) and delivery.record.id in self._handled_ids

    def _remember(self, id: str) -> None:
        # The store learns of it with the ack; until then only this consumer knows.
        self._handled_ids[id] = None
        if len(self._handled_ids) > 10_000:
            del self._handled_ids[next(iter(self._handled_ids))]


def _lane(options: Options) -> Lane | None:
    if options.ordered:
        return lambda delivery: delivery.record.key if isinstance(delivery.record, Record) else None
    if options.dedup:
        return lambda delivery: delivery.record.id if isinstance(delivery.record, Record) else delivery.position
    return None
