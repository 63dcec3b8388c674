"""Runs an agent on a bus: it starts, runs, and stops; after a failure it is started again.

initializing ---> started ---> draining ---> stopped
     ^  |            |
     |  +---> failed <+
     |          |
     +----------+   after a back-off, up to a limit in a row
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from forebay.agents.definition import Handles, RunnableAgent, Status
from forebay.agents.heartbeat import Heartbeats
from forebay.agents.roster import HealthReport, NameTaken, register
from forebay.agents.signals import AgentFailed, AgentStatusChanged
from forebay.bus import EventBus
from forebay.callables import completed
from forebay.cleanup import finish, until_first_ends
from forebay.errors import AgentError, ConfigurationError, ForebayError
from forebay.event import Event
from forebay.event_types import EventType
from forebay.payload import encode, type_name
from forebay.reason import describe
from forebay.restarts import Backoff, Restarts
from forebay.runtime import Options, Run, Runnable
from forebay.runtime.consumer import Consumer
from forebay.runtime.run import leave
from forebay.runtime.supervise import TRANSIENT, wait_for
from forebay.store import START
from forebay.subscription import EventStreamConsumer

RESTART_WINDOW_SECONDS = 60.0
"""Running time after which an earlier failure does not count."""
CHECK_EXPIRY_SECONDS = 60.0
"""Age of a health check at which it is not answered."""
HEALTH_SECONDS = 10.0
"""Time that `health` may take."""
LAST_HEARTBEAT_SECONDS = 2.0
"""Time that the last heartbeat may take."""
AFTER_GRACE_SECONDS = 1.4
"""Time after the grace, from the moment when the agent is stopped, for its last hook and its last heartbeat."""
LEAST_SECONDS = 0.15
"""Time that each of them has, however late it is."""
ABANDON_SECONDS = 0.5
"""Time after which a hook that was cancelled and goes on is not waited for."""

_CHECK = EventType.HEALTH_CHECK.value

Hook = Callable[[], Coroutine[Any, Any, object]]


class AgentRunner:
    """Runs one agent until it is stopped. Its `groups` are known before it starts."""

    def __init__(self, agent: RunnableAgent, bus: EventBus, *, wait: float | None = None) -> None:
        self.agent = agent
        self._bus = bus
        self._wait = wait
        self._declared = self._with_health_check(agent.declared())
        self._subscriptions = [(self._subscription(each), each.function) for each in self._declared]
        self.groups: list[tuple[str, str]] = [(type_name(each.event_type), agent.name) for each in self._declared]
        self._stop = asyncio.Event()
        self._stopped_at = 0.0
        self._was_ready = False
        self._run = Run()
        self._consumers: list[Consumer] = []
        self._heartbeats = Heartbeats(agent, bus)

    @property
    def is_idle(self) -> bool:
        """Whether it has started, and its consumers are idle."""
        return bool(self._consumers) and all(consumer.is_idle for consumer in self._consumers)

    @property
    def last_read(self) -> float | None:
        """The time when the slowest of its consumers last finished a read."""
        times = [consumer.last_read for consumer in self._consumers]
        return None if None in times else min((t for t in times if t is not None), default=None)

    def stop(self) -> None:
        """Drain, and end."""
        if not self._stop.is_set():
            self._stopped_at = time.monotonic()
        self._stop.set()
        self._run.stop()

    async def run(self, *, grace: float) -> None:
        """Run until `stop`; start again after a failure, with a back-off from half a second to half a minute.

        Raises the `ConfigurationError` of its first `initialize`, since it could never work, or if other code runs
        under its name; and `AgentError` after `agent.restarts` failures in a row. An unreachable store does not count.
        """
        with self.agent.bound_to(self._bus):
            await self._run_with_restarts(grace)

    async def _run_with_restarts(self, grace: float) -> None:
        restarts = Restarts(
            limit=self.agent.restarts, window=RESTART_WINDOW_SECONDS, backoff=Backoff(base=0.5, cap=30.0)
        )
        while True:
            restarts.started()
            try:
                await self._run_once(grace)
                return
            except NameTaken:
                raise
            except Exception as error:
                if isinstance(error, ConfigurationError) and not self._was_ready:
                    raise
                # A store that is away does not count.
                delay = restarts.failed(counts=not isinstance(error, TRANSIENT))
                ends = restarts.is_exhausted or self._stop.is_set()
                self._bus.signals.emit(AgentFailed(self.agent.name, error, None if ends else delay))
                if self._stop.is_set():
                    return
                if restarts.is_exhausted:
                    raise AgentError(
                        f"agent {self.agent.name!r} failed {restarts.in_a_row} times in a row, "
                        f"last with {describe(error)}"
                    ) from error
                if await wait_for(self._stop, delay):
                    self._enter("stopped")
                    await self._heartbeats.publish_last(self._left(grace, LAST_HEARTBEAT_SECONDS))
                    return
                self._heartbeats.restarts += 1

    async def _run_once(self, grace: float) -> None:
        self._enter("initializing")
        await self._heartbeats.publish()
        beating = asyncio.create_task(self._heartbeats.run(), name="forebay-heartbeat")
        end: Status = "failed"
        try:
            await register(self._bus, self.agent.name, self._heartbeats.member, self._heartbeats.code)
            async with self._ended_by_stopped(grace):
                await self._unless_stopped(self.agent.initialize)
                self._was_ready = True
                if not self._stop.is_set():
                    await self._serve(grace)
            end = "stopped"
        except Exception as error:
            self._heartbeats.last_error = describe(error)
            raise
        finally:
            self._enter(end)
            await finish(self._end(beating, grace))

    async def _end(self, beating: asyncio.Task[None], grace: float) -> None:
        beating.cancel()
        await asyncio.wait([beating])
        await self._heartbeats.publish_last(self._left(grace, LAST_HEARTBEAT_SECONDS))

    def _left(self, grace: float, wanted: float) -> float:
        """The part of the `wanted` seconds that is left at the end, which takes `grace` and a little more in all."""
        if not self._stop.is_set():
            return wanted
        return min(wanted, max(LEAST_SECONDS, self._stopped_at + grace + AFTER_GRACE_SECONDS - time.monotonic()))

    @contextlib.asynccontextmanager
    async def _ended_by_stopped(self, grace: float) -> AsyncIterator[None]:
        """Call `stopped` at the end. An earlier error is raised rather than one of `stopped`."""
        try:
            yield
        except BaseException as error:
            self._consumers = []
            try:
                await finish(in_time(self.agent.stopped, self._left(grace, grace)))
            except Exception as further:  # noqa: BLE001  # it is raised as a note of the first one
                error.add_note(f"and then stopped() failed: {describe(further)}")
            raise
        self._consumers = []
        await finish(in_time(self.agent.stopped, self._left(grace, grace)))

    async def _serve(self, grace: float) -> None:
        """Handle events until `stop`, or until a part fails."""
        self._run = Run()
        self._consumers = [
            first.consumer(function, wait=self._wait, middlewares=(self._heartbeats,), beside=others)
            for function, (first, *others) in self._by_function()
        ]
        await self._unless_stopped(self.agent.started)
        self._enter("started")
        parts: list[Runnable] = [Work(self.agent, on_draining=lambda: self._enter("draining")), *self._consumers]
        await self._run.go(parts, grace=grace)

    def _by_function(self) -> list[tuple[Callable[..., Any], list[EventStreamConsumer[Any]]]]:
        """The streams of each consumer: those with the same function and the same options have one together."""
        found: list[tuple[Callable[..., Any], list[EventStreamConsumer[Any]]]] = []
        for subscription, function in self._subscriptions:
            for other, subscriptions in found:
                if other == function and subscriptions[0].options == subscription.options:
                    subscriptions.append(subscription)
                    break
            else:
                found.append((function, [subscription]))
        return found

    def _subscription(self, declared: Handles) -> EventStreamConsumer[Any]:
        event: Any = declared.event_type
        subscription: EventStreamConsumer[Any] = self._bus.subscribe_to_stream(
            event, self.agent.name, **declared.options.given()
        )
        subscription.handler(declared.function).close()
        return subscription

    async def _unless_stopped(self, hook: Hook) -> None:
        """Wait for the hook; if the stop comes first, cancel it."""
        task = asyncio.create_task(completed(hook()))
        try:
            await until_first_ends(task, self._stop.wait())
        finally:
            task.cancel()
            await finish(leave([task], after=ABANDON_SECONDS))
        if not (self._stop.is_set() and (task.cancelled() or not task.done())):
            require_done(task, hook)

    def _enter(self, status: Status) -> None:
        self._heartbeats.enter(status)
        self._bus.signals.emit(AgentStatusChanged(self.agent.name, status))

    def _with_health_check(self, declared: Sequence[Handles]) -> list[Handles]:
        """The handlers of the agent, and the one for health checks, which it may not declare itself."""
        own = [each for each in declared if type_name(each.event_type) == _CHECK]
        if own:
            raise ConfigurationError(
                f"agent {self.agent.name!r} handles {_CHECK!r} itself; override health() to say how it is"
            )
        return [*declared, Handles(_CHECK, Options(start="latest", concurrency=1), self._answer)]

    async def _answer(self, event: Event) -> None:
        if await self._has_expired(event):
            return
        name, member = self.agent.name, self._heartbeats.member
        try:
            report = HealthReport(name, member, healthy=True, detail=await in_time(self.agent.health, HEALTH_SECONDS))
            encode(report)
        except Exception as error:  # noqa: BLE001  # any error is the answer
            report = HealthReport(name, member, healthy=False, detail=describe(error))
        await self._bus.publish(EventType.HEALTH_REPORT, name, report, key=name)

    async def _has_expired(self, check: Event) -> bool:
        """Whether a check waited too long for this agent, by the clock of the store."""
        store = await self._bus.ready()
        found = await store.scan(_CHECK, until=check.position or START, limit=1, newest=True)
        if not found or found[0].position != check.position:
            return True
        return await store.time(_CHECK) - found[0].appended > CHECK_EXPIRY_SECONDS


async def in_time(hook: Hook, seconds: float) -> object:
    """The result of a hook; `TimeoutError` if it takes longer."""
    task = asyncio.create_task(completed(hook()))
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError(f"{hook.__name__}() ran longer than {seconds:g} s")
    finally:
        task.cancel()
    return require_done(task, hook)


def require_done(task: asyncio.Task[object], hook: Hook) -> object:
    """The result of a hook. A hook that was cancelled, and not by its runner, has failed."""
    if task.cancelled():
        raise ForebayError(f"{hook.__name__}() was cancelled from within")
    return task.result()


class Work:
    """The `work` of an agent as a part of its run. Its failure ends the run, its return does not."""

    groups: Sequence[tuple[str, str]] = ()
    is_idle = True
    last_read = None

    def __init__(self, agent: RunnableAgent, *, on_draining: Callable[[], None]) -> None:
        self._agent = agent
        self._on_draining = on_draining
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Cancel the work, and call `draining`."""
        self._stop.set()

    async def run(self, *, grace: float) -> None:
        """Work until it returns or fails; then wait for the stop."""
        working: asyncio.Task[object] = asyncio.create_task(
            completed(self._agent.work()), name=f"forebay-agent-{self._agent.name}"
        )
        try:
            await until_first_ends(working, self._stop.wait())
            if working.done():
                require_done(working, self._agent.work)
            await self._stop.wait()
            self._on_draining()
            await in_time(self._agent.draining, grace)
        finally:
            working.cancel()
            await finish(leave([working], after=ABANDON_SECONDS))
        if working.done() and not working.cancelled():
            working.result()
