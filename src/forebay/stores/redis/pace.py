"""Notices when a server's wall clock is set, by comparing the time of a stream with the boottime of this process.

A server has only its wall clock. A stream's own time is that clock plus an offset, kept beside the stream. The store
that notices that the clock was set changes the offset by as much: the stream's time goes on as before.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from forebay.clock import boottime

TOLERANCE = 0.5
"""Seconds by which a clock may be set without being noticed."""
DRIFT = 0.001
"""Seconds a second by which two clocks may run apart without being set."""
HOLD_SECONDS = 1.5
"""Seconds after the beginning of a watch in which a store claims nothing: other stores may notice a step first."""
SURE_SECONDS = 5.0
"""Seconds after which the watch of a store counts as evidence for other stores."""


class Step(NamedTuple):
    """A change of a clock, in seconds, and the offset that was in force."""

    seconds: float
    offset: int


class Pace:
    """The time of one stream, as far as this store has watched it.

    `key` is the key of the stream's offset. The stream's time less the boottime lies between two bounds: a reply is
    made after its command was sent, and before it was received.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.offset = 0
        self._low = self._high = 0.0
        self._looked_at: float | None = None
        self._met_at = boottime()
        self._first_look_at: float | None = None

    def bounds(self) -> tuple[int | str, int | str]:
        """The earliest and the latest time, in ms, that the stream's clock may show now; empty if they are unknown.

        A time beyond them means that the clock was set.
        """
        if self._looked_at is None:
            return "", ""
        now = boottime()
        slack = TOLERANCE + DRIFT * (now - self._looked_at)
        return round((now + self._low - slack) * 1000), round((now + self._high + slack) * 1000)

    def trust(self, idle: float) -> Literal["hold", "watch", "sure"]:
        """How sure this store is that the clock was not set, before it claims entries that were `idle` for so long."""
        now = boottime()
        if now - self._met_at < min(HOLD_SECONDS, idle):
            return "hold"
        is_sure = self._first_look_at is not None and now - self._first_look_at > SURE_SECONDS
        return "sure" if is_sure else "watch"

    def look(self, shown: int, offset: int, sent: float, received: float) -> Step | None:
        """Take in the time of a reply, in ms; return the step if the clock was surely set meanwhile."""
        low, high = shown / 1000 - received, shown / 1000 - sent
        if self._looked_at is None:
            self._take(low, high, offset, received)
            return None
        slack = DRIFT * (received - self._looked_at)
        before_low, before_high = self._low - slack, self._high + slack
        apart = max(low - before_high, before_low - high)
        if apart > TOLERANCE and offset == self.offset:
            return Step((low + high - before_low - before_high) / 2, offset)
        if apart > 0:
            # Too little to be sure, or corrected by another store, which has watched for longer.
            self._take(low, high, offset, received)
        else:
            self._take(max(low, before_low), min(high, before_high), offset, received)
        return None

    def forget(self) -> None:
        """Begin again with the next reply: another store has seen that the clock was not set."""
        self._looked_at = None

    def _take(self, low: float, high: float, offset: int, now: float) -> None:
        self._low, self._high, self.offset, self._looked_at = low, high, offset, now
        if self._first_look_at is None:
            self._first_look_at = now
