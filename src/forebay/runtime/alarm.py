"""One timer for all that a consumer waits for."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable

from forebay.store import Delivery

FAR = 60.0
"""Seconds beyond which a look needs no alarm: the consumer looks twice a second, and a wait that long is not exact."""
GRID = 0.005
"""Seconds between two looks: waits that end closer together have one look."""


class Alarm:
    """Calls `look` when waiting events are due, and `again` with each delivery that waits here.

    Only the nearest moment has a timer. After `close` nothing is called, and nothing is kept.
    """

    def __init__(self, *, look: Callable[[], None], again: Callable[[Delivery], None]) -> None:
        self._look = look
        self._again = again
        self._moments: list[tuple[float, int, Delivery | None]] = []
        self._looks: set[float] = set()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._closed = False

    def look_in(self, delay: float) -> None:
        """Call `look` once after `delay` seconds."""
        if self._closed or delay > FAR:
            return
        # A hair later than due, so that the store agrees that it is.
        moment = math.ceil((asyncio.get_running_loop().time() + delay + 0.002) / GRID) * GRID
        if moment not in self._looks:
            self._looks.add(moment)
            self._add(moment, None)

    def again_in(self, delay: float, delivery: Delivery) -> None:
        """Call `again` with this delivery after `delay` seconds."""
        if not self._closed:
            self._add(asyncio.get_running_loop().time() + delay, delivery)

    def close(self) -> None:
        """Call nothing any more."""
        self._closed = True
        self._moments.clear()
        self._looks.clear()
        self._arm()

    def _add(self, moment: float, delivery: Delivery | None) -> None:
        heapq.heappush(self._moments, (moment, next(self._numbers), delivery))
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
            moment, _, delivery = heapq.heappop(self._moments)
            if delivery is None:
                self._looks.discard(moment)
                self._look()
            else:
                self._again(delivery)
        self._arm()
