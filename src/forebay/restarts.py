"""When a loop that failed starts again: the back-off, and the failures in a row after which it is given up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """Waits between tries: from `base` seconds, doubling up to `cap`, each between half and all of it."""

    def __init__(self, base: float = 0.05, cap: float = 5.0) -> None:
        self._base, self._cap = base, cap
        self._ceiling = base

    def next(self) -> float:
        """The wait in seconds before the next try."""
        wait = random.uniform(self._ceiling / 2, self._ceiling)
        self._ceiling = min(self._cap, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        """The last try worked."""
        self._ceiling = self._base


class Restarts:
    """Counts the failures in a row of one loop, and says how long it waits before it starts again.

    After more than `limit` failures in a row it is exhausted; without a limit it never is. A run of more than
    `window` seconds ends the row, and so does `worked`.

    >>> restarts = Restarts(limit=1, backoff=Backoff(base=1.0))
    >>> 0.5 <= restarts.failed() <= 1.0, restarts.is_exhausted
    (True, False)
    >>> 1.0 <= restarts.failed() <= 2.0, restarts.is_exhausted
    (True, True)
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        window: float | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_a_row = 0
        self._limit = limit
        self._window = window
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._has_failed = False
        self._started_at = clock()

    @property
    def is_exhausted(self) -> bool:
        """Whether the loop has failed more than `limit` times in a row."""
        return self._limit is not None and self.in_a_row > self._limit

    def started(self) -> None:
        """A run begins now: `window` counts from here."""
        self._started_at = self._clock()

    def failed(self, *, counts: bool = True) -> float:
        """Count a failure; return the seconds until the next start. Without `counts` only the back-off grows."""
        if self._window is not None and self._clock() - self._started_at > self._window:
            self.worked()
        self._has_failed = True
        self.in_a_row += counts
        return self._backoff.next()

    def worked(self) -> bool:
        """End the row of failures; return whether there was one."""
        had_failed, self._has_failed = self._has_failed, False
        self.in_a_row = 0
        self._backoff.reset()
        return had_failed
