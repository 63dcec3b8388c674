"""The bus: publish events, handle them in groups, read and replay them, inspect and redrive dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack, overload
from urllib.parse import quote

import msgspec

from forebay.callables import name_of, refuse_generator
from forebay.cause import with_cause
from forebay.chain import Chain, chain
from forebay.codec import is_payload_class
from forebay.context import BusContext
from forebay.dead_letters import DeadLetterFilter
from forebay.dead_letters import find as find_letters
from forebay.deliveries import EventDelivery, deliveries
from forebay.errors import ConfigurationError, InvalidEvent, MalformedEvent, OutcomeUnknown, StoreError
from forebay.event import Event, Foreign, Record, check_limit, check_seconds, to_event, to_record, to_records
from forebay.home import running_loop
from forebay.interrupts import stopped_by_signals
from forebay.logs import log
from forebay.middleware import Middleware, PublishCall, makes_context
from forebay.paging import paged
from forebay.payload import LIMITS, EventTypeLike, Limits, kind_of, plain, type_name
from forebay.policy import Retry
from forebay.positions import StreamPosition, last_position, resolve
from forebay.publisher import Publisher
from forebay.replay import find, history, replay, require_group, require_stream
from forebay.retention import Retention, enforce, get_rule, set_rule
from forebay.runtime import Options, Runnable, handler_name
from forebay.runtime.supervise import TRANSIENT, OnOutage
from forebay.signals import LoopFailed, LoopRecovered, Published, Signals
from forebay.store import END, START, DeadLetter, Durability, GroupStats, Pending, Store, StreamStats, Trimmed
from forebay.subscription import EventStreamConsumer
from forebay.typed import HandlesEventBatches, HandlesEvents, HandlesObjectBatches, HandlesObjects, Settings, T
from forebay.urls import check_redis_url, default_url, is_store, mask, open_store

Function = TypeVar("Function", bound=Callable[..., Any])

DAY = 86_400.0
IDLE_CHECK_SECONDS = 0.02
"""Seconds between two checks whether all is handled, in `run(until_idle=True)`."""
REDRIVE_BATCH = 500
"""Dead letters that one call of the store redrives or discards."""


class Agent(Protocol):
    """An argument of `run`, beside the handlers registered with `on`: `forebay.agents.BaseAgent` is one."""

    def on_bus(self, bus: EventBus, *, wait: float | None = None) -> Runnable:
        """The agent as a part of a run; `wait` is the longest time of one of its reads, in seconds."""
        ...


class EventBus:
    """A bus on one store. It belongs to one event loop at a time.

    Open it with `async with bus`, or `await bus.open()` and `await bus.close()`. A bus that is not open opens itself at
    its first use, on the running loop. It is closed when that loop ends, with a `ResourceWarning`. A call from another
    loop, another thread or a fork of the process raises `ConfigurationError`, and nothing was done.

    `store` is a URL, or a store object, for which `namespace` means nothing. The attribute `url` is the address with
    the password hidden; listeners are added to `signals`. `limits` bound the payloads. An explicit `id` is remembered
    for `idempotency_window` seconds.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        namespace: str = "events",
        limits: Limits = LIMITS,
        idempotency_window: float = DAY,
    ) -> None:
        if not isinstance(store, str) and not is_store(store):
            raise ConfigurationError(
                f"a bus is on a URL, such as 'sqlite:///events.db', or on a store, not a {type(store).__name__}"
            )
        if not isinstance(limits, Limits):
            raise ConfigurationError(f"limits={limits!r}: give Limits(...), e.g. Limits(max_bytes=65_536)")
        self.store = open_store(store, namespace=namespace) if isinstance(store, str) else store
        self.url = mask(store) if isinstance(store, str) else ""
        self.signals = Signals()
        self._flush_log = log(self.signals)
        self._context = BusContext(self.store, self.signals, limits)
        self._pruner = self._context.pruner
        self._limits = limits
        window = check_seconds("idempotency_window", idempotency_window)
        self._publisher = Publisher(self._context, window=window)
        self._subscriptions: list[tuple[EventStreamConsumer[Any], Callable[..., Any]]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url or type(self.store).__name__}>"

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Open the store, on the running event loop, until `close`.

        Raises `ConfigurationError` if the bus is open already, here or on another loop, and the errors of the store.
        """
        await self._context.open()
        return self

    async def close(self) -> None:
        """Stop each `run` and `consume_events` as `stop` does, wait until they have ended, and close the store.

        Each ends within its own grace plus two seconds. A cancellation in the meantime is raised after the bus is
        closed. A bus that is not open stays closed. A closed bus may be opened again, on any event loop.
        """
        try:
            await self._context.close()
        finally:
            self._flush_log()

    async def ready(self) -> Store:
        """The open store: opens the bus if it is closed."""
        await self._context.ready()
        return self.store

    def use(self, middleware: Middleware) -> None:
        """Run the handlers and publishes of this bus in the contexts of this middleware.

        Of several, the first is the outermost. Applies to all handlers, those of agents too. Raises
        `ConfigurationError` while handlers run: call it before `run`.
        """
        if not isinstance(middleware, Middleware):
            raise ConfigurationError(
                f"{middleware!r} is not a middleware: give an object of a class derived from forebay.Middleware"
            )
        for method in (middleware.handling, middleware.publishing):
            if not makes_context(method):
                raise ConfigurationError(
                    f"{name_of(method)} does not return a context manager: decorate it with contextlib.contextmanager,"
                    " or asynccontextmanager if it is async"
                )
        if self._context.runs.parts:
            raise ConfigurationError("handlers of this bus run already: call bus.use(...) before bus.run()")
        self._context.middlewares = (*self._context.middlewares, middleware)
        self._publisher.use()

    # Publishing.

    async def publish(
        self,
        event: object,
        source: str,
        data: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> str:
        """Store one event; return its id once the store has acknowledged it.

        `event` is the type (a string or `Enum` member), with `data` as its payload, or an object of a
        payload class, which is published as itself. `source` names the publisher, in at most 256
        characters. With `id`, publishing the same id again within the bus's `idempotency_window`
        stores nothing more. `delay` (seconds) or `at` (an aware datetime) hold the event back: a delay is a
        duration, also if a clock is set, and `at` is a moment by the store's wall clock.

        Raises `InvalidEvent` for a payload that breaks the limits, `StoreError` if surely nothing was stored, and
        `PublishUnknown` if the answer was lost: publish again with its `id`. If the call is cancelled, the event may
        be stored or not: with an `id` of your own, publish again, or ask `get`.
        """
        stream, payload = (type_name(event), data) if type(event) is str else self._type_and_payload(event, data)
        headers = with_cause(headers)
        if (
            id is None
            and delay is None
            and at is None
            and not self._publisher.has_middleware
            and not self.signals.listeners[Published]
        ):
            # The hot path, without the cost of further coroutines.
            record = to_record(stream, source=source, data=payload, key=key, headers=headers, limits=self._limits)
            session = self._context.session
            if session is None or running_loop() is not session.loop:
                await self._context.enter()
            self._pruner.published.add(stream)
            try:
                await self.store.append(stream, (record,))
            except OutcomeUnknown as error:
                raise self._publisher.unknown((record,), error) from error
            return record.id
        return await self._publish(stream, source, payload, key, headers, id, delay, at)

    async def _publish(
        self,
        stream: str,
        source: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        id: str | None,
        delay: float | None,
        at: datetime | None,
    ) -> str:
        def make(headers: Mapping[str, str] | None) -> Sequence[Record]:
            record = to_record(
                stream, source=source, data=payload, id=id, key=key, headers=headers, limits=self._limits
            )
            return (record,)

        call = PublishCall(stream, source, (payload,))
        delay = _delay(delay, at)
        ids = await self._publisher.publish(call, make, headers=headers, known=id is not None, delay=delay, at=at)
        return ids[0]

    async def publish_many(
        self,
        event_type: EventTypeLike,
        source: str,
        data: Iterable[Any],
        *,
        keys: Sequence[str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        ids: Sequence[str] | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> list[str]:
        """Store an event for each payload, all or none, in order; return their ids.

        `event_type` is the type, or the class of the payloads. `keys` and `ids` go with the payloads, one
        each; `headers`, `delay` and `at` are for all. Errors as for `publish`.
        """
        stream = type_name(event_type)
        payloads = _listed("data", data, "payloads")
        if is_payload_class(event_type):
            _require_objects(event_type, payloads)
        headers = with_cause(headers)
        keys = None if keys is None else _listed("keys", keys, "keys")
        ids = None if ids is None else _listed("ids", ids, "ids")
        for name, column in (("keys", keys), ("ids", ids)):
            if column is not None and len(column) != len(payloads):
                raise InvalidEvent(f"{len(payloads)} payloads, but {len(column)} {name}: give one for each")

        def make(headers: Mapping[str, str] | None) -> list[Record]:
            return to_records(
                stream, source=source, data=payloads, ids=ids, keys=keys, headers=headers, limits=self._limits
            )

        call = PublishCall(stream, source, tuple(payloads))
        delay = _delay(delay, at)
        return await self._publisher.publish(call, make, headers=headers, known=ids is not None, delay=delay, at=at)

    def _type_and_payload(self, event: object, data: Any) -> tuple[str, Any]:
        if isinstance(event, (str, Enum)):
            return type_name(event), data
        if is_payload_class(type(event)):
            if data is not None:
                raise InvalidEvent(f"{type(event).__name__} is published as itself; leave out `data`")
            return type_name(type(event)), event
        raise InvalidEvent(
            f"cannot publish {event!r}: give a type and its data, or an object of a msgspec.Struct, dataclass, "
            "attrs class, pydantic model or pydantic dataclass"
        )

    # Handling.

    @overload
    def on(
        self, event_type: str | Enum, *, group: str | None = None, batch: None = None, **options: Unpack[Settings]
    ) -> HandlesEvents: ...
    @overload
    def on(
        self, event_type: str | Enum, *, group: str | None = None, batch: int, **options: Unpack[Settings]
    ) -> HandlesEventBatches: ...
    @overload
    def on(
        self, event_type: type[T], *, group: str | None = None, batch: None = None, **options: Unpack[Settings]
    ) -> HandlesObjects[T]: ...
    @overload
    def on(
        self, event_type: type[T], *, group: str | None = None, batch: int, **options: Unpack[Settings]
    ) -> HandlesObjectBatches[T]: ...
    @overload
    def on(
        self, event_type: EventTypeLike, *, group: str | None = None, batch: int | None, **options: Unpack[Settings]
    ) -> Any: ...
    def on(
        self,
        event_type: EventTypeLike,
        *,
        group: str | None = None,
        start: StreamPosition = "earliest",
        retry: Retry | None = None,
        concurrency: int = 16,
        prefetch: int | None = None,
        batch: int | None = None,
        timeout: float | None = None,
        lease: float = 30.0,
        ordered: bool = False,
        dedup: bool | float = False,
    ) -> Any:
        """Register the decorated function as the handler of this event type, for the group `group`.

        `event_type` is a type name, an `Enum` member, or a payload class: a msgspec.Struct, dataclass, attrs class,
        pydantic model or pydantic dataclass. With a class, or with a name and an annotation that is a class, the
        function is called with the decoded object, and with the `Event` as well if it takes two arguments. Otherwise
        it is called with the `Event`. The function may be `async def`, or plain: then it runs in a thread. Generators,
        annotations that contradict these rules, and classes that cannot be read back from JSON raise
        `ConfigurationError`.

        `group`: the group that handles the events; by default the function's module and qualified name,
        however the process is started. If the function is renamed or moved, its group is a new one, which handles all
        events again.
        `start`: the position at which a new group begins: "earliest", "latest", a position, or an aware datetime.
        `retry`: how often, and how far apart, a failing event is tried: by default 12 times over 6.8 to 13.5 minutes.
        `concurrency`: handlers that run at the same time.
        `prefetch`: the most events read ahead; by default it follows the speed of the handler, up to 1,500.
        `batch`: call the handler with lists of at most so many events or objects.
        `timeout`: the longest run of the handler, in seconds; after it the attempt has failed.
        `lease`: seconds after which another consumer claims the events of a consumer that stopped renewing.
        `ordered`: events of one key one after the other, in the order of the stream; events without a key count
        as one key, and one consumer of the group works at a time.
        `dedup`: skip an event whose id this group handled within the last `dedup` seconds (True: a day).
        """
        type_name(event_type)
        options = Options(
            start=start,
            retry=Retry() if retry is None else retry,
            concurrency=concurrency,
            prefetch=prefetch,
            batch=batch,
            timeout=timeout,
            lease=lease,
            ordered=ordered,
            dedup=dedup,
        )

        def register(function: Function) -> Function:
            name = group if group is not None else handler_name(function)
            subscription = EventStreamConsumer[Any](
                self._context, event_type, name, None, options, is_implicit=group is None
            )
            subscription.handler(function).close()
            name = subscription.group
            if any(s.stream == subscription.stream and s.group == name for s, _ in self._subscriptions):
                raise ConfigurationError(
                    f"group {name!r} already handles {subscription.stream!r} on this bus; name another group"
                )
            self._subscriptions.append((subscription, function))
            return function

        return register

    @overload
    def subscribe_to_stream(
        self,
        event_type: str | Enum,
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: None = None,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[Event]: ...
    @overload
    def subscribe_to_stream(
        self,
        event_type: str | Enum,
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: int,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[list[Event]]: ...
    @overload
    def subscribe_to_stream(
        self,
        event_type: type[T],
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: None = None,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[T]: ...
    @overload
    def subscribe_to_stream(
        self,
        event_type: type[T],
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: int,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[list[T]]: ...
    @overload
    def subscribe_to_stream(
        self,
        event_type: EventTypeLike,
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: int | None,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[Any]: ...
    def subscribe_to_stream(
        self,
        event_type: EventTypeLike,
        consumer_group: str,
        consumer_name: str | None = None,
        *,
        batch: int | None = None,
        **options: Unpack[Settings],
    ) -> EventStreamConsumer[Any]:
        """A consumer for one group of a stream; `consume_events` starts it. Options as for `on`.

        `consumer_name` is the beginning of the consumer's name (host and process by default), which is made unique.
        Any consumer of the group takes over the pending events of a dead one when their leases expire.
        """
        return EventStreamConsumer(
            self._context, event_type, consumer_group, consumer_name, Options.parse({**options, "batch": batch})
        )

    def run(
        self,
        *agents: Agent,
        until_idle: bool = False,
        concurrency: int | None = None,
        grace: float = 10.0,
        handle_signals: bool = True,
    ) -> Coroutine[Any, Any, None]:
        """Run the handlers registered with `on`, and these agents, until a signal, `stop` or `close`.

        With `until_idle`, until every event of their streams is handled or dead: nothing unread,
        pending or waiting for a retry; events scheduled for later do not count until they are due.
        At the end it reads nothing more, gives running handlers `grace` seconds, and releases their unfinished
        events; it ends at most two seconds after these. A handler that goes on although it was cancelled is not waited
        for, and its event goes to another consumer when the lease expires. `concurrency` overrides that of every
        handler registered with `on`.

        In the main thread the first SIGTERM, SIGINT or SIGHUP ends the run in this way; a second one acts as ever.
        Handlers that were set for them before are called too, and are set again afterwards; ignored signals stay
        ignored. `handle_signals=False` leaves all signals alone.

        An agent is a `forebay.agents.BaseAgent`; one that fails is started again, and the others go on.
        """
        # Not `async def`: mistakes are raised, and a `stop` that comes before the first await counts.
        if not self._subscriptions and not agents:
            raise ConfigurationError(
                "no handlers: decorate functions with @bus.on(...) before bus.run(), or name agents"
            )
        for agent in agents:
            if isinstance(agent, type) or not hasattr(agent, "on_bus"):
                raise ConfigurationError(f"{agent!r} is not an agent: give objects, as in bus.run(Billing())")
        wait = IDLE_CHECK_SECONDS if until_idle else None
        parts: list[Runnable] = [agent.on_bus(self, wait=wait) for agent in agents]
        run = self._context.runs.begin()

        async def idle() -> None:
            while not await self._is_idle(parts):
                await asyncio.sleep(IDLE_CHECK_SECONDS)

        async def go() -> None:
            for subscription, function in self._subscriptions:
                parts.append(subscription.consumer(function, concurrency=concurrency, wait=wait))
            _require_different(parts)
            await run.go(parts, grace=grace, until=idle if until_idle else None)

        async def begin() -> None:
            if not run.is_stopped:
                await self.ready()
            if not run.is_stopped:
                with run.under_way(), stopped_by_signals(self.stop) if handle_signals else contextlib.nullcontext():
                    await go()

        return begin()

    async def new_groups(self) -> dict[tuple[str, str], int]:
        """The new groups that `run` would make on streams with events: the number of events by stream and group.

        Only groups of handlers that were registered without `group` and `start` are included: their events may have
        been handled before, under another name of the function.
        """
        await self.ready()
        found = {(each.stream, each.group): await each.history() for each, _ in self._subscriptions}
        return {place: count for place, count in found.items() if count}

    def stop(self) -> None:
        """Stop and drain every `run` and `consume_events` of this bus, also those that have not begun yet.

        Returns at once. May be called from any thread, and from a signal handler.
        """
        self._context.stop()

    @property
    def last_read(self) -> float | None:
        """When the slowest consumer of this bus last finished a read, on `time.monotonic`.

        For a probe of liveness: while the store answers it grows at least once a second, also while all handlers are
        busy. None while no consumer runs, or until each has read once.
        """
        times = [part.last_read for part in self._context.runs.parts]
        return None if None in times else min((t for t in times if t is not None), default=None)

    async def _is_idle(self, parts: Sequence[Runnable]) -> bool:
        if not all(part.is_idle for part in parts):
            return False
        ours = {place for part in parts for place in part.groups}
        with contextlib.suppress(*TRANSIENT):
            found = await self.store.stats(sorted({stream for stream, _ in ours}))
            groups = [group for stream in found for group in stream.groups if (stream.stream, group.group) in ours]
            return all(not group.lag and not group.pending for group in groups)
        return False

    # Reading, inspecting and repairing.

    async def events(
        self,
        event_type: EventTypeLike,
        *,
        start: StreamPosition = "earliest",
        end: StreamPosition = "latest",
        newest: int | None = None,
        follow: bool = False,
        on_outage: OnOutage | None = None,
    ) -> AsyncIterator[Event | MalformedEntry]:
        """The events of a stream, oldest first, without a group.

        From `start` to `end` (fixed when the reading begins); with `newest`, only the last so many of them.
        With `follow` it then waits for new events until it is closed, also over outages of the store. `on_outage` is
        called with the error when an outage begins, and with None when it is over. Without `on_outage` the signals
        `LoopFailed` and `LoopRecovered` are emitted. Copies for one group (redriven, replayed) are left out. An entry
        that cannot be read as an event is yielded as a `MalformedEntry`.
        """
        kind, stream = kind_of(event_type), type_name(event_type)
        check_limit("newest", newest)
        if on_outage is not None:
            refuse_generator("on_outage", on_outage)

        def failed(error: StoreError, delay: float) -> None:
            self.signals.emit(LoopFailed("follow", stream, "*", error, delay))

        def outage(error: StoreError | None) -> None:
            if error is None:
                self.signals.emit(LoopRecovered("follow", stream, "*"))

        async for entry in history(
            await self.ready(),
            stream,
            start=start,
            end=end,
            newest=newest,
            follow=follow,
            on_outage=on_outage or outage,
            on_failure=None if on_outage else failed,
        ):
            try:
                yield to_event(entry.record, position=entry.position, limits=self._limits, kind=kind)
            except MalformedEvent as error:
                yield MalformedEntry(entry.position, entry.record, str(error))

    async def get(self, event_type: EventTypeLike, id: str) -> Event:
        """The event with this id, or at this position; else `NotFound`."""
        entry = await find(await self.ready(), type_name(event_type), plain("id", id))
        kind = kind_of(event_type)
        return to_event(entry.record, position=entry.position, limits=self._limits, kind=kind)

    async def chain(self, event: Event) -> Chain:
        """All events that this one caused, or that caused it, by the ids of causes in their headers."""
        if not isinstance(event, Event):
            raise ConfigurationError(
                f"a chain is that of an Event, not of a {type(event).__name__}; `get` finds it by its id"
            )
        return await chain(await self.ready(), event, limits=self._limits)

    async def replay(
        self,
        event_type: EventTypeLike,
        *,
        group: str,
        start: StreamPosition = "earliest",
        end: StreamPosition = "latest",
        rate: float | None = None,
        dry_run: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Deliver the events of a range again, to one group only; return how many.

        They are appended again for that group, under their ids, at most `rate` a second. The end is
        fixed when the replay begins. `dry_run` only counts. `progress` is called with the count so far; an
        awaitable that it returns is awaited.
        Raises `NotFound` if the stream or the group does not exist.
        """
        return await replay(
            await self.ready(),
            type_name(event_type),
            group=plain("group", group),
            start=start,
            end=end,
            rate=rate,
            dry_run=dry_run,
            progress=progress,
        )

    async def dead_letters(
        self, event_type: EventTypeLike, *, group: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """The dead letters of a stream, or of one of its groups, oldest first; all unless `limit`."""
        check_limit("limit", limit)
        store, stream = await self.ready(), type_name(event_type)
        fetch = partial(store.dead_letters, stream, group=None if group is None else plain("group", group))
        return [letter async for letter in paged(fetch, after="", key=lambda letter: letter.id, limit=limit)]

    async def find_dead_letters(
        self, event_type: EventTypeLike | None = None, wanted: DeadLetterFilter | None = None
    ) -> AsyncIterator[DeadLetter]:
        """The dead letters of a stream, or of all streams, that match; oldest first in each stream.

        Reads them page by page: use it if there are many.
        """
        wanted = DeadLetterFilter() if wanted is None else wanted
        if not isinstance(wanted, DeadLetterFilter):
            raise ConfigurationError(f"dead letters are chosen by a DeadLetterFilter, not by a {type(wanted).__name__}")
        store = await self.ready()
        for stream in await store.streams() if event_type is None else [type_name(event_type)]:
            async for letter in find_letters(store, stream, wanted):
                yield letter

    async def redrive(
        self, event_type: EventTypeLike, ids: Iterable[str] | None = None, *, group: str | None = None
    ) -> int:
        """Append the events of dead letters again, each for its own group; return how many.

        Their attempts start again at 1. `ids` are `DeadLetter.id`s; without them, all dead letters of the stream (or of
        `group`) that exist at the call.
        """
        return await self._in_pages(self.store.redrive, type_name(event_type), ids, group)

    async def discard(
        self, event_type: EventTypeLike, ids: Iterable[str] | None = None, *, group: str | None = None
    ) -> int:
        """Remove dead letters for good; return how many. Arguments as for `redrive`."""
        return await self._in_pages(self.store.discard, type_name(event_type), ids, group)

    async def _in_pages(
        self,
        move: Callable[[str, Sequence[str]], Awaitable[int]],
        stream: str,
        ids: Iterable[str] | None,
        group: str | None,
    ) -> int:
        await self.ready()
        if ids is None:
            ids = [letter.id for letter in await self.dead_letters(stream, group=group)]
        chosen = [plain("id", id) for id in _listed("ids", ids, "ids")]
        return sum([await move(stream, chosen[i : i + REDRIVE_BATCH]) for i in range(0, len(chosen), REDRIVE_BATCH)])

    async def seek(self, event_type: EventTypeLike, group: str, to: StreamPosition) -> str:
        """Let the group read on after this position; return the position of the store.

        "earliest": it handles all events again. "latest": it skips all unread events. In-flight events after the
        position are unread again, and their consumers lose them; those up to it stay as they are. Raises `NotFound` if
        the stream or the group does not exist.
        """
        await self.group(event_type, group)
        position = await self.position(event_type, to)
        await self.store.seek(type_name(event_type), plain("group", group), position)
        return position

    async def position(self, event_type: EventTypeLike, position: StreamPosition = "latest") -> str:
        """The store's position for a `StreamPosition`: a time is the last entry before it.

        "latest", and a position beyond the end, is that of the last entry.
        """
        store, stream = await self.ready(), type_name(event_type)
        found = await resolve(store, stream, position)
        last = await last_position(store, stream)
        return last if found == END or store.position_key(found) > store.position_key(last) else found

    async def deliveries(self, event_type: EventTypeLike, id: str) -> list[EventDelivery]:
        """The state of the event with this id, or at this position, in each group; else `NotFound`.

        A redriven or replayed event has a further item for each time.
        """
        event = await self.get(event_type, id)
        return await deliveries(self.store, event)

    async def streams(self) -> list[str]:
        """The names of all streams, sorted. Cheap: counts nothing."""
        return await (await self.ready()).streams()

    async def stream(self, event_type: EventTypeLike) -> StreamStats:
        """One stream with its groups; `NotFound`, with the nearest name, if it does not exist."""
        return await require_stream(await self.ready(), type_name(event_type))

    async def group(self, event_type: EventTypeLike, group: str) -> GroupStats:
        """One group of a stream; `NotFound`, with the nearest name, if it or the stream does not exist."""
        return await require_group(await self.ready(), type_name(event_type), plain("group", group))

    async def strays(self) -> list[str]:
        """Names of other programs in the namespace that are not valid here: a sentence for each.

        All other methods leave them out.
        """
        return await (await self.ready()).strays()

    async def stats(self, *event_types: EventTypeLike) -> list[StreamStats]:
        """Return the counts of these streams, or of all, with their groups. Counts unknown to the store are None.

        `GroupStats.consumers` are the running consumers of the group, in all processes, also the idle ones. Those
        of a killed process count until it has been silent for 30 seconds.
        """
        streams = [type_name(event_type) for event_type in event_types] if event_types else None
        return await self._context.announcer.count(await (await self.ready()).stats(streams))

    async def retain(
        self,
        event_type: EventTypeLike,
        *,
        max_age: float | None = None,
        max_length: int | None = None,
        hard_length: int | None = None,
        group_lifetime: float | None = None,
    ) -> Trimmed:
        """Set the stream's retention rule and trim at once; return the counts of that trim. See `Retention`.

        The rule replaces the one before. It is kept in the store: all processes that publish to the stream or consume
        it enforce it, some seconds apart. Without arguments the stream keeps everything again.
        """
        rule = Retention(max_age=max_age, max_length=max_length, hard_length=hard_length, group_lifetime=group_lifetime)
        stream = type_name(event_type)
        store = await self.ready()
        await set_rule(store, stream, rule)
        living = self._context.announcer.living
        return await enforce(store, stream, self.signals, observers=self._pruner.observers, living=living)

    async def retention(self, event_type: EventTypeLike) -> Retention | None:
        """The retention rule of the stream; None keeps events for ever."""
        return await get_rule(await self.ready(), type_name(event_type))

    async def pending(self, event_type: EventTypeLike, group: str, *, limit: int | None = None) -> list[Pending]:
        """The in-flight events of a group, by position; all unless `limit`."""
        check_limit("limit", limit)
        fetch = partial((await self.ready()).pending, type_name(event_type), plain("group", group))
        return [each async for each in paged(fetch, after=START, key=lambda each: each.position, limit=limit)]

    async def durability(self) -> Durability:
        """The losses that an acknowledged publish survives, as the store is configured now."""
        return await (await self.ready()).durability()


class MalformedEntry(msgspec.Struct, frozen=True):
    """An entry of a stream that cannot be read as an event. `fault` is the reason in one line."""

    position: str
    record: Record | Foreign
    fault: str


def connect(
    url: str | None = None,
    *,
    namespace: str = "events",
    limits: Limits = LIMITS,
    idempotency_window: float = DAY,
) -> EventBus:
    """A bus on the store that `url` names; open it with `async with`, or let it open itself.

    Without a URL: `FOREBAY_URL`, then `REDIS_URL`, then `sqlite:///forebay.db`. Buses with different `namespace`s share
    a store without sharing its streams. Nothing is opened yet. A wrong URL raises `ConfigurationError`.

    >>> connect("memory://")
    <EventBus memory://>
    """
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(
            f"connect() takes a URL as a string, not a {type(url).__name__}; for a file write sqlite:///events.db"
        )
    return EventBus(
        default_url() if url is None else url, namespace=namespace, limits=limits, idempotency_window=idempotency_window
    )


class RedisEventBus(EventBus):
    """The bus on Redis or Valkey Streams, by its URL."""

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        *,
        namespace: str = "events",
        limits: Limits = LIMITS,
        idempotency_window: float = DAY,
    ) -> None:
        url = check_redis_url(redis_url)
        super().__init__(url, namespace=namespace, limits=limits, idempotency_window=idempotency_window)


class PersistentEventBus(EventBus):
    """The bus on a SQLite file, by its path."""

    def __init__(
        self,
        db_path: str | os.PathLike[str] = "events.db",
        *,
        namespace: str = "events",
        limits: Limits = LIMITS,
        idempotency_window: float = DAY,
    ) -> None:
        if not isinstance(db_path, (str, os.PathLike)):
            raise ConfigurationError(
                f"PersistentEventBus takes the path of a file, such as 'events.db', not a {type(db_path).__name__}"
            )
        url = f"sqlite:///{quote(os.fspath(db_path))}"
        super().__init__(url, namespace=namespace, limits=limits, idempotency_window=idempotency_window)


class InMemoryEventBus(EventBus):
    """The bus in this process's memory: for tests, and as the old in-process bus."""

    def __init__(self, *, namespace: str = "events", limits: Limits = LIMITS, idempotency_window: float = DAY) -> None:
        super().__init__("memory://", namespace=namespace, limits=limits, idempotency_window=idempotency_window)


def _require_different(parts: Sequence[Runnable]) -> None:
    seen = set()
    for stream, group in (place for part in parts for place in part.groups):
        if (stream, group) in seen:
            raise ConfigurationError(
                f"group {group!r} would handle {stream!r} twice in one run; two agents, or an agent and a handler,"
                " share that name: rename one"
            )
        seen.add((stream, group))


def _listed(name: str, values: Any, of: str) -> list[Any]:
    """The values as a list. Refuses a string or a mapping: it is one value, and its parts are not meant."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigurationError(
            f"`{name}`: give a list of {of}, not one {type(values).__name__}, also for one of them"
        )
    return list(values)


def _require_objects(kind: Any, payloads: Sequence[Any]) -> None:
    for number, payload in enumerate(payloads, 1):
        if not isinstance(payload, kind):
            raise InvalidEvent(f"payload {number} is a {type(payload).__name__}, not a {kind.__name__}")


def _delay(delay: float | None, at: datetime | None) -> float | None:
    if at is None:
        return None if delay is None else check_seconds("delay", delay) or None
    if delay is not None:
        raise ConfigurationError("give `delay` or `at`, not both")
    if not isinstance(at, datetime):
        raise ConfigurationError(f"`at` takes an aware datetime, not a {type(at).__name__}; for seconds use `delay`")
    if at.utcoffset() is None:
        raise ConfigurationError(f"at={at.isoformat()} has no zone; give an aware datetime, e.g. in UTC")
    return None
