"""Rate limits for the log: outages of a store, and storms of similar lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable

FIRST_LINES = 10
"""Lines of one kind that are written in full in each interval."""
INTERVAL = 10.0
"""Seconds after which one line counts those that were left out."""
SILENT = 60.0
"""Seconds after its announced next try after which a loop without a report no longer counts as failing."""


class Outage:
    """An outage of a store: the first loop that fails begins it, the last one that works again ends it.

    A loop that never calls `worked` begins an outage, and does not prolong it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failing: dict[Hashable, float] = {}
        self._reporting: set[Hashable] = set()
        self._since = 0.0
        self._failures = 0

    @property
    def is_on(self) -> bool:
        """True while a loop is failing."""
        now = self._clock()
        self._failing = {loop: until for loop, until in self._failing.items() if until > now}
        return bool(self._failing)

    def failed(self, loop: Hashable, delay: float, *, reports: bool = True) -> bool:
        """A loop failed, and tries again in `delay` seconds. True if this begins the outage.

        `reports`: it calls `worked` later.
        """
        begins = not self.is_on
        if begins:
            self._since, self._failures = self._clock(), 0
        self._failures += 1
        self._failing[loop] = self._clock() + delay + SILENT
        if reports:
            self._reporting.add(loop)
        return begins

    def worked(self, loop: Hashable) -> tuple[float, int] | None:
        """A loop works again. If it was the last one: the seconds of the outage, and the number of failed tries."""
        if self._failing.pop(loop, None) is None or (self.is_on and self._reporting & self._failing.keys()):
            return None
        self._failing.clear()
        self._reporting.clear()
        return self._clock() - self._since, self._failures


class Storm:
    """Lets the first lines of a kind through in each interval, and counts the others.

    At the end of an interval `summary` gets the number of lines that were left out, and the last of them.
    """

    def __init__(self, summary: Callable[[int, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._summary = summary
        self._clock = clock
        self._ends = float("-inf")
        self._passed = 0
        self._left_out = 0
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None

    def passes(self, what: str) -> bool:
        """True if a line about `what` is written in full."""
        if self._clock() >= self._ends:
            self.report()
            self._ends, self._passed = self._clock() + INTERVAL, 0
        if self._passed < FIRST_LINES:
            self._passed += 1
            return True
        if not self._left_out:
            # After the last interval of a storm no other line would report the ones that were left out.
            with contextlib.suppress(RuntimeError):  # without a loop there is no timer
                self._timer = asyncio.get_running_loop().call_later(max(self._ends - self._clock(), 0.0), self.report)
        self._left_out += 1
        self._last = what
        return False

    def report(self) -> None:
        """Report the lines that were left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left_out:
            count, self._left_out = self._left_out, 0
            self._summary(count, self._last)
