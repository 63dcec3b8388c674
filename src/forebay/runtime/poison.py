"""Limits how many suspects run at once: events taken over from dead consumers, any of which may be what killed them."""

from __future__ import annotations

from collections.abc import Hashable

ALONE_FROM_DELIVERY = 3
"""From this delivery on, a suspect runs to its end before the next one is claimed."""


class PoisonGuard:
    """Decides when the next event may be claimed from a dead consumer.

    Claims come one at a time: a claim counts as an attempt, and an event that no handler has started must not be
    charged with another one. From its third delivery on an event runs alone: if it kills the process, no other suspect
    dies with it. Keys name deliveries. Each method may be called for any delivery, and more than once.
    """

    def __init__(self, crashes_allowed: int) -> None:
        self._alone_from = min(ALONE_FROM_DELIVERY, crashes_allowed)
        self._unstarted: Hashable = None
        self._alone: Hashable = None

    @property
    def may_claim(self) -> bool:
        """True if no suspect is unstarted, and none runs alone."""
        return self._unstarted is None and self._alone is None

    def claimed(self, key: Hashable, *, attempt: int) -> None:
        """An event was taken over; `attempt` is its number of deliveries."""
        self._unstarted = key
        if attempt >= self._alone_from:
            self._alone = key

    def started(self, key: Hashable) -> None:
        """A handler starts the event, or it is settled without one."""
        if self._unstarted == key:
            self._unstarted = None

    def finished(self, key: Hashable) -> None:
        """The event was settled, released or lost."""
        self.started(key)
        if self._alone == key:
            self._alone = None
