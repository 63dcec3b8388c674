"""Whether the other processes of a migration are alive; see `forebay.presence`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from forebay.migration.parity import FRESH, PROCESS, ProcessReport, ProcessState, ended_states
from forebay.migration.routes import STREAM
from forebay.presence import Observer
from forebay.store import Store

REPORT_SECONDS = 3.0
"""Seconds within which a living process has surely written a report; it writes one about every second."""


class Peers:
    """The other processes, by the reports that this one sees them write. Its DualBus calls `observe` with each look."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._observer = Observer[str](clock=clock)
        self._notes: Mapping[str, bytes] = {}
        self._next_look = asyncio.Event()

    def observe(self, notes: Mapping[str, bytes]) -> None:
        """Take in the notes of the migration as they are now."""
        self._notes = notes
        self._observer.look({name: note for name, note in notes.items() if name.startswith(PROCESS)})
        seen, self._next_look = self._next_look, asyncio.Event()
        seen.set()

    async def state(self, id: str) -> ProcessState:
        """The state of a process, as soon as it is certain: it may be silent, and alive.

        A report from before this process's first look proves nothing: its process may be the one that was killed, and
        that this one replaces.
        """
        if PROCESS + id not in self._notes:
            # A process that is not known yet may have started a moment ago.
            await self._next_look.wait()
        while (state := await self._certain_state(id)) is None:
            await self._next_look.wait()
        return state

    async def _certain_state(self, id: str) -> ProcessState | None:
        seen = self._observer.seen.get(PROCESS + id)
        if seen is None:
            return ended_states(self._notes).get(id, "died")
        report = msgspec.json.decode(seen.note, type=ProcessReport)
        if report.ended:
            return report.state
        if seen.state(FRESH) == "gone":
            return "died"
        if seen.unchanged < REPORT_SECONDS:
            return "alive" if seen.state(FRESH) == "alive" else None
        age = await self._store.time(STREAM) - report.at
        return "died" if seen.silence(age) >= FRESH else None
