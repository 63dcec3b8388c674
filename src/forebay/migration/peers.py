"""What has become of the other processes that run both buses."""

from __future__ import annotations

import asyncio
import time

from forebay.migration.parity import FRESH, LastReport, ProcessState, last_reports
from forebay.migration.routes import STREAM
from forebay.store import Store

LOOK = 0.5
"""Seconds between two looks at what they tell."""
QUIET = 3.0
"""Seconds after its last word for which a process is taken to be alive; it tells about once a second."""


class Peers:
    """Knows of a process whether it lives, and waits where that cannot be told yet.

    A word that was there before this process opened proves nothing: whoever said it may be the one that was
    killed, and whose place this process takes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last_reports: dict[str, LastReport] = {}
        self._before: dict[str, LastReport] = {}
        self._silent: dict[str, LastReport] = {}
        self._looked_at = float("-inf")
        self._now = 0.0

    async def open(self) -> None:
        """Remember what was said before."""
        self._before = await last_reports(self._store)

    async def state(self, id: str) -> ProcessState:
        """What has become of one; of one that is silent, once it speaks or has been silent for long enough."""
        first = await self._last_report(id)
        last = first
        # By the boottime of this process: the store's clock may be set, and make a last word look fresh for hours.
        deadline = time.monotonic() + FRESH
        while last.state == "alive" and last in (first, self._before.get(id)):
            if last != self._before.get(id) and abs(self._now - last.at) < QUIET:
                break
            if last == self._silent.get(id) or time.monotonic() > deadline:
                self._silent[id] = last
                return "died"
            await asyncio.sleep(LOOK)
            last = await self._last_report(id)
        return last.state

    async def _last_report(self, id: str) -> LastReport:
        # One that is not known yet may have begun a moment ago.
        if id not in self._last_reports or time.monotonic() - self._looked_at > LOOK:
            self._last_reports = await last_reports(self._store)
            self._now = await self._store.time(STREAM)
            self._looked_at = time.monotonic()
        return self._last_reports.get(id, LastReport("died"))
