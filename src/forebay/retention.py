"""How long streams keep their events, and who sees to it.

The rule of a stream is a note beside it, so that it holds for every process. Whoever publishes to a stream or consumes
it looks now and then, in the background, whether there is something to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Collection, Iterable

import msgspec

from forebay.clock import boottime
from forebay.errors import ConfigurationError, StoreDenied, StoreFull
from forebay.event import check_seconds
from forebay.signals import GroupAbandoned, LoopFailed, Signals, StreamTrimmed
from forebay.store import Store, Trimmed

RULE = "retention"
"""The note with a stream's rule."""
SILENT = "silent:"
"""What the notes begin with that say for how many seconds a group has been silent; the group's name follows.

Whoever serves the group puts the note back to 0. Everybody else adds the time for which it has seen the note unchanged
by its own boottime. So no two clocks are compared. The number is negative once it was told that the group is gone.
"""
INTERVAL = 5.0
"""Seconds, more or less, between two looks at a stream."""
LONGEST_LOOK = 15.0
"""Seconds that count as watched between two looks, if there were more."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a stream keeps its events.

    Events older than `max_age` seconds, and the oldest beyond `max_length`, leave the stream once every
    group has finished them. The oldest beyond `hard_length` leave it whoever has not finished them: what
    that costs is counted and told (`StreamTrimmed`). A group without a running consumer for `group_lifetime`
    seconds is not waited for, which is told too (`GroupAbandoned`); it keeps its place, and may come back. Only time
    counts in which another process that publishes to the stream, or consumes it, was there to see that.
    """

    max_age: float | None = None
    max_length: int | None = None
    hard_length: int | None = None
    group_lifetime: float | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None:
            check_seconds("max_age", self.max_age, least=1.0)
        if self.group_lifetime is not None:
            # Who is at work says so once in a while, not all the time.
            check_seconds("group_lifetime", self.group_lifetime, least=60.0)
        for name in ("max_length", "hard_length"):
            length: object = getattr(self, name)
            if length is not None and (type(length) is not int or length < 0):
                raise ConfigurationError(f"{name}={length!r}: give a whole number from 0")
        if self.hard_length is not None and self.hard_length < (self.max_length or 0):
            raise ConfigurationError(f"hard_length={self.hard_length}: give at least max_length={self.max_length}")


async def get_rule(store: Store, stream: str) -> Retention | None:
    """The rule of a stream, if it has one."""
    return _rule((await store.notes(stream)).get(RULE), stream)


async def set_rule(store: Store, stream: str, rule: Retention) -> None:
    """Give the stream this rule; one that limits nothing takes the rule away."""
    await store.set_note(stream, RULE, None if rule == Retention() else msgspec.json.encode(rule))


async def enforce(
    store: Store,
    stream: str,
    signals: Signals,
    *,
    attendance: Attendance | None = None,
    at_work: Collection[str] = (),
) -> Trimmed:
    """Remove what the stream's rule says; `at_work` are the groups that have a running consumer here.

    `attendance` is what earlier looks have seen of the others.
    """
    notes = await store.notes(stream)
    rule = _rule(notes.get(RULE), stream)
    if rule is None:
        return Trimmed(0, 0)
    ignore_groups: list[str] = []
    if rule.group_lifetime is not None:
        ignore_groups = await _gone(
            store, stream, notes, rule.group_lifetime, at_work, signals, attendance or Attendance()
        )
    removed = dropped = 0
    for length, age, force in ((rule.max_length, rule.max_age, False), (rule.hard_length, None, True)):
        if length is not None or age is not None:
            trimmed = await store.trim(stream, max_length=length, max_age=age, force=force, ignore_groups=ignore_groups)
            removed += trimmed.removed
            dropped += trimmed.dropped
    if removed:
        signals.emit(StreamTrimmed(stream, removed, dropped))
    return Trimmed(removed, dropped)


class Attendance:
    """For how long this process has seen that a note does not change, by its own boottime."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}

    def unchanged(self, stream: str, name: str, note: bytes) -> float:
        """The seconds in which the note had this value at every look."""
        now = self._clock()
        seen = self._seen.get((stream, name))
        if seen is None or seen.note != note:
            seen = self._seen[stream, name] = _Seen(note, 0.0, now)
        # A process that stood still saw nothing meanwhile.
        seen.seconds += min(now - seen.looked_at, LONGEST_LOOK)
        seen.looked_at = now
        return seen.seconds

    def forget(self, stream: str, name: str) -> None:
        """Begin to count anew."""
        self._seen.pop((stream, name), None)


class _Seen(msgspec.Struct):
    note: bytes
    seconds: float
    looked_at: float


async def _gone(
    store: Store,
    stream: str,
    notes: dict[str, bytes],
    lifetime: float,
    at_work: Collection[str],
    signals: Signals,
    attendance: Attendance,
) -> list[str]:
    """The groups that nobody has served for so long. A group that has no note yet gets one now."""
    gone = []
    for group in await store.groups(stream):
        name = SILENT + group
        note = notes.get(name)
        if note is None or not _NUMBER.fullmatch(note) or (group in at_work and note != b"0"):
            # A store without room is to be trimmed all the more.
            with contextlib.suppress(StoreFull):
                await store.set_note(stream, name, b"0")
            continue
        if group in at_work:
            continue
        silent, unchanged = abs(float(note)), attendance.unchanged(stream, name, note)
        # Often enough, and not more often: this is a write.
        if unchanged >= min(lifetime / 8, 60.0):
            # Whatever becomes of the write, these seconds do not count twice.
            attendance.forget(stream, name)
            more = f"{'-' if note[:1] == b'-' else ''}{silent + unchanged:.0f}".encode()
            with contextlib.suppress(StoreFull):
                if not await store.set_note(stream, name, more, expected=note):
                    continue
                silent, note = silent + unchanged, more
        if silent > lifetime:
            gone.append(group)
            # Of all processes one tells it, once.
            if note[:1] != b"-" and await store.set_note(stream, name, b"-" + note, expected=note):
                signals.emit(GroupAbandoned(stream, group, silent))
    return gone


_NUMBER = re.compile(rb"-?\d{1,20}")
"""What a note may say of how long a group was silent; anything else is as if it had none."""


def _rule(text: bytes | None, stream: str) -> Retention | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Retention)
    except (msgspec.DecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"the rule for keeping {stream} cannot be read: {error}; set it anew") from error


class Pruner:
    """Enforces the rules of those streams that a bus has to do with, in the background.

    `published` are the streams that it published to; `consumed` gives the streams and groups that it consumes.
    """

    def __init__(self, store: Store, signals: Signals, consumed: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self.published: set[str] = set()
        self.attendance = Attendance()
        self._refused: set[str] = set()
        self._store = store
        self._signals = signals
        self._consumed = consumed

    async def run(self, *, interval: float = INTERVAL) -> None:
        """Look at each stream now and then, until cancelled."""
        while True:
            await asyncio.sleep(random.uniform(interval / 2, interval * 1.5))
            consumed = set(self._consumed())
            for stream in (self.published | {stream for stream, _ in consumed}) - self._refused:
                groups = {group for its, group in consumed if its == stream}
                try:
                    await enforce(self._store, stream, self._signals, attendance=self.attendance, at_work=groups)
                except StoreDenied:
                    # Whoever may only publish need not see to it; those who may, do.
                    self._refused.add(stream)
                except Exception as error:  # noqa: BLE001  # nobody awaits this; it must not die in silence
                    self._signals.emit(LoopFailed("retention", stream, "*", error, interval))
