"""Signs of life of an agent: how they look, and how each member publishes its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from forebay.agents.definition import RunnableAgent, Status, code_of
from forebay.bus import EventBus
from forebay.cause import caused_by
from forebay.errors import ForebayError, RetryAfter
from forebay.event import Event
from forebay.event_types import EventType
from forebay.reason import describe
from forebay.runtime.supervise import wait_for
from forebay.signals import LoopFailed
from forebay.subscription import consumer_name

KEPT = 10_000
"""Signs of life that stay in the stream: hours of them, for dozens of agents."""
SWEEP = 500
"""After so many signs of life, one member trims their stream."""


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life, as an agent publishes it: the data of `EventType.AGENT_HEARTBEAT`.

    `member` names the one of several processes that run the agent, `code` its class. `since` is when it
    came to be in this `status`. `every` is after how many seconds the next one is to be expected.
    `handled` and `failed` count handler calls since its process began to run it.
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


class Heartbeats:
    """The signs of life of one member, and what they tell."""

    def __init__(self, agent: RunnableAgent, bus: EventBus) -> None:
        self.member = consumer_name(agent.name[:60])
        self.code = code_of(agent)
        self.restarts = 0
        self.last_error: str | None = None
        self._agent = agent
        self._bus = bus
        self._status: Status = "initializing"
        self._since = datetime.now(UTC)
        self._handled = 0
        self._failed = 0
        self._changed = asyncio.Event()

    def enter(self, status: Status) -> None:
        """Its life went on; the next sign of life comes at once."""
        self._status, self._since = status, datetime.now(UTC)
        self._changed.set()

    @contextlib.contextmanager
    def around(self, events: Event | list[Event]) -> Iterator[None]:
        """Around a handler's call: what it publishes is caused by its event, and how it ends is counted."""
        try:
            with caused_by(None if isinstance(events, list) else events):
                yield
        except RetryAfter:
            raise
        except Exception as error:
            self._failed += 1
            self.last_error = describe(error)
            raise
        self._handled += 1

    async def run(self) -> None:
        """Publish signs of life, at every change and else each `heartbeat` seconds, until cancelled."""
        count = 0
        while True:
            self._changed.clear()
            try:
                await self.publish()
                count += 1
                if not count % SWEEP:
                    await self._bus.store.trim(EventType.AGENT_HEARTBEAT.value, max_length=KEPT, force=True)
            except ForebayError as error:
                stream = EventType.AGENT_HEARTBEAT.value
                self._bus.signals.emit(LoopFailed("heartbeat", stream, self._agent.name, error, self._agent.heartbeat))
            await wait_for(self._changed, self._agent.heartbeat)

    async def publish_last(self, seconds: float) -> None:
        """Publish how it ended, if that is possible in so many seconds."""
        with contextlib.suppress(ForebayError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.publish()

    async def publish(self) -> None:
        """Publish a sign of life now."""
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
        await self._bus.publish(EventType.AGENT_HEARTBEAT, self._agent.name, heartbeat, key=self._agent.name)
