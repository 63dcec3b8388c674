"""Leases entries for a consumer, as far as there is room: new ones, due ones, and those of dead consumers.

Two loops call it: one reads, because a read may wait in the store; the other releases, takes due entries and claims.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Protocol

import msgspec

from forebay.clock import boottime
from forebay.errors import NotFound, OutcomeUnknown
from forebay.runtime.dedup import id_of
from forebay.runtime.groups import ConsumerStore
from forebay.runtime.in_flight import InFlight
from forebay.runtime.options import Options
from forebay.runtime.read_ahead import FULL_READ_SECONDS, READ_EVENTS
from forebay.runtime.services import Services
from forebay.runtime.settler import Settler
from forebay.runtime.supervise import TRANSIENT, wait_for
from forebay.runtime.wakeups import Wakeups
from forebay.runtime.workers import Workers
from forebay.signals import LeaseLost, Recovered, Signals
from forebay.store import Delivery, Reader

READ_SECONDS = 0.5
"""The longest that one read waits in the store, and that a full window is waited for."""
LEASE_SAFETY_FACTOR = 0.8
"""The part of a lease, counted from the moment at which it was requested, in which an event may start."""


class Add(Protocol):
    """One of the methods by which deliveries are added to the ledger."""

    def __call__(
        self, deliveries: Sequence[Delivery], /, *, safe_until: float, handled_ids: Collection[str]
    ) -> None: ...


class Fetcher:
    """Leases entries of the consumer's streams, adds them to the ledger, and releases those that must not start.

    **Why an ordered consumer takes a new name.** The store lets one consumer of an ordered group work at a time: it
    returns nothing to one consumer while another holds an entry. If this consumer has lost a lease, or does not know
    whether a move leased entries to it, an entry that comes before the next unread one may be anywhere. Under its old
    name it would read on, past that entry. Under a new name it is another consumer to the store: it reads nothing until
    the entries under the old name are settled, or can be claimed, the oldest first.

    `read_at` is the monotonic time of the last turn of `read`. `found_nothing` is True if the last read did.
    `waits_for_work` is True while the shared services watch the streams for it.
    """

    def __init__(
        self,
        store: ConsumerStore,
        options: Options,
        in_flight: InFlight,
        settler: Settler,
        workers: Workers,
        *,
        signals: Signals,
        services: Services,
        wakeups: Wakeups,
        stop: asyncio.Event,
        wait: float,
    ) -> None:
        self.read_at: float | None = None
        self.found_nothing = False
        self.waits_for_work = False
        self._store = store
        self._options = options
        self._in_flight = in_flight
        self._settler = settler
        self._workers = workers
        self._signals = signals
        self._services = services
        self._wakeups = wakeups
        self._stop = stop
        self._wait = wait
        self._reads = 0

    # The loop that reads.

    async def read(self) -> bool:
        """Read once, or wait for unread entries or for room; return whether the store was read."""
        is_blocking = self._services.is_blocking
        if not is_blocking and not self._wakeups.unread:
            await self._wait_for_work()
            if self._stop.is_set():
                return False
        readers = self._wakeups.readers if is_blocking else self._unread()
        if not readers:
            return False
        in_flight = len(self._in_flight)
        limit = self._in_flight.read_ahead.limit(in_flight, time.monotonic())
        if not limit or self._workers.all_hang:
            self._wakeups.may_read.clear()
            await wait_for(self._wakeups.may_read, FULL_READ_SECONDS if self._in_flight.room() else self._wait)
            self.read_at = time.monotonic()
            return False
        readers = readers[:limit]
        await self._read(readers, limit // len(readers), in_flight, wait=self._wait if is_blocking else 0.0)
        return True

    async def _wait_for_work(self) -> None:
        self.waits_for_work = True
        self._wakeups.may_read.clear()
        await self._wakeups.may_read.wait()
        self.waits_for_work = False
        self.read_at = time.monotonic()

    async def _read(self, readers: Sequence[Reader], limit: int, in_flight: int, *, wait: float) -> None:
        unread = self._wakeups.unread
        # Removed before the read: what is appended during it adds them again. A read may return fewer entries than
        # there are, so only streams without any stay removed.
        streams = [reader.stream for reader in readers]
        unread.difference_update(streams)
        requested_at = boottime()
        try:
            deliveries = await self._leased(self._store.read(*readers, limit=limit, wait=wait))
        except BaseException:
            unread.update(streams)
            raise
        self.read_at = time.monotonic()
        self.found_nothing = not deliveries
        if deliveries:
            unread.update({delivery.reader.stream for delivery in deliveries} if len(streams) > 1 else streams)
            self._in_flight.read_ahead.record_read(deliveries, limit=limit, in_flight=in_flight, now=self.read_at)
            await self._add(deliveries, requested_at, self._in_flight.add_read)
            if len(deliveries) < limit:
                # These are probably all: let their handlers start before the next read is made.
                await asyncio.sleep(0)

    def _unread(self) -> Sequence[Reader]:
        """The readers of the streams that may have unread entries, with another one first each time."""
        readers = self._wakeups.readers
        if len(readers) == 1:
            return readers if self._wakeups.unread else ()
        readers = [reader for reader in readers if reader.stream in self._wakeups.unread]
        if len(readers) > 1:
            self._reads += 1
            first = self._reads % len(readers)
            readers = readers[first:] + readers[:first]
        return readers

    # The loop that does the rest.

    async def maintain(self) -> None:
        """Wait for a reason, then release deliveries that must not start, lease due entries, and claim expired ones."""
        wakeups = self._wakeups
        await wakeups.changed.wait()
        wakeups.changed.clear()
        try:
            self._raise_if_needed()
            await self._release_if_needed()
            await self._take_due()
            await self._claim()
        except BaseException:
            wakeups.changed.set()
            raise
        finally:
            self._wakeups.may_read.set()

    def _raise_if_needed(self) -> None:
        if self._wakeups.error is not None:
            raise self._wakeups.error
        if self._wakeups.lost:
            raise NotFound(f"the group is lost on {', '.join(sorted(self._wakeups.lost))}")

    async def _take_due(self) -> None:
        for stream in list(self._wakeups.due):
            if not (room := self._room()):
                return
            requested_at = boottime()
            move = self._store.take_due(self._wakeups.reader(stream), limit=min(room, READ_EVENTS))
            if due := await self._leased_of(self._wakeups.due, stream, move):
                self._in_flight.read_ahead.measure(due)
                await self._add(due, requested_at, self._in_flight.add_taken)

    async def _claim(self) -> None:
        for stream in list(self._wakeups.claimable):
            if not self._in_flight.may_claim() or self._workers.all_hang or self._stop.is_set():
                return
            requested_at = boottime()
            move = self._store.claim(self._wakeups.reader(stream), idle=self._options.lease, limit=1)
            if claimed := await self._leased_of(self._wakeups.claimable, stream, move):
                for delivery in claimed:
                    if delivery.recovered:
                        self._signals.emit(Recovered(delivery))
                await self._add(claimed, requested_at, self._in_flight.add_claimed)
                # A store in memory never waits: let the claimed event start before the next claim.
                await asyncio.sleep(0)

    def _room(self) -> int:
        return 0 if self._workers.all_hang or self._stop.is_set() else self._in_flight.room()

    async def _leased_of(self, streams: set[str], stream: str, move: Awaitable[list[Delivery]]) -> list[Delivery]:
        """The deliveries of a move. The stream stays in this set of work unless the move finds nothing."""
        streams.discard(stream)
        may_find_more = True
        try:
            deliveries = await self._leased(move)
            may_find_more = bool(deliveries)
        finally:
            if may_find_more:
                self._wakeups.add(streams, stream)
        return deliveries

    # What both do.

    async def _leased(self, move: Awaitable[list[Delivery]]) -> list[Delivery]:
        """The deliveries of a move; none if this consumer took a new name meanwhile: then they are released."""
        readers = self._wakeups.readers
        try:
            deliveries = await move
        except OutcomeUnknown:
            if self._options.ordered and readers is self._wakeups.readers:
                # The move may have leased entries that this consumer does not know of.
                self._take_new_name()
            raise
        if readers is self._wakeups.readers:
            return deliveries
        await self._release(deliveries)
        return []

    async def _add(self, deliveries: Sequence[Delivery], requested_at: float, add: Add) -> None:
        handled_ids = await self._handled_ids(deliveries) if self._options.dedup else ()
        if self._in_flight.accepts(requested_at):
            add(
                deliveries, safe_until=requested_at + LEASE_SAFETY_FACTOR * self._options.lease, handled_ids=handled_ids
            )
            self._workers.start()
        else:
            await self._release(deliveries)
            # A store in memory never waits: let a release come to its end.
            await asyncio.sleep(0)

    async def _handled_ids(self, deliveries: Sequence[Delivery]) -> Collection[str]:
        """The ids of these events that the group has handled, as the store remembers."""
        ids: dict[Reader, list[str]] = {}
        for delivery in deliveries:
            if (id := id_of(delivery)) is not None:
                ids.setdefault(delivery.reader, []).append(id)
        handled: set[str] = set()
        try:
            for reader, some in ids.items():
                handled |= await self._store.handled(reader.stream, reader.group, some)
        except TRANSIENT:
            await self._release(deliveries)
            raise
        return handled

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        await self._settler.release(deliveries, until=self._stop)

    # Leases that may have run out: the process or the machine stood still, or the store did not answer.

    def renewed(self, kept: Sequence[Delivery], lost: Sequence[Delivery], requested_at: float) -> None:
        """The lease keeper renewed leases, and found others gone. Running handlers go on: an ack may come late."""
        self._in_flight.renew(kept, safe_until=requested_at + LEASE_SAFETY_FACTOR * self._options.lease)
        for flight in self._in_flight.lose(lost):
            self._signals.emit(LeaseLost(flight.delivery))
        self._wakeups.changed.set()

    async def _release_if_needed(self) -> None:
        """Release all unstarted deliveries if a lease may have run out, an order is broken, or all workers hang."""
        if self._in_flight.may_have_lost_leases:
            # Renewals by the lease keeper may wait for a turn of the event loop, if a handler blocked it.
            await asyncio.sleep(0)
            if not self._in_flight.must_release(boottime()):
                self._workers.start()
                return
        elif not self._workers.all_hang:
            return
        if self._in_flight.is_order_broken:
            self._take_new_name()
        unstarted = self._in_flight.begin_release()
        try:
            await self._release([flight.delivery for flight in unstarted])
        finally:
            self._in_flight.end_release(boottime())

    def _take_new_name(self) -> None:
        name = f"{self._wakeups.readers[0].consumer[:119]}-{os.urandom(4).hex()}"
        self._wakeups.readers = [msgspec.structs.replace(reader, consumer=name) for reader in self._wakeups.readers]
