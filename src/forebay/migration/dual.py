"""Both buses at once: each event goes to both, and each agent handles it on one of them.

publish ---> stamp ---> new bus ---> group of the agent ---> handler, unless the stamp says: old
               |
               +------> old bus ---> wrapper ---> handler, if the stamp says: old
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from forebay.bus import EventBus
from forebay.callables import completed, discard, refuse_generator
from forebay.cleanup import finish
from forebay.errors import ConfigurationError, ForebayError, InvalidEvent, PublishUnknown, StoreError
from forebay.event import Event, new_id
from forebay.home import Home
from forebay.interrupts import stopped_by_signals
from forebay.migration.context import MigrationContext
from forebay.migration.counts import Counts
from forebay.migration.dual_handler import DualHandler
from forebay.migration.observer import Observer
from forebay.migration.old import EventDict, OldBus, OldEventBus, OldHandler
from forebay.migration.parity import ProcessReport, compact, write_report
from forebay.migration.peers import Peers
from forebay.migration.routes import STREAM, Route, Stamp, introduce, name_of, routes
from forebay.migration.upkeep import keep_running
from forebay.payload import EventTypeLike, check_name, type_name
from forebay.reason import describe
from forebay.runtime import Options, handler_name
from forebay.runtime.supervise import wait_for
from forebay.subscription import consumer_name
from forebay.typed import Settings

logger = logging.getLogger("forebay")

LOOK = 0.25
"""Seconds between two looks at the switch."""
REPORT_INTERVAL = 1.0
"""Seconds between two writes of the counts."""
CONCURRENCY = 64
"""Handlers at once for one agent and type, events that wait for the old bus among them, unless a subscription says."""
SLOW_PUBLISH = 1.0
"""Seconds of an attempt that failed, after which the new bus is let alone until it takes something again."""
AT_THE_END = 10.0
"""Seconds that handlers may go on when the DualBus is closed."""


class DualBus:
    """Publishes to an old bus and to this one, and lets each agent handle events on one of them.

    It stands in the old bus's place: `publish(event_type, source, data)` and `subscribe(event_type, handler)`
    are what an `OldBus` has; an `EventBus` may be the old one, too. Where an agent handles its events is
    switched while it runs: `forebay migrate cutover AGENT`, and `rollback`. Which side an event belongs to is
    settled at its publish, so that a switch loses nothing, and lets nothing be handled on both.

    `primary` is the bus whose errors are the publisher's: those of the other one are counted and logged. While
    the old bus is primary and the new one does not take an event, the old one handles it for all agents.
    `options` are for all subscriptions, as for `EventBus.on`, for the new bus.

        async with DualBus(old, connect("sqlite:///events.db")) as bus:
            bus.subscribe("order_placed", billing.on_order, agent="billing")
            await bus.publish("order_placed", "shop", {"order_id": 1})
            await bus.run()

    The agents of one process: what the old bus delivers is delivered in the process that published it, and
    lost with it, as ever. Processes may share the new bus. What one of them took with it is counted as lost as
    far as no other process had read it there; `forebay migrate status` says that there may be more.
    """

    def __init__(
        self,
        old: OldBus | EventBus,
        new: EventBus,
        *,
        primary: Literal["old", "new"] = "old",
        **options: Unpack[Settings],
    ) -> None:
        if primary not in ("old", "new"):
            raise ConfigurationError(f"primary={primary!r}: give 'old' or 'new'")
        if old is new:
            raise ConfigurationError("old and new are the same bus")
        self.old: OldBus = OldEventBus(old) if isinstance(old, EventBus) else old
        self.new = new
        self._context = MigrationContext(consumer_name(), Peers(new.store))
        self._primary = primary
        self._options = Options.parse({"concurrency": CONCURRENCY, **options})
        self._published = 0
        self._subscriptions: dict[tuple[str, str], DualHandler] = {}
        self._table: dict[str, Route] = {}
        self._observer = Observer(new, self._context.id, self._context.counts)
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._consumers: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._is_silent = False
        self._alone: set[str] = set()
        self._stopped = asyncio.Event()
        self._is_open = False
        self._home: Home | None = None

    @property
    def counts(self) -> Counts:
        """What this process counted so far."""
        return self._context.counts

    def __repr__(self) -> str:
        return f"<DualBus {self.old!r} and {self.new!r}>"

    # The old bus's two methods.

    async def publish(
        self,
        event_type: EventTypeLike,
        source: str,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Publish an event on both buses; return its id, the same on both.

        `data` is a dict, as on the old bus. Raises what the primary bus raised; with the old one primary an
        event that is no JSON, too large, or of a type that is no name, is counted as missing on the new one, and
        published on the old. So is what comes while the new one does not answer.
        """
        if not self._is_open or self._home is None:
            raise ConfigurationError("the DualBus is not open; use it inside `async with`")
        self._home.check()
        # What is no name for forebay may be one for the old bus.
        stream = event_type if type(event_type) is str else type_name(event_type)
        plain = {} if data is None else data
        if not isinstance(plain, dict):
            raise InvalidEvent(f"a DualBus publishes dicts, as the old bus does, not {type(plain).__name__}")
        agents = [agent for type, agent in self._subscriptions if type == stream]
        self._published += 1
        stamp = Stamp(self._context.migration, self._context.id, str(self._published)).for_agents(self._table, agents)
        id, stamp = await self._publish_new(stream, source, plain, key, headers, stamp, agents)
        event = Event(id, stream, source, plain, datetime.now(UTC), key, {**(headers or {}), **stamp.headers()})
        await self._publish_old(event, stamp)
        return id

    def subscribe(
        self,
        event_type: EventTypeLike,
        handler: OldHandler,
        *,
        agent: str | None = None,
        shadow: OldHandler | None = None,
        **options: Unpack[Settings],
    ) -> None:
        """Let an agent handle events of a type, on the bus that the switch says.

        `handler` is called with type, source and data, and may be async. `agent` is by default the `name` of the
        object whose method it is, else the function's own. `shadow` is called in its place on the new bus
        while the agent is compared; without it the handler itself, with all that it does.
        """
        refuse_generator("handler", handler)
        if shadow is not None:
            refuse_generator("handler", shadow)
        stream = type_name(event_type)
        name = check_name(
            "agent", agent or getattr(getattr(handler, "__self__", None), "name", None) or handler_name(handler)
        )
        if (stream, name) in self._subscriptions:
            raise ConfigurationError(f"agent {name!r} handles {stream!r} already; it gets each event once")
        chosen = Options.parse(self._options.given() | options)
        if chosen.batch is not None:
            raise ConfigurationError(
                f"batch={chosen.batch}: a DualBus hands over events one by one, as the old bus does"
            )
        # The time is the handler's: what waits for the old bus here takes as long as that one does.
        consumer = self.new.subscribe_to_stream(stream, name, **(chosen.given() | {"timeout": None}))

        async def consume(handle: Callable[[Event], Awaitable[None]]) -> None:
            await self._ready.wait()
            await introduce(self.new.store, name)
            # A run that begins after the stop would have nobody to end it.
            if not self._stopped.is_set():
                await consumer.consume_events(handle)

        subscription = DualHandler(self._context, stream, name, handler, shadow or handler, consume, chosen.timeout)
        subscribed = self.old.subscribe(stream, subscription.on_old)
        if inspect.isawaitable(subscribed):
            discard(subscribed)
            raise ConfigurationError("the old bus's subscribe is async, and nobody would wait for it: adapt it")
        self._subscriptions[stream, name] = subscription
        if self._is_open:
            self._begin(subscription)

    # Running.

    async def __aenter__(self) -> Self:
        if self._is_open or self._closing.is_set():
            raise ConfigurationError("a DualBus is opened once")
        self._home = Home("this DualBus")
        await self._open_new()
        if isinstance(self.old, OldEventBus):
            await self._stack.enter_async_context(self.old)
        self._is_open = True
        self._tasks.append(keep_running("the switch", self._look, until=self._closing))
        self._tasks.append(keep_running("the counts", self._report_regularly, until=self._closing))
        for subscription in self._subscriptions.values():
            self._begin(subscription)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finish(self._close())

    async def _close(self) -> None:
        try:
            await self._drain()
        finally:
            await self._stack.aclose()

    async def _drain(self) -> None:
        self._stopped.set()
        # As long as handlers run, what they publish goes out.
        await self._settle()
        self.new.stop()
        if not self._ready.is_set():
            for consumer in self._consumers:
                consumer.cancel()
        await asyncio.gather(*self._consumers, return_exceptions=True)
        self._is_open = False
        self._closing.set()
        await self._observer.close()
        # Whoever still waits for the new bus need not wait any more.
        is_ready = self._ready.is_set()
        self._ready.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if is_ready:
            with contextlib.suppress(ForebayError):
                await self._report(ended=True)

    async def run(self, *, handle_signals: bool = True) -> None:
        """Wait until a signal (see `EventBus.run`) or `stop`; the buses run as long as the DualBus is open."""
        with stopped_by_signals(self.stop) if handle_signals else contextlib.nullcontext():
            await self._stopped.wait()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped.set()

    async def _open_new(self) -> None:
        try:
            await self._enter_new()
            await compact(self.new.store)
        except StoreError as error:
            if self._primary == "new":
                raise
            logger.warning("migration: the new bus cannot be opened, the old one goes on alone: %s", describe(error))
            self._tasks.append(keep_running("opening the new bus", self._open_later, until=self._closing))
        else:
            self._ready.set()

    async def _open_later(self) -> None:
        await wait_for(self._closing, REPORT_INTERVAL)
        if not self._closing.is_set():
            await self._enter_new()
            self._ready.set()

    async def _enter_new(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.new)
            self._context.migration = await name_of(self.new.store)
            self._table = await routes(self.new.store)
            await self._context.peers.open()
            # Else it is closed again: it cannot be opened a second time.
            await self._stack.enter_async_context(stack.pop_all())

    def _begin(self, subscription: DualHandler) -> None:
        name = f"{subscription.stream} for {subscription.agent} on the new bus"
        self._consumers.append(keep_running(name, subscription.consume, until=self._stopped))

    async def _look(self) -> None:
        """Follow the switch."""
        await self._ready.wait()
        while not await wait_for(self._closing, LOOK):
            before, self._table = self._table, await routes(self.new.store)
            changed = {agent for agent, route in self._table.items() if route != before.get(agent, "old")}
            for subscription in self._subscriptions.values():
                if subscription.agent in changed:
                    subscription.switched()
            if changed:
                # Whoever switched waits for this.
                await self._report()

    async def _report_regularly(self) -> None:
        await self._ready.wait()
        while not self._closing.is_set():
            await self._report()
            self._is_silent = False
            await wait_for(self._closing, REPORT_INTERVAL)

    async def _report(self, *, ended: bool = False) -> None:
        """Write what this bus has to tell, and when, by the store's clock."""
        store = self.new.store
        await write_report(store, self._process_report(at=await store.time(STREAM), ended=ended))

    def _process_report(self, *, at: float, ended: bool = False) -> ProcessReport:
        outstanding = sum(len(each.outstanding) for each in self._subscriptions.values())
        return ProcessReport(self._context.id, at, dict(self._table), self._context.counts, outstanding, ended)

    async def _settle(self) -> None:
        """Wait for what is on its way to finish on both buses, as far as it does within AT_THE_END."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_THE_END):
                while not await self._is_settled():
                    await asyncio.sleep(LOOK / 10)

    async def _is_settled(self) -> bool:
        if any(each.outstanding for each in self._subscriptions.values()):
            return False
        if not self._ready.is_set():
            return True
        streams = sorted({stream for stream, _ in self._subscriptions})
        try:
            found = await self.new.stats(*streams) if streams else []
        except StoreError:
            return True
        groups = [(group, (stream.stream, group.group)) for stream in found for group in stream.groups]
        return not any(group.lag or group.pending for group, place in groups if place in self._subscriptions)

    # Publishing on each.

    async def _publish_new(
        self,
        stream: str,
        source: str,
        data: dict[str, Any],
        key: str | None,
        headers: Mapping[str, str] | None,
        stamp: Stamp,
        agents: list[str],
    ) -> tuple[str, Stamp]:
        """The event's id, and the stamp that holds for the old bus."""
        # Before it can be heard of: who reads it finds that the old bus has it in hand.
        self._expect(stream, stamp)
        arguments: dict[str, Any] = {"key": key, "headers": {**(headers or {}), **stamp.headers()}}
        began = time.monotonic()
        try:
            self._check_new(stream)
            await self._observer.watch(stream)
            self._observer.expect(stream, stamp.key, data)
            id = await self.new.publish(stream, source, data, **arguments)
        except asyncio.CancelledError:
            # The publisher has given it up, and the old bus will not be handed it.
            self._observer.forget(stream, stamp.key)
            self._forget(stream, stamp)
            raise
        except ForebayError as error:
            self._observer.forget(stream, stamp.key)
            if self._primary == "new":
                self._forget(stream, stamp)
                raise
            if time.monotonic() - began > SLOW_PUBLISH:
                self._is_silent = True
            if isinstance(error, PublishUnknown):
                # It may be stored, with this stamp: what that gives to the new bus stays there.
                self._repeat(stream, source, data, error.id, arguments)
                return error.id, stamp
            if stream not in self._alone:
                logger.warning("migration: %s is published on the old bus alone: %s", stream, describe(error))
            self._alone.add(stream)
            self._context.counts.type(stream).missing += 1
            everyone = stamp.for_agents({}, agents)
            self._expect(stream, everyone)
            return new_id(), everyone
        self._alone.discard(stream)
        self._observer.published(stream, stamp.key)
        self._context.counts.type(stream).new += 1
        return id, stamp

    def _check_new(self, stream: str) -> None:
        """Say what the new bus would say, where asking it would take long, or it cannot be asked."""
        type_name(stream)
        if not self._ready.is_set():
            raise StoreError("the new bus is not open yet")
        if self._is_silent and self._primary == "old":
            raise StoreError("the new bus did not answer in time; it is let alone until it does")

    def _expect(self, stream: str, stamp: Stamp) -> None:
        for agent in stamp.old:
            self._subscriptions[stream, agent].expect(stamp.key)

    def _forget(self, stream: str, stamp: Stamp) -> None:
        for agent in stamp.old:
            self._subscriptions[stream, agent].forget(stamp.key)

    def _repeat(self, stream: str, source: str, data: dict[str, Any], id: str, arguments: dict[str, Any]) -> None:
        """Publish again under its id, until it is known to be stored."""
        # As it is now: handlers on the old bus may change it.
        data = copy.deepcopy(data)

        async def repeat() -> None:
            await self.new.publish(stream, source, data, id=id, **arguments)
            counts.missing -= 1
            counts.new += 1

        # Until it is known.
        counts = self._context.counts.type(stream)
        counts.missing += 1
        task = keep_running(f"{stream} {id} on the new bus", repeat, until=self._closing)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _publish_old(self, event: Event, stamp: Stamp) -> None:
        carried = EventDict(event)
        try:
            await completed(self.old.publish(event.type, event.source, carried))
        except Exception as error:
            self._forget(event.type, stamp)
            if carried.is_delivered:
                # It is a handler's error, which this bus hands on to the publisher.
                self._context.counts.type(event.type).old += 1
            else:
                self._context.counts.type(event.type).extra += 1
            if self._primary == "old":
                raise
            logger.warning("migration: %s %s failed on the old bus: %s", event.type, event.id, describe(error))
        else:
            self._context.counts.type(event.type).old += 1
