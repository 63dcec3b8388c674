"""The ledger of a consumer's deliveries. Pure: no event loop, no store, no clock of its own.

         next                 handled                  finish
queued --------> running ------------------> handled ----------> gone (the store has the ack)
  ^                |  +----------------------------------------> gone (retried by the store, dead)
  |     resume     | keep        finish
  +----- waiting <-+
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Literal

import msgspec

from forebay.event import Record
from forebay.policy import crashes_allowed
from forebay.runtime.dedup import Deduplicator, id_of
from forebay.runtime.options import Options
from forebay.runtime.poison import PoisonGuard
from forebay.runtime.read_ahead import ReadAhead
from forebay.store import START, Delivery

State = Literal["queued", "running", "waiting", "handled", "gone"]
Key = tuple[str, str]
"""The stream and the position of a delivery."""


class Flight(msgspec.Struct, eq=False, gc=False):
    """One delivery on its way through the consumer.

    `delivery` has the latest lease of the entry, which surely holds until `safe_until`. `state`: "queued" (no handler
    has started it), "running", "waiting" (it failed, and is retried under the same lease) or "handled" (its ack is on
    the way). `read_after`: the position after which its group must restart to deliver it again; None if no read
    returned it. `is_repeat`: the store knows that its id was handled. `is_lost`: another consumer may hold it.
    `is_suspect`: it was taken over from a dead consumer.
    """

    key: Key
    delivery: Delivery
    safe_until: float
    read_after: str | None = None
    is_repeat: bool = False
    state: State = "queued"
    lane: Hashable = None
    is_lost: bool = False
    is_suspect: bool = False


class InFlight:
    """Decides which deliveries start, and when; how many more fit; and where a lost group restarts.

    - **Lanes.** Deliveries of one lane start one after the other: of one key (`ordered`), or of one id (`dedup`).
    - **Leases.** No delivery starts after its `safe_until`. Then `may_have_lost_leases` is True, and all unstarted
      deliveries are released. If an ordered group loses a lease, `is_order_broken` is True as well, and nothing starts
      until they are released: they come after the lost one.
    - **Releases.** Deliveries that were requested before a release was complete may come after those that were
      released, so `accepts` refuses them.
    - **Suspects.** `may_claim` says when the next event may be taken over from a dead consumer (`PoisonGuard`).

    `now` and `requested_at` are seconds on one clock, the caller's. All methods are idempotent: a delivery that is
    gone, or is in another state already, is left as it is.
    """

    def __init__(self, options: Options) -> None:
        self.may_have_lost_leases = False
        self.is_order_broken = False
        self.read_ahead = ReadAhead(
            concurrency=options.concurrency, batch=options.batch or 1, prefetch=options.prefetch
        )
        self._ordered = options.ordered
        self._lane_of = _lane_of(options)
        self._flights: dict[Key, Flight] = {}
        self._queue: deque[Flight] = deque()
        # The unstarted deliveries of each lane that has one queued, running or waiting.
        self._lanes: dict[Hashable, deque[Flight]] = {}
        self._read_to: dict[str, str] = {}
        self._poison_guard = PoisonGuard(crashes_allowed(options.retry))
        self._deduplicator = Deduplicator() if options.dedup else None
        self._is_releasing = False
        self._released_at = -math.inf
        self._is_closed = False

    def __len__(self) -> int:
        """The number of deliveries in flight, the handled ones whose acks are on their way included."""
        return len(self._flights)

    def room(self) -> int:
        """How many more deliveries fit."""
        return self.read_ahead.room(len(self._flights))

    @property
    def startable(self) -> int:
        """How many deliveries `next` would start one after the other; 0 while `may_have_lost_leases`."""
        return 0 if self.may_have_lost_leases else len(self._queue)

    @property
    def leased(self) -> dict[Key, Delivery]:
        """The deliveries whose leases must be renewed. May be called from any thread."""
        return {flight.key: flight.delivery for flight in list(self._flights.values()) if not flight.is_lost}

    def unsettled(self) -> list[Flight]:
        """The deliveries that are not handled yet."""
        return [flight for flight in self._flights.values() if flight.state != "handled"]

    # Deliveries come in.

    def accepts(self, requested_at: float) -> bool:
        """True if deliveries that were requested at that time may be added; else they must be released."""
        return not self._is_closed and not self._is_releasing and requested_at >= self._released_at

    def add_read(self, deliveries: Iterable[Delivery], *, safe_until: float, handled_ids: Collection[str] = ()) -> None:
        """Add what a read returned, in the order of each stream. `handled_ids` were handled, as the store remembers."""
        flights, queue, lane_of = self._flights, self._queue, self._lane_of
        stream, after = None, START
        for delivery in deliveries:
            if delivery.reader.stream != stream:
                stream = delivery.reader.stream
                after = self._read_to.get(stream, START)
            position = delivery.position
            key = (stream, position)
            if key not in flights or not self._is_reread(key, delivery, safe_until, after):
                flights[key] = flight = Flight(key, delivery, safe_until, after)
                if lane_of is None:
                    queue.append(flight)
                else:
                    flight.is_repeat = id_of(delivery) in handled_ids
                    self._enter_lane(flight)
            self._read_to[stream] = after = position

    def _is_reread(self, key: Key, delivery: Delivery, safe_until: float, after: str) -> bool:
        """Renew a delivery that is read again, unless it is handled: then it is to be handled again."""
        # Removed, and added at the end: the order of the dictionary is that of the reads.
        known = self._flights.pop(key)
        if known.state == "handled":
            return False
        self._flights[key] = known
        known.read_after = after
        self._renew(known, delivery, safe_until)
        return True

    def add_taken(
        self, deliveries: Iterable[Delivery], *, safe_until: float, handled_ids: Collection[str] = ()
    ) -> None:
        """Add waiting entries that were due."""
        for delivery in deliveries:
            self._add_again(delivery, safe_until, handled_ids)

    def add_claimed(
        self, deliveries: Iterable[Delivery], *, safe_until: float, handled_ids: Collection[str] = ()
    ) -> None:
        """Add claimed entries; they start before the queued ones."""
        for delivery in deliveries:
            if delivery.recovered:
                self._poison_guard.claimed((delivery.reader.stream, delivery.position), attempt=delivery.attempt)
            flight = self._add_again(delivery, safe_until, handled_ids, front=True)
            flight.is_suspect = flight.is_suspect or delivery.recovered

    def _add_again(
        self, delivery: Delivery, safe_until: float, handled_ids: Collection[str], *, front: bool = False
    ) -> Flight:
        """Add an entry that was read before, by this consumer or another one."""
        key = (delivery.reader.stream, delivery.position)
        known = self._flights.get(key)
        if known is not None and known.state != "handled":
            self._renew(known, delivery, safe_until)
            return known
        after = known.read_after if known is not None else None
        self._flights[key] = flight = Flight(key, delivery, safe_until, after, id_of(delivery) in handled_ids)
        self._enter_lane(flight, front=front)
        return flight

    def _renew(self, flight: Flight, delivery: Delivery, safe_until: float) -> None:
        """Give a delivery that is in flight its new lease.

        Its group was lost and read again, or its lease had run out and this consumer claimed it.
        """
        flight.delivery, flight.safe_until, flight.is_lost = delivery, safe_until, False
        if flight.state == "running":
            self._poison_guard.started(flight.key)
        elif flight.state == "waiting":
            self._poison_guard.finished(flight.key)

    def _enter_lane(self, flight: Flight, *, front: bool = False) -> None:
        if self._lane_of is not None:
            flight.lane = self._lane_of(flight.delivery)
            if (unstarted := self._lanes.get(flight.lane)) is not None:
                unstarted.append(flight)
                return
            self._lanes[flight.lane] = deque()
        if front:
            self._queue.appendleft(flight)
        else:
            self._queue.append(flight)

    # Deliveries start.

    def next(self, now: float) -> Flight | None:
        """Start the next delivery; None if there is none, or if it must not start.

        If it must not start, `may_have_lost_leases` is True afterwards.
        """
        queue = self._queue
        if not queue:
            return None
        flight = queue[0]
        if now >= flight.safe_until or self.is_order_broken:
            self.may_have_lost_leases = True
            return None
        queue.popleft()
        flight.state = "running"
        if flight.is_suspect:
            self._poison_guard.started(flight.key)
        return flight

    def next_batch(self, now: float, size: int) -> list[Flight]:
        """Start up to `size` deliveries of one stream; none in the cases of `next`.

        A delivery that has failed, or was taken over from a dead consumer, starts alone: it must not use up the
        attempts of the other events in its batch.
        """
        if (first := self.next(now)) is None:
            return []
        batch = [first]
        while len(batch) < size and self._queue and _may_share_batch(first, self._queue[0]):
            if (flight := self.next(now)) is None:
                break
            batch.append(flight)
        return batch

    def is_repeat(self, flight: Flight) -> bool:
        """True if an event with this id was handled, within the memory of the store or of this consumer."""
        return flight.is_repeat or (self._deduplicator is not None and flight.delivery in self._deduplicator)

    def may_claim(self) -> bool:
        """True if an event may be taken over from a dead consumer."""
        return self._poison_guard.may_claim

    # Deliveries end.

    def handled(self, flight: Flight) -> None:
        """Its handler returned, or it needs none; its ack is on the way. The next of its lane may start."""
        if flight.state != "running":
            return
        flight.state = "handled"
        if flight.lane is not None:
            self._end_turn(flight)
            if self._deduplicator is not None:
                self._deduplicator.add(flight.delivery)
        if flight.is_suspect:
            self._poison_guard.finished(flight.key)

    def finish(self, flight: Flight) -> None:
        """The delivery is settled, or no longer this consumer's. The next of its lane may start."""
        state, flight.state = flight.state, "gone"
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        if state in {"running", "waiting"}:
            if flight.lane is not None:
                self._end_turn(flight)
            if flight.is_suspect:
                self._poison_guard.finished(flight.key)

    def acked(self, handled: Iterable[Flight]) -> None:
        """The store has the acks of these deliveries, or has lost their group."""
        flights = self._flights
        for flight in handled:
            flight.state = "gone"
            if flights.get(flight.key) is flight:
                del flights[flight.key]

    def keep(self, flight: Flight, delivery: Delivery) -> None:
        """The delivery failed, and waits to be retried under the same lease, as `delivery`; its lane waits with it."""
        if flight.state == "running":
            flight.state, flight.delivery = "waiting", delivery
            self._poison_guard.finished(flight.key)

    def resume(self, flight: Flight) -> None:
        """Queue a waiting delivery that is due, or a running one that was settled and has come back already."""
        if flight.state in {"waiting", "running"} and not self._is_closed:
            flight.state = "queued"
            self._queue.append(flight)

    def abandon(self, flight: Flight) -> None:
        """Leave a running delivery to its lease. Its lane stays closed: its handler may still run."""
        flight.state = "gone"
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _end_turn(self, flight: Flight) -> None:
        if unstarted := self._lanes[flight.lane]:
            self._queue.append(unstarted.popleft())
        else:
            del self._lanes[flight.lane]

    # Leases.

    def renew(self, deliveries: Iterable[Delivery], *, safe_until: float) -> None:
        """The leases of these deliveries were renewed."""
        for delivery in deliveries:
            flight = self._flights.get((delivery.reader.stream, delivery.position))
            if flight is not None and flight.delivery is delivery:
                flight.safe_until = safe_until

    def is_safe(self, flight: Flight, now: float) -> bool:
        """True if its lease surely holds."""
        return now < flight.safe_until and not flight.is_lost

    def lose(self, deliveries: Iterable[Delivery]) -> list[Flight]:
        """The store says that these leases are gone. Return those deliveries that were this consumer's until now.

        Unstarted deliveries are dropped; a running handler goes on, as its ack may come late.
        """
        lost = []
        for delivery in deliveries:
            flight = self._flights.get((delivery.reader.stream, delivery.position))
            if flight is not None and flight.delivery is delivery and flight.state != "handled" and not flight.is_lost:
                flight.is_lost = True
                lost.append(flight)
        self._drop([flight for flight in lost if flight.state == "queued"])
        for flight in lost:
            if flight.state == "waiting":
                self.finish(flight)
        if lost and self._ordered:
            self.is_order_broken = self.may_have_lost_leases = True
        return lost

    # Unstarted deliveries are released.

    def must_release(self, now: float) -> bool:
        """True if the unstarted deliveries must be released, because leases are lost or may have run out."""
        self.may_have_lost_leases = self.is_order_broken or any(
            now >= flight.safe_until for flight in self._flights.values() if flight.state == "queued"
        )
        return self.may_have_lost_leases

    def begin_release(self) -> list[Flight]:
        """Remove and return all unstarted deliveries. Until `end_release`, `accepts` is False."""
        self.is_order_broken = self.may_have_lost_leases = False
        self._is_releasing = True
        return self._withdraw()

    def end_release(self, now: float) -> None:
        """The store has the deliveries again, or they are left to their leases."""
        self._is_releasing = False
        self._released_at = now

    def close(self) -> list[Flight]:
        """Start nothing more; remove and return all unstarted deliveries."""
        self._is_closed = True
        return self._withdraw()

    def _withdraw(self) -> list[Flight]:
        unstarted = [flight for flight in self._flights.values() if flight.state == "queued"]
        self._drop(unstarted)
        return unstarted

    def _drop(self, unstarted: Sequence[Flight]) -> None:
        """Remove these queued deliveries. Of their lanes the next ones may start."""
        if not unstarted:
            return
        dropped = set(unstarted)
        for flight in unstarted:
            del self._flights[flight.key]
            flight.state = "gone"
            self._poison_guard.finished(flight.key)
        for lane in self._lanes.values():
            if not dropped.isdisjoint(lane):
                kept = [flight for flight in lane if flight not in dropped]
                lane.clear()
                lane.extend(kept)
        first = [flight for flight in self._queue if flight in dropped]
        self._queue = deque(flight for flight in self._queue if flight not in dropped)
        for flight in first:
            if flight.lane is not None:
                self._end_turn(flight)

    # A lost group restarts.

    def restart_after(self, stream: str) -> str:
        """The position after which a lost group must restart: it is followed by every delivery that is not handled."""
        for flight in self._flights.values():
            if flight.key[0] == stream and flight.read_after is not None and flight.state != "handled":
                return flight.read_after
        return self._read_to.get(stream, START)

    def restarted(self, stream: str, position: str) -> None:
        """The group reads from `position` on; what is in flight and after it is read again."""
        self._read_to[stream] = position
        for flight in self._flights.values():
            if flight.key[0] == stream:
                flight.read_after = None


def _lane_of(options: Options) -> Callable[[Delivery], Hashable] | None:
    if options.ordered:
        return lambda delivery: (
            delivery.reader.stream,
            delivery.record.key if isinstance(delivery.record, Record) else None,
        )
    if options.dedup:
        return lambda delivery: (delivery.reader.stream, id_of(delivery) or delivery.position)
    return None


def _may_share_batch(first: Flight, other: Flight) -> bool:
    return first.key[0] == other.key[0] and not _starts_alone(first) and not _starts_alone(other)


def _starts_alone(flight: Flight) -> bool:
    return flight.delivery.failures > 0 or flight.delivery.recovered
