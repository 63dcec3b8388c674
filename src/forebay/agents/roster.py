"""Which agents there are, and how they are: their signs of life, and what can be read from them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from forebay.agents.definition import Status
from forebay.agents.heartbeat import KEPT, Heartbeat
from forebay.agents.state import notes_of
from forebay.bus import EventBus
from forebay.errors import ConfigurationError, MalformedEvent
from forebay.event import Record
from forebay.event_types import EventType
from forebay.payload import check_name, decode
from forebay.store import END

MISSED = 3
"""Signs of life that may fail to come before an agent counts as silent."""
_CODE = "code"
_ENDED = ("stopped", "failed")


class NameTaken(ConfigurationError):
    """Other code is running under the name of an agent."""


class HealthReport(msgspec.Struct, frozen=True):
    """What an agent answers to a health check: the data of `EventType.HEALTH_REPORT`."""

    agent: str
    member: str
    healthy: bool
    detail: object = None


class AgentStatus(msgspec.Struct, frozen=True):
    """How an agent is, over all processes that run it.

    `status` is the best of its members', or "silent" where none of them gave a sign of life in time, or
    "unknown" where none has been kept. `members` counts those alive. `seen` is the age in seconds of the
    last sign of life. `lag`, `pending` and `dead` are sums over the streams that it handles.
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
        """Whether it may be expected to handle what comes."""
        return self.status in ("initializing", "started", "draining")


class LastHeartbeat(msgspec.Struct, frozen=True):
    """The last sign of life of one member, and how old it is, in seconds."""

    heartbeat: Heartbeat
    age: float

    @property
    def alive(self) -> bool:
        """Whether it lives, as far as can be known."""
        return self.heartbeat.status not in _ENDED and not self.late

    @property
    def late(self) -> bool:
        """Whether the next sign of life should long have come."""
        return self.heartbeat.status not in _ENDED and self.age > MISSED * self.heartbeat.every


async def last_heartbeats(bus: EventBus) -> list[LastHeartbeat]:
    """The last sign of life of each member, of those that are kept; the newest first.

    What cannot be one, or names an agent as no agent can be named, is passed over: anyone may write to the stream.
    """
    found: dict[str, LastHeartbeat] = {}
    stream = EventType.AGENT_HEARTBEAT.value
    store = await bus.ready()
    entries = await store.scan(stream, until=END, limit=KEPT, newest=True)
    # How old they are says the store's clock: neither that of the agent nor that of this process.
    now = await store.time(stream)
    for entry in reversed(entries):
        try:
            heartbeat = decode(entry.record.data, Heartbeat) if isinstance(entry.record, Record) else None
            if heartbeat is not None:
                check_name("agent name", heartbeat.agent)
        except (MalformedEvent, ConfigurationError):
            continue
        if heartbeat is not None and heartbeat.member not in found:
            found[heartbeat.member] = LastHeartbeat(heartbeat, max(0.0, now - entry.appended))
    return list(found.values())


async def agent_statuses(bus: EventBus) -> list[AgentStatus]:
    """All agents that were ever run on this bus, by name.

    Their names are the groups that answer health checks, so one that has been silent for days is still known.
    """
    streams = await bus.stats()
    heartbeats: dict[str, list[LastHeartbeat]] = {}
    for last in await last_heartbeats(bus):
        heartbeats.setdefault(last.heartbeat.agent, []).append(last)
    names = {
        group.group for stream in streams if stream.stream == EventType.HEALTH_CHECK.value for group in stream.groups
    }
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
    """Note that this code is the agent of this name; refuse it while other code of that name is alive.

    Two agents of one name would be one group, and take each other's events. The member has given a sign of
    life before: of two that begin at the same moment, the second to write the note finds that of the first.
    """
    stream = notes_of(name)
    mine = f"{code} {member}".encode()
    while True:
        known = (await (await bus.ready()).notes(stream)).get(_CODE)
        registered = None if known is None else known.decode(errors="replace").partition(" ")[0]
        if registered not in (None, code):
            _require_gone(name, registered, code, await last_heartbeats(bus))
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
