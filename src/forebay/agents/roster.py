"""The agents on a bus and their statuses, and which code runs under the name of an agent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from forebay.agents.definition import Status
from forebay.agents.heartbeat import LastHeartbeat, Members
from forebay.agents.state import notes_of
from forebay.bus import EventBus
from forebay.errors import ConfigurationError
from forebay.event_types import EventType

_CODE = "code"


class NameTaken(ConfigurationError):
    """Other code is running under the name of an agent."""


class HealthReport(msgspec.Struct, frozen=True):
    """The answer of an agent to a health check: the data of `EventType.HEALTH_REPORT`."""

    agent: str
    member: str
    healthy: bool
    detail: object = None


class AgentStatus(msgspec.Struct, frozen=True):
    """The status of an agent, over all processes that run it.

    `status` is the best of its members', "silent" if the heartbeats of all of them are overdue, or "unknown" if no
    heartbeat is kept. `members` counts those alive. `seen` is the age in seconds of the last heartbeat. `lag`,
    `pending` and `dead` are sums over the streams that it handles.
    """

    agent: str
    status: Status | Literal["silent", "unknown"]
    members: int
    since: datetime | None
    seen: float | None
    lag: int | None
    pending: int
    dead: int
    handled: int
    failed: int
    restarts: int
    last_error: str | None

    @property
    def alive(self) -> bool:
        """Whether it handles events, or is about to."""
        return self.status in ("initializing", "started", "draining")


class Roster:
    """The agents that were ever run on a bus. Keep one object to look again: it has seen which members are alive."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._members = Members(bus)

    async def statuses(self) -> list[AgentStatus]:
        """The status of each agent, by name.

        Their names are also the groups that answer health checks, so an agent that has been silent for days is listed.
        """
        streams = await self._bus.stats()
        heartbeats: dict[str, list[LastHeartbeat]] = {}
        for last in await self._members.last_heartbeats():
            heartbeats.setdefault(last.heartbeat.agent, []).append(last)
        checked = [stream.groups for stream in streams if stream.stream == EventType.HEALTH_CHECK.value]
        names = {group.group for groups in checked for group in groups}
        found = []
        for name in sorted(names | heartbeats.keys()):
            groups = [group for stream in streams for group in stream.groups if group.group == name]
            lags = [group.lag for group in groups]
            found.append(
                _status(
                    name,
                    heartbeats.get(name, []),
                    lag=None if None in lags else sum(lag for lag in lags if lag is not None),
                    pending=sum(group.pending for group in groups),
                    dead=sum(group.dead for group in groups),
                )
            )
        return found


async def agent_statuses(bus: EventBus) -> list[AgentStatus]:
    """Return the status of all agents that were ever run on this bus, by name."""
    return await Roster(bus).statuses()


def _status(name: str, heartbeats: list[LastHeartbeat], *, lag: int | None, pending: int, dead: int) -> AgentStatus:
    if not heartbeats:
        return AgentStatus(name, "unknown", 0, None, None, lag, pending, dead, 0, 0, 0, None)
    alive = [last for last in heartbeats if last.alive]
    best = max(alive or heartbeats[:1], key=lambda last: _ORDER.index(last.heartbeat.status))
    shown = alive or heartbeats[:1]
    return AgentStatus(
        agent=name,
        status="silent" if not alive and best.late else best.heartbeat.status,
        members=len(alive),
        since=best.heartbeat.since,
        seen=min(last.age for last in heartbeats),
        lag=lag,
        pending=pending,
        dead=dead,
        handled=sum(last.heartbeat.handled for last in shown),
        failed=sum(last.heartbeat.failed for last in shown),
        restarts=sum(last.heartbeat.restarts for last in shown),
        last_error=next((last.heartbeat.last_error for last in shown if last.heartbeat.last_error), None),
    )


_ORDER = ("failed", "stopped", "draining", "initializing", "started")


async def register(bus: EventBus, name: str, member: str, code: str) -> None:
    """Note that this code is the agent of this name; raise `NameTaken` while other code of that name is alive.

    Two agents of one name would be one group, and take each other's events. The member has published a heartbeat
    before: of two that begin at the same moment, the second to write the note finds the heartbeat of the first.
    """
    stream = notes_of(name)
    mine = f"{code} {member}".encode()
    while True:
        known = (await (await bus.ready()).notes(stream)).get(_CODE)
        registered = None if known is None else known.decode(errors="replace").partition(" ")[0]
        if registered not in (None, code):
            _require_gone(name, registered, code, await Members(bus).last_heartbeats())
        if await (await bus.ready()).set_note(stream, _CODE, mine, expected=known):
            return


def _require_gone(name: str, known: str | None, code: str, heartbeats: Iterable[LastHeartbeat]) -> None:
    for last in heartbeats:
        other = last.heartbeat
        if last.alive and other.agent == name and other.code == known:
            raise NameTaken(
                f"an agent named {name!r} with other code is running: {known}, as process {other.pid} on {other.host}; "
                f"stop it, or give {code} a name of its own"
            )
