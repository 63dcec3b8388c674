"""Both buses at once: each event goes to both, and each agent handles it on one of them.

publish ---> stamp ---> new bus ---> group of the agent ---> handler, unless the stamp says: old
               |
               +------> old bus ---> wrapper ---> handler, if the stamp says: old
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from forebay.bus import EventBus
from forebay.callables import discard, refuse_generator
from forebay.cleanup import finish
from forebay.errors import ConfigurationError, ForebayError, InvalidEvent, StoreError
from forebay.event import Event
from forebay.home import Home
from forebay.interrupts import stopped_by_signals
from forebay.migration.context import MigrationContext
from forebay.migration.counts import Counts
from forebay.migration.dual_handler import DualHandler
from forebay.migration.old import OldBus, OldEventBus, OldHandler
from forebay.migration.parity import ProcessReport, compact, write_report
from forebay.migration.publishing import DualPublisher
from forebay.migration.routes import STREAM, Route, introduce, name_of, routes_in
from forebay.migration.signals import NewBusUnavailable
from forebay.migration.upkeep import keep_running
from forebay.payload import EventTypeLike, check_name, type_name
from forebay.runtime import Options, handler_name
from forebay.runtime.supervise import wait_for
from forebay.subscription import consumer_name
from forebay.typed import Settings

SWITCH_SECONDS = 0.25
"""Time between two looks at the switch."""
REPORT_SECONDS = 1.0
"""Time between two writes of the counts."""
CONCURRENCY = 64
"""Handlers at once for one agent and type, events that wait for the old bus among them, unless a subscription says."""
CLOSING_SECONDS = 10.0
"""The time that handlers may take when the DualBus is closed."""


class DualBus:
    """Publishes to an old bus and to this one, and lets each agent handle events on one of them.

    It stands in the old bus's place: `publish(event_type, source, data)` and `subscribe(event_type, handler)`
    are the methods of an `OldBus`; an `EventBus` may be the old one, too. The route of an agent is switched while it
    runs: `forebay migrate cutover AGENT`, and `rollback`. The bus that handles an event is settled at its publish, so
    a switch loses no event, and each event is handled once, on one of the two buses.

    `primary` is the bus whose errors `publish` raises: those of the other one are counted, and emitted as signals of
    `new` (see `forebay.migration`). While the old bus is primary and the new one does not take an event, the old one
    handles it for all agents. `options` are for all subscriptions on the new bus, as for `EventBus.on`.

        async with DualBus(old, connect("sqlite:///events.db")) as bus:
            bus.subscribe("order_placed", billing.on_order, agent="billing")
            await bus.publish("order_placed", "shop", {"order_id": 1})
            await bus.run()

    The agents run in one process: the old bus delivers an event in the process that published it, and loses it if that
    process dies, as before. Processes may share the new bus. Events that a dead process had not finished count as lost
    if no other process had read them there; `forebay migrate status` says that there may be more.
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
        self._context = MigrationContext(consumer_name(), new)
        self._primary = primary
        self._options = Options.parse({"concurrency": CONCURRENCY, **options})
        self._subscriptions: dict[tuple[str, str], DualHandler] = {}
        self._table: dict[str, Route] = {}
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._consumers: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._publisher = DualPublisher(
            self.old,
            new,
            self._context,
            self._subscriptions,
            primary=primary,
            is_ready=self._ready,
            is_closing=self._closing,
        )
        self._stopped = asyncio.Event()
        self._is_open = False
        self._home: Home | None = None

    @property
    def counts(self) -> Counts:
        """The counts of this process so far."""
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

        `data` is a dict, as on the old bus. Raises the errors of the primary bus. If that is the old one, an event that
        is not JSON, is too large, or has a type that is not a name, is published on the old bus and counts as missing
        on the new one. So does an event that is published while the new bus does not answer.
        """
        if not self._is_open or self._home is None:
            raise ConfigurationError("the DualBus is not open; use it inside `async with`")
        self._home.check()
        # A text that is not a name for forebay may be one for the old bus.
        stream = event_type if type(event_type) is str else type_name(event_type)
        plain = {} if data is None else data
        if not isinstance(plain, dict):
            raise InvalidEvent(f"a DualBus publishes dicts, as the old bus does, not {type(plain).__name__}")
        return await self._publisher.publish(stream, source, plain, key=key, headers=headers, table=self._table)

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
            # A run that begins after the stop would never end.
            if not self._stopped.is_set():
                await consumer.consume_events(handle)

        subscription = DualHandler(self._context, stream, name, handler, shadow or handler, consume, chosen.timeout)
        subscribed = self.old.subscribe(stream, subscription.on_old)
        if inspect.isawaitable(subscribed):
            discard(subscribed)
            raise ConfigurationError("the old bus's subscribe is async, and it would not be awaited: adapt it")
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
        self._keep_running("the switch", self._look)
        self._keep_running("the counts", self._report_regularly)
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
        # Handlers that still run may publish.
        await self._settle()
        self.new.stop()
        if not self._ready.is_set():
            for consumer in self._consumers:
                consumer.cancel()
        await asyncio.gather(*self._consumers, return_exceptions=True)
        self._is_open = False
        self._closing.set()
        await self._publisher.close()
        # The tasks that wait for the new bus end with this.
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
        """End `run`."""
        self._stopped.set()

    async def _open_new(self) -> None:
        try:
            await self._enter_new()
            await compact(self.new.store)
        except StoreError as error:
            if self._primary == "new":
                raise
            self._context.signals.emit(NewBusUnavailable(error))
            self._keep_running("opening the new bus", self._open_later)
        else:
            self._ready.set()

    async def _open_later(self) -> None:
        await wait_for(self._closing, REPORT_SECONDS)
        if not self._closing.is_set():
            await self._enter_new()
            self._ready.set()

    async def _enter_new(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.new)
            self._context.migration = await name_of(self.new.store)
            await self._read_notes()
            # If anything before fails, it is closed again: it cannot be opened a second time.
            await self._stack.enter_async_context(stack.pop_all())

    def _begin(self, subscription: DualHandler) -> None:
        name = f"{subscription.stream} for {subscription.agent} on the new bus"
        signals = self._context.signals
        self._consumers.append(keep_running(name, subscription.consume, signals=signals, until=self._stopped))

    def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(keep_running(name, work, signals=self._context.signals, until=self._closing))

    async def _look(self) -> None:
        """Follow the switch, and observe the other processes."""
        await self._ready.wait()
        while not await wait_for(self._closing, SWITCH_SECONDS):
            before = self._table
            await self._read_notes()
            changed = {agent for agent, route in self._table.items() if route != before.get(agent, "old")}
            for subscription in self._subscriptions.values():
                if subscription.agent in changed:
                    subscription.switched()
            if changed:
                # The command that switched waits for this.
                await self._report()

    async def _read_notes(self) -> None:
        notes = await self.new.store.notes(STREAM)
        self._table = routes_in(notes)
        self._context.peers.observe(notes)

    async def _report_regularly(self) -> None:
        await self._ready.wait()
        while not self._closing.is_set():
            await self._report()
            self._publisher.is_paused = False
            await wait_for(self._closing, REPORT_SECONDS)

    async def _report(self, *, ended: bool = False) -> None:
        """Write the report of this bus, with the time by the store's clock."""
        store = self.new.store
        await write_report(store, self._process_report(at=await store.time(STREAM), ended=ended))

    def _process_report(self, *, at: float, ended: bool = False) -> ProcessReport:
        outstanding = sum(len(each.outstanding) for each in self._subscriptions.values())
        return ProcessReport(self._context.id, at, dict(self._table), self._context.counts, outstanding, ended)

    async def _settle(self) -> None:
        """Wait until both buses have handled all events, at most `CLOSING_SECONDS`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while not await self._is_settled():
                    await asyncio.sleep(SWITCH_SECONDS / 10)

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
