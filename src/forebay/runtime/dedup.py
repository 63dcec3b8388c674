"""Which events this consumer need not handle, because its group did so before (`dedup`)."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.event import Record
from forebay.store import Delivery

REMEMBERED_IDS = 10_000
"""Ids that a consumer itself keeps in mind: the store learns of them with the acks."""


class Deduplicator:
    """Knows handled ids: those that the store told of, and those of this consumer that it has not heard of yet."""

    def __init__(self) -> None:
        self._repeated: set[str] = set()
        self._handled: dict[str, None] = {}

    def told(self, deliveries: Iterable[Delivery], handled: set[str]) -> None:
        """The store knows that these ids were handled."""
        self._repeated.update(delivery.position for delivery in deliveries if id_of(delivery) in handled)

    def handled(self, delivery: Delivery) -> None:
        """The handler returned."""
        if (id := id_of(delivery)) is not None:
            self._handled[id] = None
            if len(self._handled) > REMEMBERED_IDS:
                del self._handled[next(iter(self._handled))]

    def is_repeated(self, delivery: Delivery) -> bool:
        """Whether this event was handled before. To be asked once."""
        if delivery.position in self._repeated:
            self._repeated.discard(delivery.position)
            return True
        return id_of(delivery) in self._handled


def id_of(delivery: Delivery) -> str | None:
    """The event's id; None for what is no event of forebay's."""
    return delivery.record.id if isinstance(delivery.record, Record) else None
