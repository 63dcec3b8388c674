"""How many events may be in hand, by their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from random import randrange

from forebay.event import Record
from forebay.store import Delivery

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Bytes of events that a consumer reads ahead; with `concurrency` events of 1 MiB in hand it may hold more."""
UNKNOWN = 16
"""Events in the first reads, while their sizes are not known."""
AT_ONCE = 128
"""Events in one read, at most: so many of 1 MiB may come after many small ones."""
OVERHEAD = 200
"""Bytes of an event besides its data and headers, about."""
SAMPLED = 4
"""One of so many events of a large read is measured."""


class Sizes:
    """The mean size of the latest events: it rises at once, and falls by a tenth with each read.

    Until a size is known, a `batch` is read, or UNKNOWN events where those are more.
    """

    def __init__(self, *, batch: int = 1) -> None:
        self._mean = 0.0
        self._first = max(UNKNOWN, batch)

    def seen(self, deliveries: Sequence[Delivery]) -> None:
        """Measure these events."""
        few = deliveries if len(deliveries) <= UNKNOWN else deliveries[randrange(SAMPLED) :: SAMPLED]
        self._mean = max(sum(map(_size, few)) / len(few), 0.9 * self._mean)

    def most(self, wanted: int, *, least: int) -> int:
        """As many of the `wanted` events as fit into READ_AHEAD_BYTES, but `least` at any rate."""
        fit = int(READ_AHEAD_BYTES // self._mean) if self._mean else self._first
        return min(wanted, max(least, fit))


def _size(delivery: Delivery) -> int:
    record = delivery.record
    if isinstance(record, Record):
        return OVERHEAD + len(record.data) + len(record.headers or b"")
    fields = record.fields if record is not None else ()
    return OVERHEAD + sum(len(name) + len(value) for name, value in fields)
