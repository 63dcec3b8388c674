"""Checks that published events arrive on the new bus with the same data, by reading them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from forebay.bus import EventBus
from forebay.event import Event
from forebay.migration.counts import Counts
from forebay.migration.routes import Stamp
from forebay.migration.upkeep import keep_running
from forebay.positions import last_position
from forebay.runtime.supervise import wait_for

MISSING_SECONDS = 10.0
"""Seconds after which an event that was acknowledged and cannot be read counts as missing."""
CHECK_SECONDS = 1.0
"""Time between two checks for missing events."""
REMEMBERED_EVENTS = 10_000
"""Missing events that are recognised if they are found later."""


class Observer:
    """Reads the streams of the new bus, from the first publish of this process on, and compares."""

    def __init__(self, new: EventBus, by: str, counts: Counts) -> None:
        self._new = new
        self._by = by
        self._counts = counts
        self._expected: dict[str, OrderedDict[str, _Expected]] = {}
        self._missed: OrderedDict[str, _Expected] = OrderedDict()
        self._lock = asyncio.Lock()
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def watch(self, stream: str) -> None:
        """Read the stream from now on, from a position before the next publish."""
        if stream in self._expected:
            return
        async with self._lock:
            if stream not in self._expected:
                start = await last_position(self._new.store, stream)
                self._expected[stream] = OrderedDict()
                self._keep_running(f"reading {stream}", lambda: self._follow(stream, start))
                self._keep_running(f"missing events of {stream}", lambda: self._sweep(stream))

    def expect(self, stream: str, key: str, data: object) -> None:
        """The event with this key is about to be published."""
        self._expected[stream][key] = _Expected(digest(data) if _is_json(data) else _OTHER)

    def published(self, stream: str, key: str) -> None:
        """The event was acknowledged: from now on it is in the stream, or missing."""
        expected = self._expected[stream].get(key)
        if expected is not None:
            expected.published = time.monotonic()
            self._expected[stream].move_to_end(key)

    def forget(self, stream: str, key: str) -> None:
        """The event was not published, or its outcome is unknown."""
        if stream in self._expected:
            self._expected[stream].pop(key, None)

    def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(keep_running(name, work, signals=self._new.signals, until=self._closing))

    async def _follow(self, stream: str, start: str) -> None:
        async for event in self._new.events(stream, start=start, follow=True):
            if not isinstance(event, Event):
                continue
            stamp = Stamp.of(event)
            if stamp.by != self._by:
                continue
            expected = self._expected[stream].pop(stamp.key, None)
            if expected is None and (expected := self._missed.pop(stamp.key, None)):
                self._counts.type(stream).missing -= 1
            if expected is not None and expected.digest != digest(event.data):
                self._counts.type(stream).differing += 1

    async def _sweep(self, stream: str) -> None:
        expected = self._expected[stream]
        while not await wait_for(self._closing, CHECK_SECONDS):
            for key in _overdue(expected):
                self._missed[key] = expected.pop(key)
                self._counts.type(stream).missing += 1
            while len(self._missed) > REMEMBERED_EVENTS:
                self._missed.popitem(last=False)

    async def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


_OTHER = "other"
"""The digest of data that JSON does not give back as it is."""


class _Expected(msgspec.Struct):
    digest: str | None
    published: float | None = None
    """When it was acknowledged."""


def _is_json(data: object) -> bool:
    """Whether JSON gives back the same data: false for tuples, dates, and keys that are not strings."""
    try:
        return bool(msgspec.json.decode(msgspec.json.encode(data)) == data)
    except (TypeError, ValueError, RecursionError):
        return False


def _overdue(expected: OrderedDict[str, _Expected]) -> list[str]:
    """Events that were acknowledged too long ago; those not yet acknowledged come before all others."""
    found = []
    for key, each in expected.items():
        if each.published is not None:
            if time.monotonic() - each.published <= MISSING_SECONDS:
                break
            found.append(key)
    return found


def digest(data: object) -> str | None:
    """A short text that is the same for the same JSON; None for data that is not JSON."""
    try:
        text = msgspec.json.encode(data, order="sorted")
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(text, digest_size=12).hexdigest()
