"""An agent that checks the health of the others, and publishes when one becomes unhealthy or recovers."""

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

RETENTION_SECONDS = 86_400.0
"""Time for which health checks and reports are kept."""
TRIM_SECONDS = 3_600.0
"""Time between two trims of them."""
POLL_SECONDS = 0.1
"""Time between two looks for reports."""

_ILL = "ill"

Reason = Literal["silent", "failed", "says so"]


class AgentUnhealthy(msgspec.Struct, frozen=True):
    """An agent became unhealthy: the data of `EventType.AGENT_UNHEALTHY`.

    `reason` is "silent" (its heartbeats are overdue, and it has not stopped in an orderly way), "failed" (it is about
    to be started again, or given up), or "says so" (it reported so). `detail` is its report, or its last error. `since`
    is when that was found, `last_seen` the time of its last heartbeat.
    """

    agent: str
    reason: Reason
    detail: object
    since: datetime
    last_seen: datetime | None


class AgentRecovered(msgspec.Struct, frozen=True):
    """An agent has recovered: the data of `EventType.AGENT_RECOVERED`. It was unhealthy since `unhealthy_since`."""

    agent: str
    since: datetime
    unhealthy_since: datetime


class Incident(msgspec.Struct, frozen=True):
    """The time in which an agent is unhealthy. `recovered` is its end, until that is published.

    `pending` is the id of the event that may not be published yet; None once it is.
    """

    unhealthy: AgentUnhealthy
    recovered: datetime | None = None
    pending: str | None = msgspec.field(default=None, name="telling")


class HealthMonitorAgent(BaseAgent):
    """Checks the health of all agents, by their reports and heartbeats, and publishes each change.

    Each `interval` seconds it publishes a `health_check`, and waits up to `timeout` seconds for the reports. It
    publishes an `AgentUnhealthy` once when an agent falls silent, fails, or reports that it is unhealthy, and an
    `AgentRecovered` once when it is healthy again. An agent that was stopped in an orderly way is not unhealthy. An
    agent that is alive and does not report keeps its state. The open incidents are kept in the store, so a restart
    publishes nothing twice. Checks and reports are trimmed after a day. Of several processes that run it one checks;
    another takes over when that one has been silent for `lease` seconds.

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
        """The names of the unhealthy agents, as far as this process knows."""
        return {"unhealthy": sorted(self._incidents)}

    async def work(self) -> None:
        """Check while this process leads."""
        leadership = Leadership(self.bus.store, notes_of(self.name), seconds=self._lease)
        while True:
            async with leadership.lead():
                await self._monitor()

    async def _monitor(self) -> None:
        self._kept = (await self.bus.store.notes(notes_of(self.name))).get(_ILL)
        try:
            self._incidents = {} if self._kept is None else decode(self._kept, dict[str, Incident])
        except MalformedEvent as error:
            # The note is written again, and agents that are still unhealthy are published once more.
            self._incidents = {}
            self.bus.signals.emit(LoopFailed("monitor", notes_of(self.name), self.name, error, 0.0))
        await self._publish_pending()
        trimmed = 0.0
        roster = Roster(self.bus)
        while True:
            began = time.monotonic()
            reports = await self._check(roster)
            statuses = [status for status in await roster.statuses() if status.agent != self.name]
            ill = update_incidents(self._incidents, statuses, reports, datetime.now(UTC))
            if ill != self._incidents:
                self._incidents = ill
                await self._keep()
                await self._publish_pending()
            if not trimmed or began - trimmed > TRIM_SECONDS:
                for kind in (EventType.HEALTH_CHECK, EventType.HEALTH_REPORT):
                    await self.bus.store.trim(kind.value, max_age=RETENTION_SECONDS, force=True)
                trimmed = began
            await asyncio.sleep(self._interval - (time.monotonic() - began))

    async def _check(self, roster: Roster) -> dict[str, HealthReport]:
        """The reports on a new health check, by agent, once all living agents have reported or the time is over."""
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
            await asyncio.sleep(POLL_SECONDS)

    async def _keep(self) -> None:
        note = encode(self._incidents)
        if not await self.bus.store.set_note(notes_of(self.name), _ILL, note, expected=self._kept):
            raise LeadershipLost(_ILL)
        self._kept = note

    async def _publish_pending(self) -> None:
        """Publish the pending events, then note that they are published. A repetition has the same id."""
        pending = [incident for incident in self._incidents.values() if incident.pending is not None]
        for incident in pending:
            unhealthy, recovered = incident.unhealthy, incident.recovered
            event = unhealthy if recovered is None else AgentRecovered(unhealthy.agent, recovered, unhealthy.since)
            await self.publish(event, key=unhealthy.agent, id=incident.pending)
        if pending:
            self._incidents = {
                agent: msgspec.structs.replace(incident, pending=None)
                for agent, incident in self._incidents.items()
                if incident.recovered is None
            }
            await self._keep()


def update_incidents(
    ill: Mapping[str, Incident], statuses: Iterable[AgentStatus], reports: Mapping[str, HealthReport], now: datetime
) -> dict[str, Incident]:
    """The open incidents, with the pending events, after those before and the statuses and reports of `now`."""
    found = dict(ill)
    for status in statuses:
        known = ill.get(status.agent)
        ailing = diagnose(status, reports.get(status.agent))
        if known is None and isinstance(ailing, tuple):
            reason, detail = ailing
            seen = None if status.seen is None else now - timedelta(seconds=status.seen)
            found[status.agent] = Incident(AgentUnhealthy(status.agent, reason, detail, now, seen), pending=new_id())
        elif known is not None and (ailing == "well" or (ailing == "alive" and known.unhealthy.reason != "says so")):
            found[status.agent] = Incident(known.unhealthy, recovered=now, pending=new_id())
    return found


def diagnose(
    status: AgentStatus, report: HealthReport | None
) -> tuple[Reason, object] | Literal["well", "alive"] | None:
    """The fault of an agent, that it is "well", or only "alive"; None if it has stopped, or nothing is known."""
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
