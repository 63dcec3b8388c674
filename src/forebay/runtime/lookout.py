"""One query of the store for all consumers of a process: it finds due and leased entries, and lost groups.

store.outlook ---> Lookout ---> Wakeups.due, claimable, lost, unread of each consumer
                      +-------> store.append_due
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from forebay.errors import StoreError
from forebay.restarts import Backoff
from forebay.runtime.supervise import TRANSIENT, wait_for
from forebay.runtime.wakeups import Wakeups
from forebay.signals import LoopFailed, LoopRecovered, Signals
from forebay.store import Leases, Log, Outlook, Reader

LOOP = "lookout"
"""The name of this loop in signals."""
POLL_SECONDS = 0.5
"""Seconds between two polls."""
CLAIM_SECONDS = 1.0
"""Seconds between two claims while another consumer holds entries of the group; a quarter of a lease if shorter."""
MARGIN_SECONDS = 0.002
"""Seconds after the moment at which something is due, so that the store agrees that it is."""


class LogAndLeases(Log, Leases, Protocol):
    """The protocols of the store that the lookout needs."""


class Lookout:
    """Polls the store every half second for work besides unread entries, with one query for all consumers.

    Entries that become due before the next poll are found at their moment. If nothing is due, leased or lost, a poll
    costs that query and nothing else. `polled_at` is the time of the last answer, on `time.monotonic`.
    """

    def __init__(self, store: LogAndLeases, signals: Signals, *, poll: float = POLL_SECONDS) -> None:
        self.polled_at: float | None = None
        self._store = store
        self._signals = signals
        self._poll = poll
        self._claims: dict[Wakeups, ClaimTimes] = {}
        self._new: list[Wakeups] = []
        self._added = asyncio.Event()
        self._poll_at = 0.0
        self._moments: list[tuple[float, int, str, Wakeups | None]] = []
        self._numbers = itertools.count()

    def add(self, wakeups: Wakeups) -> None:
        """Include this consumer, and poll for it at once. Its groups must exist, or they are reported as lost."""
        self._claims[wakeups] = ClaimTimes(wakeups.lease, asyncio.get_running_loop().time())
        self._new.append(wakeups)
        self._added.set()

    def remove(self, wakeups: Wakeups) -> None:
        """Leave this consumer out."""
        del self._claims[wakeups]

    async def run(self) -> None:
        """Poll until cancelled. Back off after a transient error."""
        backoff = Backoff()
        failing = False
        while True:
            try:
                await self.turn()
                if failing:
                    failing = False
                    backoff.reset()
                    self._signals.emit(LoopRecovered(LOOP, "*", "*"))
                await wait_for(self._added, self._seconds_to_wait())
            except TRANSIENT as error:
                failing = True
                self._poll_at = 0.0
                delay = backoff.next()
                self._signals.emit(LoopFailed(LOOP, "*", "*", error, delay))
                await asyncio.sleep(delay)

    async def turn(self) -> None:
        """Poll for all consumers if it is time to, else for new ones; then handle the moments that have come."""
        self._added.clear()
        now = asyncio.get_running_loop().time()
        consumers = [wakeups for wakeups in self._new if wakeups in self._claims]
        self._new.clear()
        if now >= self._poll_at:
            consumers = list(self._claims)
            self._moments.clear()
            self._poll_at = now + self._poll
        if consumers:
            await self._query(consumers)
        await self._handle_moments()

    def _seconds_to_wait(self) -> float:
        until = min(self._poll_at, self._moments[0][0]) if self._moments else self._poll_at
        return until - asyncio.get_running_loop().time()

    async def _query(self, consumers: Sequence[Wakeups]) -> None:
        """Ask the store for the outlook of these consumers."""
        asked = [(wakeups, reader) for wakeups in consumers for reader in wakeups.readers]
        try:
            outlooks = await self._store.outlook([reader for _, reader in asked])
        except TRANSIENT:
            raise
        except StoreError as error:
            if len(consumers) == 1:
                consumers[0].fail(error)
                return
            # One stream may be the cause.
            for wakeups in consumers:
                await self._query([wakeups])
            return
        self.polled_at = time.monotonic()
        self._sort(consumers, [(*pair, outlook) for pair, outlook in zip(asked, outlooks, strict=True)])

    def _sort(self, consumers: Sequence[Wakeups], found: Sequence[tuple[Wakeups, Reader, Outlook | None]]) -> None:
        """Add what was found to the wakeups of each consumer, now or at its moment."""
        now = asyncio.get_running_loop().time()
        scheduled = dict[str, float]()
        leased = dict[Wakeups, list[str]]()
        for wakeups, reader, outlook in found:
            if outlook is None:
                wakeups.add(wakeups.lost, reader.stream)
                continue
            if outlook.scheduled is not None:
                scheduled[reader.stream] = outlook.scheduled
            if outlook.waiting is not None:
                self._add_moment(now, outlook.waiting, reader.stream, wakeups)
            if outlook.leased:
                leased.setdefault(wakeups, []).append(reader.stream)
            if outlook.unread and _may_read(reader, outlook):
                wakeups.ring(reader.stream)
        for stream, seconds in scheduled.items():
            self._add_moment(now, seconds, stream, None)
        for wakeups in consumers:
            if (times := self._claims.get(wakeups)) is not None:
                for stream in times.streams(wakeups.streams, leased.get(wakeups, ()), now):
                    wakeups.add(wakeups.claimable, stream)

    def _add_moment(self, now: float, seconds: float, stream: str, wakeups: Wakeups | None) -> None:
        moment = now + seconds + MARGIN_SECONDS if seconds > 0 else now
        if moment < self._poll_at:
            heapq.heappush(self._moments, (moment, next(self._numbers), stream, wakeups))

    async def _handle_moments(self) -> None:
        """Wake consumers whose waiting entries have become due, and append the scheduled records that have."""
        now = asyncio.get_running_loop().time()
        scheduled = dict[str, None]()
        while self._moments and self._moments[0][0] <= now:
            _, _, stream, wakeups = heapq.heappop(self._moments)
            if wakeups is None:
                scheduled[stream] = None
            else:
                wakeups.add(wakeups.due, stream)
        appended = set[str]()
        # The next poll finds the rest overdue.
        while scheduled and asyncio.get_running_loop().time() < self._poll_at:
            scheduled = dict.fromkeys(await self._append_due(list(scheduled)))
            appended.update(scheduled)
        # The next records of these streams may be due before the next poll.
        for wakeups in self._claims:
            if not appended.isdisjoint(wakeups.streams):
                self._new.append(wakeups)
                self._added.set()

    async def _append_due(self, streams: Sequence[str]) -> list[str]:
        """Append scheduled records of these streams; return the streams that may have more."""
        moves = (self._store.append_due(stream) for stream in streams)
        results = dict(zip(streams, await asyncio.gather(*moves, return_exceptions=True), strict=True))
        for stream, result in results.items():
            if isinstance(result, TRANSIENT):
                raise result
            if isinstance(result, BaseException):
                for wakeups in self._claims:
                    if stream in wakeups.streams:
                        wakeups.fail(result)
        return [stream for stream, result in results.items() if isinstance(result, int) and result > 0]


class ClaimTimes:
    """The times at which a consumer claims: often while others hold entries, else once a lease.

    The latter finds leases of the consumer itself of which it never knew, because the answer was lost.
    """

    __slots__ = ("_interval", "_lease", "_leased_at", "_sweep_at")

    def __init__(self, lease: float, now: float) -> None:
        self._lease = lease
        self._interval = min(CLAIM_SECONDS, lease / 4)
        self._leased_at = now
        # Spread, so that many consumers that start together do not claim together.
        self._sweep_at = now + lease * random.uniform(0.5, 1)

    def streams(self, every: Sequence[str], leased: Sequence[str], now: float) -> Iterable[str]:
        """The streams to claim from now. Others hold entries of those in `leased`."""
        if now >= self._sweep_at:
            self._sweep_at = now + self._lease
            return every
        if leased and now >= self._leased_at:
            # Less than the interval, because polls are not exactly periodic.
            self._leased_at = now + 0.9 * self._interval
            return leased
        return ()


def _may_read(reader: Reader, outlook: Outlook) -> bool:
    """Return whether unread entries can be read: an ordered group waits for the earlier ones."""
    return not (reader.ordered and (outlook.leased or outlook.waiting is not None))
