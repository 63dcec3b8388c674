"""What is said once instead of a thousand times: outages of a store, and storms of alike lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable

FIRST_LINES = 10
"""Lines of one kind in an interval that are written in full."""
INTERVAL = 10.0
"""Seconds after which the lines that were left out are counted in one."""
SILENT = 60.0
"""Seconds beyond its announced next try after which a loop that says nothing no longer counts as failing."""


class Outage:
    """Which loops meet a store that does not work: the first begins the outage, the last one ends it.

    A loop that does not tell when it works again begins an outage, and does not keep it from ending.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failing: dict[Hashable, float] = {}
        self._telling: set[Hashable] = set()
        self._since = 0.0
        self._failures = 0

    @property
    def is_on(self) -> bool:
        """Whether some loop is still failing."""
        now = self._clock()
        self._failing = {loop: until for loop, until in self._failing.items() if until > now}
        return bool(self._failing)

    def failed(self, loop: Hashable, delay: float, *, tells: bool = True) -> bool:
        """A loop failed, and tries again in `delay` seconds; whether this is how the outage begins.

        `tells`: it calls `worked` later.
        """
        begins = not self.is_on
        if begins:
            self._since, self._failures = self._clock(), 0
        self._failures += 1
        self._failing[loop] = self._clock() + delay + SILENT
        if tells:
            self._telling.add(loop)
        return begins

    def worked(self, loop: Hashable) -> tuple[float, int] | None:
        """A loop works again; where it was the last one, for how many seconds it lasted and how many tries failed."""
        if self._failing.pop(loop, None) is None or (self.is_on and self._telling & self._failing.keys()):
            return None
        self._failing.clear()
        self._telling.clear()
        return self._clock() - self._since, self._failures


class Storm:
    """Lets the first lines of a kind through in each interval, and counts the others.

    `summary` gets how many were left out when their interval is over, and the last of them.
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
        """Whether a line about `what` is written in full."""
        if self._clock() >= self._ends:
            self.tell()
            self._ends, self._passed = self._clock() + INTERVAL, 0
        if self._passed < FIRST_LINES:
            self._passed += 1
            return True
        if not self._left_out:
            # The last interval of a storm has nobody behind it who would tell what it left out.
            with contextlib.suppress(RuntimeError):  # no loop, no timer
                self._timer = asyncio.get_running_loop().call_later(max(self._ends - self._clock(), 0.0), self.tell)
        self._left_out += 1
        self._last = what
        return False

    def tell(self) -> None:
        """Report now what was left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left_out:
            count, self._left_out = self._left_out, 0
            self._summary(count, self._last)
