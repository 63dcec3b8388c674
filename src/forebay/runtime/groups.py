"""A consumer's group on its streams: made if it does not exist, and made again after the store has lost it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from forebay.errors import ForebayError
from forebay.positions import StreamPosition, last_position, resolve
from forebay.runtime.supervise import TRANSIENT
from forebay.signals import GroupCreated, Signals, TrimmedUnread
from forebay.store import END, START, Inspection, Leases, Log

if TYPE_CHECKING:
    from forebay.runtime.in_flight import InFlight
    from forebay.runtime.wakeups import Wakeups

TRIM_CHECK_SECONDS = 5.0
"""Seconds between two checks, while events are read, whether entries were trimmed before the group read them."""


class ConsumerStore(Log, Leases, Inspection, Protocol):
    """The protocols of the store that a consumer needs."""


class GroupMaker:
    """Makes the group of a stream, at the position `start`.

    `is_implicit`: the group has the name of its function, and begins at the earliest entry because its caller chose no
    position. Then `GroupCreated.history` counts the entries with which it begins.
    """

    __slots__ = ("_is_implicit", "_signals", "_start", "_store", "group", "stream")

    def __init__(
        self,
        store: ConsumerStore,
        stream: str,
        group: str,
        start: StreamPosition,
        signals: Signals,
        *,
        is_implicit: bool = False,
    ) -> None:
        self.stream = stream
        self.group = group
        self._store = store
        self._start = start
        self._signals = signals
        self._is_implicit = is_implicit

    async def join(self) -> str | None:
        """Make the group; return the position of the entry before its first one, or None if it exists.

        A group that exists costs one move of the store if it starts at the earliest entry.
        """
        start = await resolve(self._store, self.stream, self._start)
        if start == END:
            # A position to return to if the group is lost before it has read anything.
            start = await last_position(self._store, self.stream)
        # A repetition after an error must not skip what is published in the meantime.
        self._start = "earliest" if start == START else start
        if not await self._store.join(self.stream, self.group, start=start):
            return None
        history = await self._length() if self._is_implicit else 0
        self._signals.emit(GroupCreated(self.stream, self.group, recreated=False, history=history))
        return await self._last_until(start)

    async def rejoin(self, position: str) -> str | None:
        """Make a lost group again, to read on after `position`; return where it begins, or None if it exists.

        It begins at the earliest entry if the entry at that position is gone: then so are the data, and later entries
        may stand before it. It never begins at the end, where it would skip what was published in the meantime.
        """
        start = position if position == await self._last_until(position) else START
        if not await self._store.join(self.stream, self.group, start=start):
            return None
        self._signals.emit(GroupCreated(self.stream, self.group, recreated=True))
        return start

    async def report_trimmed(self) -> None:
        """Report entries that others removed before the group had read them."""
        if count := await self._store.trimmed_unread(self.stream, self.group):
            self._signals.emit(TrimmedUnread(self.stream, self.group, count))

    async def _length(self) -> int:
        # It is for information: an outage just now only leaves it out.
        with contextlib.suppress(*TRANSIENT):
            for stats in await self._store.stats([self.stream]):
                return stats.length
        return 0

    async def _last_until(self, position: str) -> str:
        """The position of the last entry up to this one; START if there is none."""
        if position == START:
            return START
        found = await self._store.scan(self.stream, until=position, limit=1, newest=True)
        return found[0].position if found else START


class ConsumerGroups:
    """Makes the groups of one consumer, and records in the ledger after which position each stream is read."""

    def __init__(self, makers: Sequence[GroupMaker], in_flight: InFlight, wakeups: Wakeups) -> None:
        self._makers = makers
        self._in_flight = in_flight
        self._wakeups = wakeups
        self._trim_check_at = 0.0

    async def join(self) -> None:
        """Make the groups that do not exist, and report entries that the others lost to a trim."""
        for maker in self._makers:
            if (position := await maker.join()) is not None:
                self._in_flight.restarted(maker.stream, position)
            else:
                await maker.report_trimmed()
        self._trim_check_at = time.monotonic() + TRIM_CHECK_SECONDS

    async def heal(self) -> None:
        """Make lost groups again, each at the position after which no event is handled."""
        for maker in self._makers:
            stream = maker.stream
            if (position := await maker.rejoin(self._in_flight.restart_after(stream))) is not None:
                self._in_flight.restarted(stream, position)
                self._wakeups.ring(stream)
            self._wakeups.lost.discard(stream)

    async def check_trimmed(self) -> None:
        """Report entries that were trimmed unread, if the last check is long ago."""
        if time.monotonic() >= self._trim_check_at:
            await self._report_trimmed()

    async def check_trimmed_at_last(self) -> None:
        """Report entries that were trimmed unread. If it fails, the next consumer of the group reports them."""
        if self._trim_check_at:
            with contextlib.suppress(ForebayError):
                await self._report_trimmed()

    async def _report_trimmed(self) -> None:
        for maker in self._makers:
            await maker.report_trimmed()
        self._trim_check_at = time.monotonic() + TRIM_CHECK_SECONDS
