"""Who is alive: a member renews a note within its lifetime, and observers see whether the note changes.

    renew ---> note ---> observe ---> alive | unknown | gone ---> fence

No two clocks are compared. An observer measures by its own clock for how long it has seen a note unchanged, as
DynamoDB's lock client does. A note that was there at its first look proves nothing: its member may have died long
ago, so the member is unknown until the note changes, or has stayed the same for its lifetime.

A member that is gone is fenced: its note is removed, or taken, by compare-and-set. If the member was only held up, its
next renewal fails, and it knows that it has to stop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Generic, Literal, TypeVar

import msgspec

from forebay.errors import OutcomeUnknown
from forebay.store import Notes

Key = TypeVar("Key")

State = Literal["alive", "unknown", "gone"]
"""A member's state, as an observer sees it; "unknown" until the observer has watched for the member's lifetime."""

MAX_DOUBTS = 16
"""Writes without an answer that an `OwnNote` remembers."""


class Observation(msgspec.Struct, frozen=True):
    """A note at the last look of an observer.

    `unchanged` is for how many seconds the observer has seen it as it is. `slack` is how many seconds earlier it may
    have been written: the time between the two looks before, infinite for a note of the first look.
    """

    note: bytes
    unchanged: float
    slack: float

    def state(self, lifetime: float) -> State:
        """The state of a member that renews its note within `lifetime` seconds."""
        if self.unchanged >= lifetime:
            return "gone"
        return "unknown" if math.isinf(self.slack) else "alive"

    def silence(self, age: float) -> float:
        """Seconds since the last renewal: the `age` by the store's clock, within the bounds that the observer has seen.

        The store's clock may have been set meanwhile. Only a first look has nothing else to go by.
        """
        return max(self.unchanged, min(age, self.unchanged + self.slack))


class Observer(Generic[Key]):
    """Measures for how long notes stay unchanged, by the clock of this process.

    Between two looks at most `longest_gap` seconds count: a process that was stopped has seen nothing meanwhile.

    >>> now = 100.0
    >>> observer = Observer[str](clock=lambda: now)
    >>> observer.look({"a": b"1"})["a"].state(lifetime=10.0)
    'unknown'
    >>> now += 4.0
    >>> {name: seen.state(lifetime=10.0) for name, seen in observer.look({"a": b"2", "b": b"1"}).items()}
    {'a': 'alive', 'b': 'alive'}
    >>> now += 10.0
    >>> observer.look({"a": b"2"})["a"].state(lifetime=10.0)
    'gone'
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, longest_gap: float = math.inf) -> None:
        self.seen: dict[Key, Observation] = {}
        self._clock = clock
        self._longest_gap = longest_gap
        self._looked_at: float | None = None

    def look(self, notes: Mapping[Key, bytes]) -> dict[Key, Observation]:
        """Compare all members' notes with those of the last look. A member whose note is missing is forgotten."""
        now = self._clock()
        passed = math.inf if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        seen: dict[Key, Observation] = {}
        for key, note in notes.items():
            before = self.seen.get(key)
            if before is not None and before.note == note:
                seen[key] = Observation(note, before.unchanged + min(passed, self._longest_gap), before.slack)
            else:
                seen[key] = Observation(note, 0.0, passed)
        self.seen = seen
        return seen

    def forget(self, key: Key) -> None:
        """Begin to count anew for a member whose note this process has changed itself."""
        self.seen.pop(key, None)


class OwnNote:
    """A note that one process writes, and that others may take from it: the writer then knows that it was fenced.

    After a write without an answer (`OutcomeUnknown`, or a cancellation) the next one goes by either value.
    """

    def __init__(self, store: Notes, stream: str, name: str) -> None:
        self._store = store
        self._stream = stream
        self._name = name
        self._possible: list[bytes | None] = []

    async def take(self, value: bytes, *, expected: bytes | EllipsisType | None = ...) -> bool:
        """Write the first value; False, and nothing changed, if the note is not as expected (None: missing)."""
        self._possible = []
        try:
            is_taken = await self._store.set_note(self._stream, self._name, value, expected=expected)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._possible = [value] if expected is ... else [value, expected]
            raise
        self._possible = [value] if is_taken else []
        return is_taken

    async def renew(self, value: bytes) -> bool:
        """Write the next value; False if another process has changed or removed the note."""
        return await self._replace(value)

    async def give_back(self) -> bool:
        """Remove the note; False if another process has changed or removed it."""
        try:
            return await self._replace(None)
        finally:
            self._possible = []

    async def _replace(self, value: bytes | None) -> bool:
        for expected in self._possible:
            try:
                if await self._store.set_note(self._stream, self._name, value, expected=expected):
                    self._possible = [value]
                    return True
            except (OutcomeUnknown, asyncio.CancelledError):
                self._possible = [value, *self._possible][:MAX_DOUBTS]
                raise
        return False


def keeps_notes(store: object) -> bool:
    """Whether a store has `Notes`: one without them still serves publishers and consumers."""
    return hasattr(store, "set_note")


async def fence(store: Notes, stream: str, name: str, note: bytes) -> bool:
    """Remove the note of a member that is gone; False if the member has renewed it meanwhile."""
    return await store.set_note(stream, name, None, expected=note)
