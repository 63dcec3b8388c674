"""The parts of a DualBus that its parts share."""

from __future__ import annotations

from forebay.bus import EventBus
from forebay.event import Event
from forebay.migration.counts import Counts
from forebay.migration.peers import Peers
from forebay.migration.routes import Stamp


class MigrationContext:
    """The id of a DualBus, its counts and signals, and the other processes of its migration.

    `migration` is the name of the migration, "" until the new bus is open.
    """

    def __init__(self, id: str, new: EventBus) -> None:
        self.id = id
        self.counts = Counts()
        self.peers = Peers(new.store)
        self.signals = new.signals
        self.migration = ""

    def stamp_of(self, event: Event) -> Stamp:
        """The stamp on an event; an empty one if it has none, or is of another migration."""
        stamp = Stamp.of(event)
        return stamp if stamp.by == self.id or (stamp.by and stamp.migration == self.migration) else Stamp()
