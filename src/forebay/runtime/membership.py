"""A consumer's group on one stream: made if it does not exist, and made again after the store has lost it."""

from __future__ import annotations

import contextlib
from typing import Protocol

from forebay.positions import StreamPosition, last_position, resolve
from forebay.runtime.supervise import TRANSIENT
from forebay.signals import GroupCreated, Signals, TrimmedUnread
from forebay.store import END, START, Inspection, Leases, Log


class ConsumerStore(Log, Leases, Inspection, Protocol):
    """The protocols of the store that a consumer needs."""


class Membership:
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
