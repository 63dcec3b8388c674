"""How many events a consumer reads ahead: enough for its handlers, and no more than fit into memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import randrange

from forebay.event import Record
from forebay.runtime.options import READ_AHEAD
from forebay.store import Delivery

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Bytes of events that a consumer reads ahead; with `concurrency` events of 1 MiB in flight it may hold more."""
FIRST_EVENTS = 16
"""Events in the first reads, while their sizes are not known."""
READ_EVENTS = 128
"""The most events in one read: so many of 1 MiB may come after many small ones."""
EVENT_OVERHEAD_BYTES = 200
"""Bytes of an event besides its data and headers, about."""
SAMPLE_INTERVAL = 4
"""In a large read, one event of so many is measured."""
PARTS = 3
"""Reads that fill the window: one part is handled, the acks of another and the read of a third are on their way."""
FULL_READ_SECONDS = 0.05
"""Seconds after a read in which the next one waits until it has room for a whole part."""
FAST_SECONDS = 0.1
"""If a part is handled in less, the window doubles."""
SLOW_SECONDS = 0.5
"""If a part takes longer, the window is halved."""


class ReadAhead:
    """The window of a consumer: the most events that it may have in flight.

    It follows the speed of the handlers: about what they finish in a tenth of a second. It starts at its smallest, one
    event (or batch) for each worker, and with `prefetch` it does not change. `in_flight` is the number of events that
    are in flight now; times are seconds on one clock.
    """

    def __init__(self, *, concurrency: int, batch: int = 1, prefetch: int | None = None) -> None:
        self._workers = concurrency
        self._busy = concurrency * batch
        # Whole batches, so that every batch can be full.
        self._largest = prefetch or READ_AHEAD // batch * batch or READ_AHEAD
        self._smallest = prefetch or min(self._busy, self._largest)
        self._window = self._smallest
        self._most = max(READ_EVENTS // batch, 1) * batch
        self._sizes = EventSizes(batch=batch)
        self._read_at = 0.0
        self._in_flight_after_read = 0
        # The events that were finished since `_measured_at`.
        self._finished = 0
        self._measured_at = 0.0

    def room(self, in_flight: int) -> int:
        """How many more events fit into the window, by their number and their bytes; at least 0."""
        return max(0, self._fitting() - in_flight)

    def limit(self, in_flight: int, now: float) -> int:
        """How many events to read now. 0: the window is full, or had a part read too recently for a small read."""
        window = self._fitting()
        part = self._part(window)
        room = window - in_flight
        if room < (part if now < self._read_at + FULL_READ_SECONDS else 1):
            return 0
        return min(room, max(part, self._busy), self._most)

    def measure(self, deliveries: Sequence[Delivery]) -> None:
        """Measure the sizes of these events, however they came."""
        self._sizes.measure(deliveries)

    def record_read(self, deliveries: Sequence[Delivery], *, limit: int, in_flight: int, now: float) -> None:
        """A read returned these events; `in_flight` were in flight when `limit` was asked for."""
        part = self._part(self._fitting())
        self.measure(deliveries)
        self._finished += max(0, self._in_flight_after_read - in_flight)
        self._in_flight_after_read = in_flight + len(deliveries)
        self._read_at = now
        self._adapt(part, is_full=len(deliveries) >= limit >= part, now=now)

    def _adapt(self, part: int, *, is_full: bool, now: float) -> None:
        elapsed = now - self._measured_at
        # Room alone shows no speed: a window that has just grown has room before anything is finished.
        if self._finished < part and elapsed <= SLOW_SECONDS:
            return
        if is_full and elapsed < FAST_SECONDS:
            self._window = min(self._largest, self._window * 2)
        elif elapsed > SLOW_SECONDS:
            self._window = max(self._smallest, self._window // 2)
        self._finished, self._measured_at = 0, now

    def _fitting(self) -> int:
        return self._sizes.fitting(self._window, least=self._workers)

    def _part(self, window: int) -> int:
        return min(-(-window // PARTS), self._most)


class EventSizes:
    """The mean size of the latest events: it rises at once, and falls by a tenth with each read.

    Until a size is known, a `batch` is read, or FIRST_EVENTS if those are more.
    """

    def __init__(self, *, batch: int = 1) -> None:
        self._mean = 0.0
        self._first = max(FIRST_EVENTS, batch)

    def measure(self, deliveries: Sequence[Delivery]) -> None:
        """Include these events in the mean."""
        few = (
            deliveries if len(deliveries) <= FIRST_EVENTS else deliveries[randrange(SAMPLE_INTERVAL) :: SAMPLE_INTERVAL]
        )
        self._mean = max(sum(map(_size, few)) / len(few), 0.9 * self._mean)

    def fitting(self, wanted: int, *, least: int) -> int:
        """As many of the `wanted` events as fit into READ_AHEAD_BYTES, but at least `least`, if so many are wanted."""
        fit = int(READ_AHEAD_BYTES // self._mean) if self._mean else self._first
        return min(wanted, max(least, fit))


def _size(delivery: Delivery) -> int:
    record = delivery.record
    if isinstance(record, Record):
        return EVENT_OVERHEAD_BYTES + len(record.data) + len(record.headers or b"")
    fields = record.fields if record is not None else ()
    return EVENT_OVERHEAD_BYTES + sum(len(name) + len(value) for name, value in fields)
