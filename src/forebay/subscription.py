"""A group's subscription to a stream, as `on` and `subscribe_to_stream` make it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, overload

from msgspec.structs import replace

from forebay.context import BusContext
from forebay.event import Event
from forebay.middleware import Middleware
from forebay.payload import EventTypeLike, check_name, kind_of, type_name
from forebay.positions import check_position
from forebay.runtime import GroupMaker, Handler, Options
from forebay.runtime.supervise import TRANSIENT
from forebay.store import Reader
from forebay.typed import Item, P, T

if TYPE_CHECKING:
    from forebay.runtime.consumer import Consumer


class EventStreamConsumer(Generic[T]):
    """The subscription of one group to a stream, on one bus. Its handler takes a `T`."""

    def __init__(
        self,
        context: BusContext,
        event_type: EventTypeLike,
        group: str,
        consumer: str | None,
        options: Options,
        *,
        is_implicit: bool = False,
    ) -> None:
        self.stream = type_name(event_type)
        self.group = check_name("group", group)
        check_position(options.start, context.store)
        self.options = options
        self._is_implicit = is_implicit
        self._context = context
        self._kind = kind_of(event_type)
        self._name = check_name("consumer", consumer) if consumer is not None else None

    def __repr__(self) -> str:
        return f"<EventStreamConsumer {self.stream} for {self.group}>"

    @overload
    def consume_events(
        self: EventStreamConsumer[Event],
        handler: Callable[[Event], object]
        | Callable[[dict[str, Any]], object]
        | Callable[[P], object]
        | Callable[[P, Event], object],
        *,
        grace: float = 10.0,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def consume_events(
        self: EventStreamConsumer[list[Event]],
        handler: Callable[[list[Event]], object]
        | Callable[[list[P]], object]
        | Callable[[list[P], list[Event]], object],
        *,
        grace: float = 10.0,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def consume_events(
        self: EventStreamConsumer[list[Item]],
        handler: Callable[[list[Item]], object] | Callable[[list[Item], list[Event]], object],
        *,
        grace: float = 10.0,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def consume_events(
        self, handler: Callable[[T], object] | Callable[[T, Event], object], *, grace: float = 10.0
    ) -> Coroutine[Any, Any, None]: ...
    def consume_events(self, handler: Callable[..., Any], *, grace: float = 10.0) -> Coroutine[Any, Any, None]:
        """Handle the stream's events with `handler` until `bus.stop()`, until the bus is closed, or until cancelled.

        Makes the group if it does not exist. Takes over the events of another consumer of the group after their leases
        have expired. At the end, running handlers have `grace` seconds to finish. The other events are released, which
        takes at most two seconds more.
        """
        # Not `async def`: the handler is checked, and a `stop` that comes before the first await counts.
        self.handler(handler).close()
        run = self._context.runs.begin()

        async def consume() -> None:
            if not run.is_stopped:
                await self._context.enter()
            if not run.is_stopped:
                with run.under_way():
                    await run.go([self.consumer(handler)], grace=grace)

        return consume()

    def consumer(
        self,
        function: Callable[..., Any],
        *,
        concurrency: int | None = None,
        wait: float | None = None,
        middlewares: tuple[Middleware, ...] = (),
        beside: Sequence[EventStreamConsumer[Any]] = (),
    ) -> Consumer:
        """A consumer that is ready to run; `ConfigurationError` if the function cannot be a handler.

        It also consumes the streams `beside` this one, which have the same group and the same options.
        """
        # Who only publishes need not wait for it.
        from forebay.runtime.consumer import Consumer, Source

        options = self.options
        if concurrency is not None:
            options = replace(options, concurrency=concurrency)
        context = self._context
        name = consumer_name(self._name)
        return Consumer(
            context.store,
            [
                Source(
                    Reader(each.stream, self.group, name, options.ordered),
                    each.handler(function, options, middlewares=middlewares),
                    each.group_maker(),
                )
                for each in (self, *beside)
            ],
            options,
            signals=context.signals,
            keeper=context.keeper,
            services=context.services,
            announcer=context.announcer,
            limits=context.limits,
            **({} if wait is None else {"wait": wait}),
        )

    def group_maker(self) -> GroupMaker:
        """The maker of the group on the stream."""
        context, start = self._context, self.options.start
        is_implicit = self._is_implicit and start == "earliest"
        return GroupMaker(context.store, self.stream, self.group, start, context.signals, is_implicit=is_implicit)

    async def history(self) -> int:
        """Count the events with which a new group will begin, if its caller chose neither its name nor its start.

        A group that is named after its function is new again when the function is renamed or moved.
        """
        if not self._is_implicit or self.options.start != "earliest":
            return 0
        with contextlib.suppress(*TRANSIENT):
            for stream in await self._context.store.stats([self.stream]):
                if self.group not in {group.group for group in stream.groups}:
                    return stream.length
        return 0

    def handler(
        self, function: Callable[..., Any], options: Options | None = None, *, middlewares: tuple[Middleware, ...] = ()
    ) -> Handler:
        """The function as the runtime calls it, within these and the bus's middlewares."""
        options = options or self.options
        return Handler(
            function,
            kind=self._kind,
            batch=options.batch is not None,
            timeout=options.timeout,
            threads=options.concurrency,
            group=self.group,
            middlewares=(*middlewares, *self._context.middlewares),
        )


def consumer_name(name: str | None = None) -> str:
    """Return a unique name: the given one, or the host and the process, and a random suffix.

    Leases are distinguished by it: two consumers of one name would take each other's.
    """
    if name is None:
        host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())[:64].strip("-")
        name = f"{host or 'host'}-{os.getpid()}"
    return f"{name[:119]}-{os.urandom(4).hex()}"
