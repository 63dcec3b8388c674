"""A group's share of a stream: what `on` and `subscribe_to_stream` make, and what runs it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from forebay.payload import Limits, check_name, is_payload_class, type_name
from forebay.replay import check_place, last_position, resolve
from forebay.runtime import Consumer, Handler, LeaseKeeper, Options, run_together
from forebay.signals import Signals
from forebay.store import END, Reader, Store


@dataclass(slots=True)
class Engine:
    """What the consumers of one bus share."""

    store: Store
    signals: Signals
    keeper: LeaseKeeper
    limits: Limits
    running: list[Consumer] = field(default_factory=list)


class EventStreamConsumer:
    """One group's share of a stream, on one bus."""

    def __init__(self, engine: Engine, event: object, group: str, consumer: str | None, options: Options) -> None:
        self.stream = type_name(event)
        self.group = check_name("group", group)
        check_place(options.start)
        self.options = options
        self._engine = engine
        self._kind = event if is_payload_class(event) else Any
        self._name = check_name("consumer", consumer) if consumer is not None else None

    def __repr__(self) -> str:
        return f"<EventStreamConsumer {self.stream} for {self.group}>"

    async def consume_events(self, handler: Callable[..., Any], *, grace: float = 10.0) -> None:
        """Handle the stream's events with `handler` until `bus.stop()`, or until cancelled.

        Makes the group if need be. What another consumer of the group left pending is taken over once
        its lease has run out. Either way of ending lets running handlers finish within `grace` seconds
        and gives the rest back.
        """
        consumer = await self.consumer(handler)
        self._engine.running.append(consumer)
        try:
            await run_together([consumer], grace=grace)
        finally:
            self._engine.running.remove(consumer)

    async def consumer(
        self, function: Callable[..., Any], *, concurrency: int | None = None, wait: float | None = None
    ) -> Consumer:
        """A consumer that is ready to run; `ConfigurationError` where the function cannot be a handler."""
        options = self.options if concurrency is None else replace(self.options, concurrency=concurrency)
        engine = self._engine
        handler = self.handler(function, options)
        start = await resolve(engine.store, self.stream, options.start)
        if start == END:
            # A place that can be gone back to, should the group be lost before it has read anything.
            start = await last_position(engine.store, self.stream)
        return Consumer(
            engine.store,
            Reader(self.stream, self.group, consumer_name(self._name), options.ordered),
            handler,
            options,
            signals=engine.signals,
            keeper=engine.keeper,
            start=start,
            limits=engine.limits,
            **({} if wait is None else {"wait": wait}),
        )

    def handler(self, function: Callable[..., Any], options: Options | None = None) -> Handler:
        """The function as the runtime calls it."""
        options = options or self.options
        return Handler(
            function,
            kind=self._kind,
            batch=options.batch is not None,
            timeout=options.timeout,
            threads=options.concurrency,
        )


def consumer_name(name: str | None = None) -> str:
    """A name that no other consumer has: the given one, or host and process, with some chance behind it.

    Leases are told apart by it, so that two consumers of one name would take each other's.
    """
    if name is None:
        host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())[:64].strip("-")
        name = f"{host or 'host'}-{os.getpid()}"
    return f"{name[:119]}-{secrets.token_hex(4)}"
