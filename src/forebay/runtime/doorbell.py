"""One watch of the store for all consumers of a process: it wakes those whose streams have grown.

store.arrivals ---> Doorbell ---> Wakeups.unread of each consumer of the stream ---> store.read, without waiting
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from forebay.errors import StoreError
from forebay.restarts import Backoff
from forebay.runtime.supervise import TRANSIENT
from forebay.runtime.wakeups import Wakeups
from forebay.signals import LoopFailed, LoopRecovered, Signals
from forebay.store import Log

LOOP = "doorbell"
"""The name of this loop in signals."""


class Doorbell:
    """Marks the streams of consumers as unread when the store reports that they have grown.

    `is_refused` is True after the store raised that it cannot watch, or that the user has no right to. Then `run` has
    returned.
    """

    def __init__(self, store: Log, signals: Signals) -> None:
        self.is_refused = False
        self._store = store
        self._signals = signals
        self._consumers: dict[str, list[Wakeups]] = {}

    def add(self, wakeups: Wakeups) -> None:
        """Wake this consumer from now on. Its streams are in `Wakeups.unread` from the beginning."""
        for stream in wakeups.streams:
            self._consumers.setdefault(stream, []).append(wakeups)

    def remove(self, wakeups: Wakeups) -> None:
        """Stop waking this consumer."""
        for stream in wakeups.streams:
            consumers = self._consumers[stream]
            consumers.remove(wakeups)
            if not consumers:
                del self._consumers[stream]

    async def run(self) -> None:
        """Watch until cancelled, until the store is closed, or until it refuses. Restart after a transient error.

        Each start marks all streams, when the watch is in place.
        """
        backoff = Backoff()
        failing = False
        while True:
            try:
                async with aclosing(self._store.arrivals()) as arrivals:
                    async for stream in arrivals:
                        if failing:
                            failing = False
                            backoff.reset()
                            self._signals.emit(LoopRecovered(LOOP, "*", "*"))
                        self._ring(stream)
                return  # the store was closed
            except TRANSIENT as error:
                failing = True
                delay = backoff.next()
                self._signals.emit(LoopFailed(LOOP, "*", "*", error, delay))
                await asyncio.sleep(delay)
            except StoreError as error:
                self.is_refused = True
                self._signals.emit(LoopFailed(LOOP, "*", "*", error, 0.0))
                self._ring(None)
                return

    def _ring(self, stream: str | None) -> None:
        for name in (stream,) if stream is not None else list(self._consumers):
            for wakeups in self._consumers.get(name, ()):
                wakeups.ring(name)
