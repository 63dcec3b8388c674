"""Heartbeats of agents: their data, the last one of each member, and the loop that publishes a member's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from forebay.agents.definition import RunnableAgent, Status, code_of
from forebay.bus import EventBus
from forebay.errors import ConfigurationError, ForebayError, MalformedEvent, RetryAfter
from forebay.event_types import EventType
from forebay.middleware import HandlerCall, Middleware
from forebay.payload import check_name, decode, encode
from forebay.presence import Observation, Observer, fence
from forebay.reason import describe
from forebay.runtime.supervise import wait_for
from forebay.signals import LoopFailed
from forebay.subscription import consumer_name

STREAM = "forebay.agents"
"""The stream whose notes are the last heartbeats of all members; it has no entries."""
PREFIX = "member:"
"""Prefix of the notes; the member's name follows."""
HEARTBEATS_PER_LIFETIME = 3
"""Heartbeats that may be missing before a member counts as silent."""
KEPT_HEARTBEATS = 10_000
"""Heartbeat events that stay in the stream: hours of them, for dozens of agents."""
TRIM_INTERVAL = 500
"""Heartbeats of one member between two trims of the stream."""
SWEEP_SECONDS = 60.0
"""Time between two looks of a member for notes of the agent's former members."""
ABANDONED_SECONDS = 3600.0
"""Silence by the store's clock after which a new member removes the note of a former one."""
_ENDED = ("stopped", "failed")


class Heartbeat(msgspec.Struct, frozen=True):
    """A heartbeat of an agent: the data of `EventType.AGENT_HEARTBEAT`.

    `member` names the one of several processes that run the agent, `code` its class. `since` is the time when it
    entered this `status`. The next heartbeat comes within `every` seconds. `handled` and `failed` count handler calls
    since its process began to run it.
    """

    agent: str
    member: str
    code: str
    status: Status
    since: datetime
    every: float
    handled: int = 0
    failed: int = 0
    restarts: int = 0
    last_error: str | None = None
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)

    @property
    def has_ended(self) -> bool:
        """Whether this was the last heartbeat of the member, until it is started again."""
        return self.status in _ENDED

    @property
    def lifetime(self) -> float:
        """Seconds without a heartbeat after which the member counts as silent."""
        return HEARTBEATS_PER_LIFETIME * self.every


class LastHeartbeat(msgspec.Struct, frozen=True):
    """The last heartbeat of one member, and its age in seconds."""

    heartbeat: Heartbeat
    age: float

    @property
    def alive(self) -> bool:
        """Whether the member is alive, as far as can be known."""
        return not self.heartbeat.has_ended and not self.late

    @property
    def late(self) -> bool:
        """Whether the next heartbeat is overdue."""
        return not self.heartbeat.has_ended and self.age > self.heartbeat.lifetime


class _Note(msgspec.Struct, frozen=True):
    """The text of a member's note. `renewed` is Unix time by the store's clock."""

    renewed: float
    heartbeat: Heartbeat


class Members:
    """The members of all agents on a bus, by their last heartbeats.

    The longer one object observes them, the less it depends on the store's clock; see `forebay.presence`.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._observer = Observer[str]()

    async def put(self, heartbeat: Heartbeat) -> None:
        """Keep a heartbeat as the last one of its member."""
        store = await self._bus.ready()
        note = _Note(await store.time(STREAM), heartbeat)
        await store.set_note(STREAM, PREFIX + heartbeat.member, encode(note))

    async def last_heartbeats(self) -> list[LastHeartbeat]:
        """The last heartbeat of each member, the newest first. Notes of other programs are left out."""
        return sorted((last for _, _, last in await self._look()), key=lambda last: last.age)

    async def sweep(self, agent: str, own: str, *, is_first: bool) -> None:
        """Remove the notes of former members of an agent, as the member `own` of it.

        Those are members that have ended, and those that were silent for their lifetime while this object watched. The
        `is_first` sweep has not watched: it removes notes that have been silent for an hour by the store's clock.
        """
        store = await self._bus.ready()
        for name, seen, last in await self._look():
            heartbeat = last.heartbeat
            if heartbeat.agent == agent and heartbeat.member != own:
                is_abandoned = is_first and last.age > max(heartbeat.lifetime, ABANDONED_SECONDS)
                if heartbeat.has_ended or is_abandoned or seen.state(heartbeat.lifetime) == "gone":
                    await fence(store, STREAM, name, seen.note)

    async def _look(self) -> list[tuple[str, Observation, LastHeartbeat]]:
        store = await self._bus.ready()
        notes = await store.notes(STREAM)
        now = await store.time(STREAM) if notes else 0.0
        observed = self._observer.look({name: note for name, note in notes.items() if name.startswith(PREFIX)})
        found: list[tuple[str, Observation, LastHeartbeat]] = []
        for name, seen in observed.items():
            try:
                note = decode(seen.note, _Note)
                check_name("agent name", note.heartbeat.agent)
            except (MalformedEvent, ConfigurationError):
                continue
            found.append((name, seen, LastHeartbeat(note.heartbeat, seen.silence(now - note.renewed))))
        return found


class Heartbeats(Middleware):
    """The heartbeats of one member: their contents, and the loop that publishes them."""

    def __init__(self, agent: RunnableAgent, bus: EventBus) -> None:
        self.member = consumer_name(agent.name[:60])
        self.code = code_of(agent)
        self.restarts = 0
        self.last_error: str | None = None
        self._agent = agent
        self._bus = bus
        self._members = Members(bus)
        self._status: Status = "initializing"
        self._since = datetime.now(UTC)
        self._handled = 0
        self._failed = 0
        self._changed = asyncio.Event()

    def enter(self, status: Status) -> None:
        """Enter a status; the next heartbeat comes at once."""
        self._status, self._since = status, datetime.now(UTC)
        self._changed.set()

    @contextlib.contextmanager
    def handling(self, call: HandlerCall) -> Iterator[None]:
        """Count how the call of a handler ends."""
        try:
            yield
        except RetryAfter:
            raise
        except Exception as error:
            self._failed += 1
            self.last_error = describe(error)
            raise
        self._handled += 1

    async def run(self) -> None:
        """Publish a heartbeat at each change of status, and each `heartbeat` seconds otherwise, until cancelled."""
        count = 0
        swept_at: float | None = None
        while True:
            self._changed.clear()
            try:
                await self.publish()
                count += 1
                if not count % TRIM_INTERVAL:
                    await self._bus.store.trim(EventType.AGENT_HEARTBEAT.value, max_length=KEPT_HEARTBEATS, force=True)
                if swept_at is None or time.monotonic() - swept_at > SWEEP_SECONDS:
                    await self._members.sweep(self._agent.name, self.member, is_first=swept_at is None)
                    swept_at = time.monotonic()
            except ForebayError as error:
                stream = EventType.AGENT_HEARTBEAT.value
                self._bus.signals.emit(LoopFailed("heartbeat", stream, self._agent.name, error, self._agent.heartbeat))
            await wait_for(self._changed, self._agent.heartbeat)

    async def publish_last(self, seconds: float) -> None:
        """Publish the last heartbeat, if that is possible in so many seconds."""
        with contextlib.suppress(ForebayError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.publish()

    async def publish(self) -> None:
        """Publish a heartbeat now, and keep it as the last one of this member."""
        heartbeat = Heartbeat(
            agent=self._agent.name,
            member=self.member,
            code=self.code,
            status=self._status,
            since=self._since,
            every=self._agent.heartbeat,
            handled=self._handled,
            failed=self._failed,
            restarts=self.restarts,
            last_error=self.last_error,
        )
        await self._members.put(heartbeat)
        await self._bus.publish(EventType.AGENT_HEARTBEAT, self._agent.name, heartbeat, key=self._agent.name)
