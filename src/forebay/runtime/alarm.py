"""One timer for all retries of a consumer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FAR_SECONDS = 60.0
"""Waits beyond this need no alarm: all waiting entries are polled, and the end of a wait that long is not exact."""
GRID_SECONDS = 0.005
"""The end of a wait is rounded up to a multiple of this: waits that end closer together are met together."""


class Alarm(Generic[T]):
    """Calls `take_due` with a stream when waiting entries of it are due, and `resume` with each delivery that is.

    Only the nearest moment has a timer. After `close` nothing is called, and nothing is kept.
    """

    def __init__(self, *, take_due: Callable[[str], None], resume: Callable[[T], None]) -> None:
        self._take_due = take_due
        self._resume = resume
        self._moments: list[tuple[float, int, str | None, T | None]] = []
        self._due: set[tuple[float, str]] = set()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._closed = False

    def take_due_in(self, delay: float, stream: str) -> None:
        """Call `take_due` once after `delay` seconds."""
        if self._closed or delay > FAR_SECONDS:
            return
        # A little later than due, so that the store agrees that it is.
        moment = math.ceil((asyncio.get_running_loop().time() + delay + 0.002) / GRID_SECONDS) * GRID_SECONDS
        if (moment, stream) not in self._due:
            self._due.add((moment, stream))
            self._add(moment, stream, None)

    def resume_in(self, delay: float, delivery: T) -> None:
        """Call `resume` with this delivery after `delay` seconds."""
        if not self._closed:
            self._add(asyncio.get_running_loop().time() + delay, None, delivery)

    def close(self) -> None:
        """Call nothing any more."""
        self._closed = True
        self._moments.clear()
        self._due.clear()
        self._arm()

    def _add(self, moment: float, stream: str | None, delivery: T | None) -> None:
        heapq.heappush(self._moments, (moment, next(self._numbers), stream, delivery))
        # uvloop's timer does not always know its own moment.
        if self._timer is None or moment < self._rings_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._moments:
            self._rings_at = self._moments[0][0]
            self._timer = asyncio.get_running_loop().call_at(self._rings_at, self._ring)
        else:
            self._timer = None

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        while self._moments and self._moments[0][0] <= now:
            moment, _, stream, delivery = heapq.heappop(self._moments)
            if stream is not None:
                self._due.discard((moment, stream))
                self._take_due(stream)
            if delivery is not None:
                self._resume(delivery)
        self._arm()
