"""An agent that asks the others how they are, and tells when one falls ill and when it is well again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from forebay.agents.agent import BaseAgent
from forebay.agents.roster import AgentStatus, HealthReport, Roster
from forebay.agents.state import notes_of
from forebay.cause import CAUSATION
from forebay.errors import MalformedEvent
from forebay.event import Event, check_seconds, new_id
from forebay.event_types import EventType
from forebay.leadership import Leadership, LeadershipLost
from forebay.payload import decode, encode
from forebay.positions import last_position
from forebay.signals import LoopFailed

KEPT = 86_400.0
"""Seconds for which health checks, and the answers to them, are kept."""
TRIM = 3_600.0
"""Seconds between two trims of them."""
ANSWERED = 0.1
"""Seconds between two looks whether all have answered."""

_ILL = "ill"

Reason = Literal["silent", "failed", "says so"]


class AgentUnhealthy(msgspec.Struct, frozen=True):
    """An agent fell ill: the data of `EventType.AGENT_UNHEALTHY`.

    `reason` is "silent" (no sign of life in time, and it did not say that it stops), "failed" (it is about to be
    started again, or given up), or "says so" (it answered a health check so). `detail` is what it said, or its last
    error. `since` is when that was found, `last_seen` the time of its last sign of life.
    """

    agent: str
    reason: Reason
    detail: object
    since: datetime
    last_seen: datetime | None


class AgentRecovered(msgspec.Struct, frozen=True):
    """An agent is well again: the data of `EventType.AGENT_RECOVERED`. It was ill since `unhealthy_since`."""

    agent: str
    since: datetime
    unhealthy_since: datetime


class Incident(msgspec.Struct, frozen=True):
    """What is known of an agent that is ill. `recovered` is when it got well, while that is being told.

    `telling` is the id under which this is just being told; None once it is told.
    """

    unhealthy: AgentUnhealthy
    recovered: datetime | None = None
    telling: str | None = None


class HealthMonitorAgent(BaseAgent):
    """Asks all agents how they are, collects what they answer and their signs of life, and tells what has changed.

    Each `interval` seconds it publishes a `health_check`, and waits up to `timeout` seconds for the answers. It
    publishes an `AgentUnhealthy` once when an agent falls silent, fails, or says that it is unhealthy, and an
    `AgentRecovered` once when it is well again. An agent that was stopped in an orderly way is not unhealthy; of one
    that lives and does not answer nothing new is known. What it has told is kept in the store, so a restart says
    nothing twice. Checks and answers are trimmed after a day. Of several processes that run it one asks; another
    takes over when that one has given no sign for `lease` seconds.

    >>> HealthMonitorAgent(interval=10, timeout=2).name
    'health_monitor'
    """

    def __init__(
        self, *, name: str = "health_monitor", interval: float = 30.0, timeout: float = 10.0, lease: float = 5.0
    ) -> None:
        self.name = name
        self._interval = check_seconds("interval", interval, least=0.01)
        self._timeout = check_seconds("timeout", timeout)
        self._lease = check_seconds("lease", lease, least=0.1)
        self._incidents: dict[str, Incident] = {}
        self._kept: bytes | None = None

    async def health(self) -> object:
        """The names of the agents that are ill, as far as this process knows."""
        return {"unhealthy": sorted(self._incidents)}

    async def work(self) -> None:
        """Ask, and tell, while it is this process's turn."""
        leadership = Leadership(self.bus.store, notes_of(self.name), seconds=self._lease)
        while True:
            async with leadership.lead():
                await self._monitor()

    async def _monitor(self) -> None:
        self._kept = (await self.bus.store.notes(notes_of(self.name))).get(_ILL)
        try:
            self._incidents = {} if self._kept is None else decode(self._kept, dict[str, Incident])
        except MalformedEvent as error:
            # It is written anew: what is ill still is told once more.
            self._incidents = {}
            self.bus.signals.emit(LoopFailed("monitor", notes_of(self.name), self.name, error, 0.0))
        await self._tell()
        trimmed = 0.0
        roster = Roster(self.bus)
        while True:
            began = time.monotonic()
            reports = await self._ask(roster)
            statuses = [status for status in await roster.statuses() if status.agent != self.name]
            ill = update_incidents(self._incidents, statuses, reports, datetime.now(UTC))
            if ill != self._incidents:
                self._incidents = ill
                await self._keep()
                await self._tell()
            if not trimmed or began - trimmed > TRIM:
                for kind in (EventType.HEALTH_CHECK, EventType.HEALTH_REPORT):
                    await self.bus.store.trim(kind.value, max_age=KEPT, force=True)
                trimmed = began
            await asyncio.sleep(self._interval - (time.monotonic() - began))

    async def _ask(self, roster: Roster) -> dict[str, HealthReport]:
        """The answers to a new health check, by agent: once all who live have answered, or after the timeout."""
        start = await last_position(self.bus.store, EventType.HEALTH_REPORT.value)
        check = await self.publish(EventType.HEALTH_CHECK)
        alive = {status.agent for status in await roster.statuses() if status.alive}
        deadline = time.monotonic() + min(self._timeout, self._interval)
        reports: dict[str, HealthReport] = {}
        while True:
            async for event in self.bus.events(EventType.HEALTH_REPORT, start=start):
                if isinstance(event, Event):
                    start = event.position
                    if event.headers.get(CAUSATION) == check and (report := _report(event)):
                        reports[report.agent] = report
            if alive <= reports.keys() or time.monotonic() >= deadline:
                return reports
            await asyncio.sleep(ANSWERED)

    async def _keep(self) -> None:
        note = encode(self._incidents)
        if not await self.bus.store.set_note(notes_of(self.name), _ILL, note, expected=self._kept):
            raise LeadershipLost(_ILL)
        self._kept = note

    async def _tell(self) -> None:
        """Publish what is noted as being told, then note that it is told. A repetition has the same id."""
        telling = [incident for incident in self._incidents.values() if incident.telling is not None]
        for incident in telling:
            unhealthy, recovered = incident.unhealthy, incident.recovered
            told = unhealthy if recovered is None else AgentRecovered(unhealthy.agent, recovered, unhealthy.since)
            await self.publish(told, key=unhealthy.agent, id=incident.telling)
        if telling:
            self._incidents = {
                agent: msgspec.structs.replace(incident, telling=None)
                for agent, incident in self._incidents.items()
                if incident.recovered is None
            }
            await self._keep()


def update_incidents(
    ill: Mapping[str, Incident], statuses: Iterable[AgentStatus], reports: Mapping[str, HealthReport], now: datetime
) -> dict[str, Incident]:
    """Who is ill, and what of that is to be told, after what was known before and what was found `now`."""
    found = dict(ill)
    for status in statuses:
        known = ill.get(status.agent)
        ailing = diagnose(status, reports.get(status.agent))
        if known is None and isinstance(ailing, tuple):
            reason, detail = ailing
            seen = None if status.seen is None else now - timedelta(seconds=status.seen)
            found[status.agent] = Incident(AgentUnhealthy(status.agent, reason, detail, now, seen), telling=new_id())
        elif known is not None and (ailing == "well" or (ailing == "alive" and known.unhealthy.reason != "says so")):
            found[status.agent] = Incident(known.unhealthy, recovered=now, telling=new_id())
    return found


def diagnose(
    status: AgentStatus, report: HealthReport | None
) -> tuple[Reason, object] | Literal["well", "alive"] | None:
    """What ails an agent, or that it is well, or only that it lives; None where nothing is known, or it was stopped."""
    if status.status in ("silent", "failed"):
        return ("silent" if status.status == "silent" else "failed"), status.last_error
    if report is not None and not report.healthy:
        return "says so", report.detail
    if status.status != "started":
        return None
    return "alive" if report is None else "well"


def _report(event: Event) -> HealthReport | None:
    try:
        return msgspec.convert(event.data, HealthReport)
    except (MalformedEvent, msgspec.ValidationError):
        return None
