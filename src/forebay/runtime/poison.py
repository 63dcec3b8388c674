"""What was taken over from consumers that fell silent: it may be what killed them."""

from __future__ import annotations

from forebay.store import Delivery

ALONE_FROM = 3
"""From this delivery on, an event taken over from dead consumers is tried with no other such event beside it."""


class PoisonGuard:
    """Says when the next event may be taken over.

    One at a time, and only when the one before has begun: being taken over counts as an attempt, and
    what never reaches a handler must not be charged for one. From its third delivery on an event is
    tried to its end before the next one comes, so that nothing else under suspicion dies with it.
    `positions` are those of the events that the next one waits for.
    """

    def __init__(self, crashes_allowed: int) -> None:
        self._alone_from = min(ALONE_FROM, crashes_allowed)
        self._unbegun: str | None = None
        self._alone: str | None = None
        self.positions: set[str] = set()

    @property
    def are_none(self) -> bool:
        """Whether the next event may be taken over."""
        return not self.positions

    def add(self, delivery: Delivery) -> None:
        """This event was taken over."""
        self._unbegun = delivery.position
        if delivery.attempt >= self._alone_from:
            self._alone = delivery.position
        self._note()

    def begun(self, delivery: Delivery) -> bool:
        """A worker has begun it; whether anybody waited for that."""
        if self._unbegun != delivery.position:
            return False
        self._unbegun = None
        self._note()
        return True

    def over(self, delivery: Delivery) -> bool:
        """It was settled, given back or lost; whether anybody waited for that."""
        begun = self.begun(delivery)
        if self._alone != delivery.position:
            return begun
        self._alone = None
        self._note()
        return True

    def _note(self) -> None:
        self.positions = {position for position in (self._unbegun, self._alone) if position is not None}
