"""Remembers the ids of handled events (`dedup`), until the store has them with the acks and longer."""

from __future__ import annotations

from collections.abc import Hashable

from forebay.event import Record
from forebay.store import Delivery

REMEMBERED_IDS = 10_000
"""Ids that a consumer remembers: the latest ones. The store remembers the others."""


class Deduplicator:
    """The ids that this consumer has handled, of each stream."""

    def __init__(self) -> None:
        self._handled: dict[Hashable, None] = {}

    def add(self, delivery: Delivery) -> None:
        """The handler returned for this event."""
        if (id := id_of(delivery)) is not None:
            self._handled[delivery.reader.stream, id] = None
            if len(self._handled) > REMEMBERED_IDS:
                del self._handled[next(iter(self._handled))]

    def __contains__(self, delivery: Delivery) -> bool:
        """True if this consumer handled an event with this id."""
        return (delivery.reader.stream, id_of(delivery)) in self._handled


def id_of(delivery: Delivery) -> str | None:
    """The event's id; None for an entry that is not an event of forebay's."""
    return delivery.record.id if isinstance(delivery.record, Record) else None
