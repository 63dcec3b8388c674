"""What a consumer holds, and in which order its workers get it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable

from forebay.clock import boottime
from forebay.store import Delivery

Lane = Callable[[Delivery], Hashable]


class InFlight:
    """Deliveries on their way to the workers.

    With `lane`, deliveries of one lane are handed out one after the other: the next one when the one
    before is `done`. `held` has all that is leased and not yet settled, by position. While `leases_doubtful`,
    no lease is sure.
    """

    def __init__(self, lane: Lane | None = None) -> None:
        self.held: dict[str, Delivery] = {}
        self.leases_doubtful = False
        self._safe_until: dict[str, float] = {}
        self._lane = lane
        self._lanes: dict[Hashable, deque[Delivery]] = {}
        self._queue: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def put(self, deliveries: Iterable[Delivery], *, safe_until: float, first: bool = False) -> None:
        """Take deliveries in, whose leases hold until `safe_until` at least, by `boottime`.

        With `first` they are handed out before what is waiting already.
        """
        for delivery in deliveries:
            known = delivery.position in self.held
            self.held[delivery.position] = delivery
            self._safe_until[delivery.position] = safe_until
            if known:
                continue  # read again after its group was lost: its handler runs already, under the new lease
            if self._lane is not None:
                lane = self._lanes.get(key := self._lane(delivery))
                if lane is not None:
                    lane.append(delivery)
                    continue
                self._lanes[key] = deque()
            if first:
                self._queue.appendleft(delivery)
            else:
                self._queue.append(delivery)
        self._wake()

    def renewed(self, deliveries: Iterable[Delivery], *, safe_until: float) -> None:
        """These leases hold until `safe_until` at least."""
        for delivery in deliveries:
            if self.held.get(delivery.position) is delivery:
                self._safe_until[delivery.position] = safe_until

    def is_safe(self, delivery: Delivery) -> bool:
        """Whether the lease of this delivery surely holds, and nothing speaks against beginning it."""
        return boottime() < self._safe_until.get(delivery.position, 0.0) and not self.leases_doubtful

    def pop(self) -> Delivery | None:
        """The next delivery, if there is one."""
        return self._queue.popleft() if self._queue else None

    def more(self, most: int, *, beside: Delivery) -> list[Delivery]:
        """Up to `most` more that may share a batch with this one.

        What has failed or was taken over goes alone, so that one bad event does not use up the
        attempts of those that stood beside it.
        """
        found: list[Delivery] = []
        if _goes_alone(beside):
            return found
        while self._queue and len(found) < most and not _goes_alone(self._queue[0]):
            found.append(self._queue.popleft())
        return found

    async def next(self) -> Delivery | None:
        """The next delivery, when there is one; None once this is closed."""
        while not self._queue:
            if self._closed:
                return None
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    with contextlib.suppress(ValueError):
                        self._idle.remove(waiter)
        return self._queue.popleft()

    def again(self, delivery: Delivery) -> None:
        """Hand out once more what is still held, in the place of its earlier self."""
        if self._closed or self.held.get(delivery.position) is not delivery:
            return
        self._queue.append(delivery)
        self._wake()

    def done(self, delivery: Delivery) -> None:
        """The delivery is held no more; the next of its lane may go."""
        self.held.pop(delivery.position, None)
        self._safe_until.pop(delivery.position, None)
        if self._lane is None:
            return
        lane = self._lanes.get(key := self._lane(delivery))
        if lane:
            self._queue.append(lane.popleft())
            self._wake()
        elif lane is not None:
            del self._lanes[key]

    def forget(self, delivery: Delivery) -> None:
        """The delivery is held no more, and its lane does not go on."""
        self.held.pop(delivery.position, None)
        self._safe_until.pop(delivery.position, None)

    def drop(self, lost: Iterable[Delivery]) -> None:
        """Hand none of these out: they are somebody else's. Those that a worker has begun stay."""
        gone = {delivery.position for delivery in lost}
        for lane in self._lanes.values():
            for delivery in [delivery for delivery in lane if delivery.position in gone]:
                lane.remove(delivery)
                self.forget(delivery)
        for delivery in [delivery for delivery in self._queue if delivery.position in gone]:
            self._queue.remove(delivery)
            self.done(delivery)

    def withdraw(self) -> list[Delivery]:
        """Take back what no worker has begun."""
        behind = [delivery for lane in self._lanes.values() for delivery in lane]
        for lane in self._lanes.values():
            lane.clear()
        heads = list(self._queue)
        self._queue.clear()
        for delivery in behind:
            self.forget(delivery)
        for delivery in heads:
            self.done(delivery)
        return heads + behind

    def close(self) -> list[Delivery]:
        """Hand out nothing more; return what no worker has begun."""
        self._closed = True
        left = self.withdraw()
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
        return left

    def _wake(self) -> None:
        for _ in range(min(len(self._queue), len(self._idle))):
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _goes_alone(delivery: Delivery) -> bool:
    return delivery.failures > 0 or delivery.recovered
