"""The consumers of this process, announced to all others: one note a process, renewed every ten seconds.

With it the count of a group's consumers is right on every store: an idle consumer counts, one that has ended does
not, and a killed one only until its process's note has stayed the same for its lifetime.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from forebay.cleanup import until_first_ends
from forebay.errors import ForebayError, StoreDenied, StoreError
from forebay.presence import Observation, Observer, fence, keeps_notes
from forebay.restarts import Backoff, Restarts
from forebay.signals import LoopFailed, Signals
from forebay.store import Store, StreamStats

STREAM = "forebay.presence"
"""The stream whose notes are the announcements; it has no entries, so no list of streams shows it."""
PREFIX = "process:"
"""Prefix of the notes; the id of the process follows."""

LIFETIME_SECONDS = 30.0
"""Time after its last renewal at which a process counts as dead."""
RENEWAL_SECONDS = 10.0
"""Time between two renewals."""
SETTLING_SECONDS = 0.1
"""Wait before a change is announced, so that consumers that start or stop together are one write."""
SWEEP_SECONDS = 60.0
"""Average time between two looks for the notes of dead processes."""
CLOSING_SECONDS = 1.0
"""Time that the removal of the note may take when the bus is closed."""

LOOP = "presence"
"""The name of this loop in signals."""


class Announcement(msgspec.Struct, frozen=True):
    """The consumers of one process: how many, by stream and group.

    `renewed` is Unix time by the store's clock. `lifetime` is in seconds.
    """

    renewed: float
    lifetime: float
    consumers: dict[str, dict[str, int]]
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)

    @property
    def note(self) -> bytes:
        """The text of the note: compressed JSON, some kilobytes for a thousand consumers."""
        return zlib.compress(msgspec.json.encode(self), 1)

    @classmethod
    def parse(cls, note: bytes) -> Announcement | None:
        """Read a note; None if another program wrote it."""
        try:
            return msgspec.json.decode(zlib.decompress(note), type=cls)
        except (zlib.error, msgspec.DecodeError):
            return None

    def groups(self) -> Counter[tuple[str, str]]:
        """The number of consumers, by stream and group."""
        return Counter(
            {(stream, group): number for stream, groups in self.consumers.items() for group, number in groups.items()}
        )


class Announcer:
    """Announces the consumers of one bus, and counts those of all buses on the same store.

    A store without notes announces nothing, and its own counts are used. So are they if the user may not read notes.
    """

    def __init__(
        self,
        store: Store,
        signals: Signals,
        *,
        lifetime: float = LIFETIME_SECONDS,
        renewal: float = RENEWAL_SECONDS,
        sweep: float = SWEEP_SECONDS,
    ) -> None:
        self._store = store
        self._signals = signals
        self._lifetime = lifetime
        self._renewal = renewal
        self._sweep_interval = sweep
        self._consumers: Counter[tuple[str, str]] = Counter()
        self._observer = Observer[str]()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._name = ""
        self._is_announced = False
        self._is_failing = False
        self._may_announce = keeps_notes(store)
        self._may_sweep = True

    @property
    def consumed(self) -> Collection[tuple[str, str]]:
        """The pairs of stream and group that have a running consumer in this process."""
        return self._consumers.keys()

    def add(self, groups: Iterable[tuple[str, str]]) -> None:
        """A consumer of these pairs of stream and group begins."""
        self._consumers.update(groups)
        self._changed.set()
        if self._may_announce and (self._task is None or self._task.done()):
            self._name = self._name or f"{PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
            self._task = asyncio.create_task(self._run(), name="forebay-presence")

    def remove(self, groups: Iterable[tuple[str, str]]) -> None:
        """Such a consumer has ended."""
        for group in groups:
            self._consumers[group] -= 1
            if self._consumers[group] <= 0:
                del self._consumers[group]
        self._changed.set()

    async def close(self) -> None:
        """Remove the announcement, if the store takes that within a second."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._consumers.clear()
        if self._is_announced and not self._is_failing:
            with contextlib.suppress(ForebayError, TimeoutError):
                async with asyncio.timeout(CLOSING_SECONDS):
                    await self._write()
        self.drop()

    def drop(self) -> None:
        """Forget all consumers, and the rights that were missing: the event loop is gone, or the bus is closed."""
        self._task = None
        self._changed = asyncio.Event()
        self._consumers.clear()
        self._is_announced = False
        self._may_announce, self._may_sweep = keeps_notes(self._store), True

    async def count(self, found: Sequence[StreamStats]) -> list[StreamStats]:
        """Put the number of living consumers into the counts of each group."""
        if not keeps_notes(self._store) or not any(stream.groups for stream in found):
            return list(found)
        try:
            living = await self.living()
        except StoreDenied:
            return list(found)
        return [
            replace(
                stream,
                groups=tuple(replace(group, consumers=living[stream.stream, group.group]) for group in stream.groups),
            )
            for stream in found
        ]

    async def living(self) -> Counter[tuple[str, str]]:
        """The running consumers of all processes, by stream and group. Needs notes."""
        living = +self._consumers
        others = await self._look()
        if others:
            now = await self._store.time(STREAM)
            for _, seen, announcement in others:
                if seen.silence(now - announcement.renewed) < announcement.lifetime:
                    living.update(announcement.groups())
        return living

    async def _look(self) -> list[tuple[str, Observation, Announcement]]:
        """The announcements of the other processes, by the names of their notes."""
        notes = await self._store.notes(STREAM)
        seen = self._observer.look({name: note for name, note in notes.items() if name.startswith(PREFIX)})
        return [
            (name, observation, announcement)
            for name, observation in seen.items()
            if name != self._name and (announcement := Announcement.parse(observation.note)) is not None
        ]

    # In the background.

    async def _run(self) -> None:
        """Announce the consumers, and each change of them, until there are none."""
        restarts = Restarts(backoff=Backoff(base=0.5, cap=self._renewal))
        swept_at = time.monotonic()
        await asyncio.sleep(SETTLING_SECONDS)
        while self._consumers or self._is_announced:
            self._changed.clear()
            wait = self._renewal
            try:
                await self._write()
                restarts.worked()
                if time.monotonic() - swept_at > self._sweep_interval * random.uniform(0.5, 1.5):
                    swept_at = time.monotonic()
                    await self._sweep()
            except StoreDenied as error:
                # This user's consumers are not announced.
                self._may_announce = False
                self._signals.emit(LoopFailed(LOOP, "*", "*", error, 0.0))
                return
            except Exception as error:  # noqa: BLE001  # nothing awaits this task, so it must not end with an error
                wait = restarts.failed()
                self._signals.emit(LoopFailed(LOOP, "*", "*", error, wait))
            self._is_failing = restarts.in_a_row > 0
            if self._consumers or self._is_announced:
                await until_first_ends(self._changed.wait(), timeout=wait)
                await asyncio.sleep(SETTLING_SECONDS)

    async def _write(self) -> None:
        if not self._consumers:
            await self._store.set_note(STREAM, self._name, None)
            self._is_announced = False
            return
        consumers: dict[str, dict[str, int]] = {}
        for (stream, group), number in self._consumers.items():
            consumers.setdefault(stream, {})[group] = number
        announcement = Announcement(await self._store.time(STREAM), self._lifetime, consumers)
        # If the answer is lost, there may be a note to remove.
        self._is_announced = True
        await self._store.set_note(STREAM, self._name, announcement.note)

    async def _sweep(self) -> None:
        """Remove the notes of processes that were silent for their lifetime while this one watched."""
        if not self._may_sweep:
            return
        try:
            for name, seen, announcement in await self._look():
                if seen.state(announcement.lifetime) == "gone":
                    await fence(self._store, STREAM, name, seen.note)
        except StoreDenied:
            # Consumers need not have the right to read notes.
            self._may_sweep = False
        except StoreError:
            # The next sweep finds them too.
            return
