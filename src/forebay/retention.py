"""How long streams keep their events, and the background task that enforces it.

The rule of a stream is a note beside it, so that it holds for every process. Each process that publishes to a stream
or consumes it enforces the rule from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

from forebay.announcer import Announcer
from forebay.errors import ConfigurationError, StoreDenied, StoreFull
from forebay.event import check_seconds
from forebay.presence import Observer, keeps_notes
from forebay.signals import GroupAbandoned, LoopFailed, Signals, StreamTrimmed
from forebay.store import Store, Trimmed

RULE = "retention"
"""The note with a stream's rule."""
SILENT = "silent:"
"""Prefix of the notes that hold for how many seconds a group had no consumer; see `Silence`.

A process that finds a running consumer of the group, in any process, sets the note to 0. Else it adds the time for
which it has seen the note unchanged (see `forebay.presence`), so the time counts on over restarts, and no two clocks
are compared.
"""
INTERVAL_SECONDS = 5.0
"""Average time between two looks at a stream."""
LONGEST_GAP_SECONDS = 15.0
"""Time between two looks that counts as watched, at most."""


Living = Callable[[], Awaitable[Collection[tuple[str, str]]]]
"""Returns the pairs of stream and group that have a running consumer in any process."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a stream keeps its events.

    Events older than `max_age` seconds, and the oldest beyond `max_length`, leave the stream once every
    group has finished them. The oldest beyond `hard_length` leave it even if groups have not finished them: those are
    counted and reported (`StreamTrimmed`). A group without a running consumer for `group_lifetime` seconds does not
    hold events back, which is reported too (`GroupAbandoned`); it keeps its position, and may come back. Only the time
    counts in which another process that publishes to the stream, or consumes it, was running.
    """

    max_age: float | None = None
    max_length: int | None = None
    hard_length: int | None = None
    group_lifetime: float | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None:
            check_seconds("max_age", self.max_age, least=1.0)
        if self.group_lifetime is not None:
            # A process that serves the group writes so every few seconds only.
            check_seconds("group_lifetime", self.group_lifetime, least=60.0)
        for name in ("max_length", "hard_length"):
            length: object = getattr(self, name)
            if length is not None and (type(length) is not int or length < 0):
                raise ConfigurationError(f"{name}={length!r}: give a whole number from 0")
        if self.hard_length is not None and self.hard_length < (self.max_length or 0):
            raise ConfigurationError(f"hard_length={self.hard_length}: give at least max_length={self.max_length}")


async def get_rule(store: Store, stream: str) -> Retention | None:
    """The rule of a stream, if it has one."""
    return _rule((await store.notes(stream, names=[RULE])).get(RULE), stream)


async def set_rule(store: Store, stream: str, rule: Retention) -> None:
    """Give the stream this rule; one that limits nothing takes the rule away."""
    await store.set_note(stream, RULE, None if rule == Retention() else msgspec.json.encode(rule))


async def enforce(
    store: Store,
    stream: str,
    signals: Signals,
    *,
    observers: Observers | None = None,
    living: Living | None = None,
) -> Trimmed:
    """Trim the stream by its rule.

    `observers` remember the notes that earlier calls of this process have seen. `living` is called if the rule needs
    to know which groups have a running consumer.
    """
    notes = await store.notes(stream)
    rule = _rule(notes.get(RULE), stream)
    if rule is None:
        return Trimmed(0, 0)
    ignore_groups: list[str] = []
    if rule.group_lifetime is not None:
        served = set() if living is None else {group for its, group in await living() if its == stream}
        ignore_groups = await _abandoned(
            store, stream, notes, rule.group_lifetime, served, signals, observers or Observers()
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


class Observers:
    """The observers of one process: one for the notes of each stream."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observers: dict[str, Observer[str]] = {}

    def of(self, stream: str) -> Observer[str]:
        """The observer of the notes of this stream."""
        if stream not in self._observers:
            self._observers[stream] = Observer(clock=self._clock, longest_gap=LONGEST_GAP_SECONDS)
        return self._observers[stream]


class Silence(NamedTuple):
    """How many seconds a group has been without a consumer, and whether it was reported as abandoned.

    >>> Silence.parse(b"-700"), Silence(700, is_reported=True).note
    (Silence(seconds=700.0, is_reported=True), b'-700')
    """

    seconds: float
    is_reported: bool = False

    @classmethod
    def parse(cls, note: bytes) -> Silence | None:
        """Read a note; None if it is not a number."""
        if not _NUMBER.fullmatch(note):
            return None
        return cls(abs(float(note)), note[:1] == b"-")

    @property
    def note(self) -> bytes:
        """The text of the note: the seconds, negative once reported."""
        return f"{'-' if self.is_reported else ''}{self.seconds:.0f}".encode()


_NUMBER = re.compile(rb"-?\d{1,20}")


async def _abandoned(
    store: Store,
    stream: str,
    notes: Mapping[str, bytes],
    lifetime: float,
    served: Collection[str],
    signals: Signals,
    observers: Observers,
) -> list[str]:
    """The groups that had no consumer for so long. A group without a note gets one now."""
    abandoned = []
    observer = observers.of(stream)
    observer.look({name: note for name, note in notes.items() if name.startswith(SILENT)})
    for group in await store.groups(stream):
        name = SILENT + group
        silence = Silence.parse(notes[name]) if name in notes else None
        if silence is None or (group in served and notes[name] != b"0"):
            # In a full store the trim is needed all the more.
            with contextlib.suppress(StoreFull):
                await store.set_note(stream, name, b"0")
        elif group not in served:
            silence = await _lengthen(store, stream, name, silence, observer, lifetime)
            if silence is not None and silence.seconds > lifetime:
                abandoned.append(group)
                if not silence.is_reported and await _report(store, stream, name, silence):
                    signals.emit(GroupAbandoned(stream, group, silence.seconds))
    return abandoned


async def _report(store: Store, stream: str, name: str, silence: Silence) -> bool:
    """Mark the group as reported; False if another process did."""
    with contextlib.suppress(StoreFull):
        return await store.set_note(stream, name, silence._replace(is_reported=True).note, expected=silence.note)
    return False


async def _lengthen(
    store: Store, stream: str, name: str, silence: Silence, observer: Observer[str], lifetime: float
) -> Silence | None:
    """Add the time that this process has seen, if it is enough to be worth a write; None if another process wrote."""
    seen = observer.seen[name]
    if seen.unchanged < min(lifetime / 8, 60.0):
        return silence
    # If the answer to the write is lost, these seconds must not count twice.
    observer.forget(name)
    longer = silence._replace(seconds=silence.seconds + round(seen.unchanged))
    with contextlib.suppress(StoreFull):
        return longer if await store.set_note(stream, name, longer.note, expected=seen.note) else None
    return silence


def _rule(text: bytes | None, stream: str) -> Retention | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Retention)
    except (msgspec.DecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"the rule for keeping {stream} cannot be read: {error}; set it anew") from error


class Pruner:
    """Enforces the rules of the streams of one bus, in the background.

    `published` are the streams that it published to; the `announcer` knows its consumers and those of all others.
    """

    def __init__(self, store: Store, signals: Signals, announcer: Announcer) -> None:
        self.published: set[str] = set()
        self.observers = Observers()
        self._refused: set[str] = set()
        self._store = store
        self._signals = signals
        self._announcer = announcer

    async def run(self, *, interval: float = INTERVAL_SECONDS) -> None:
        """Enforce the rule of each stream about every `interval` seconds, until cancelled."""
        while keeps_notes(self._store):
            await asyncio.sleep(random.uniform(interval / 2, interval * 1.5))
            living = _once(self._announcer.living)
            consumed = {stream for stream, _ in self._announcer.consumed}
            for stream in (self.published | consumed) - self._refused:
                try:
                    await enforce(self._store, stream, self._signals, observers=self.observers, living=living)
                except StoreDenied:
                    # A user that may only publish leaves it to processes that may trim.
                    self._refused.add(stream)
                except Exception as error:  # noqa: BLE001  # nothing awaits this task, so it must not end with an error
                    self._signals.emit(LoopFailed("retention", stream, "*", error, interval))


def _once(ask: Living) -> Living:
    """Ask once, and then return the same answer."""
    answers: list[Collection[tuple[str, str]]] = []

    async def answer() -> Collection[tuple[str, str]]:
        if not answers:
            answers.append(await ask())
        return answers[0]

    return answer
