"""The old bus, as a DualBus needs it, and this bus in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

from forebay.bus import EventBus
from forebay.callables import completed, refuse_generator
from forebay.event import Event
from forebay.migration.observer import digest
from forebay.migration.upkeep import keep_running

OldHandler = Callable[[str, str, Any], Awaitable[object] | object]
"""Called with the event's type, its source and its data."""
Wrapped = Callable[[str, str, Any], Awaitable[object]]
"""A handler as a DualBus gives it to the old bus."""


class OldBus(Protocol):
    """The two methods of an old bus; an adapter with these takes any.

    `publish` delivers to all handlers of the type, and passes `data` on as it is: it is a dict that
    carries more than it shows; it may be async or plain. `subscribe` is plain; it is called before the first
    event of its type, or later.
    """

    def publish(self, event_type: str, source: str, data: dict[str, Any]) -> object: ...

    def subscribe(self, event_type: str, handler: Wrapped) -> object: ...


class EventDict(dict[str, Any]):
    """The data of an event on its way through the old bus: a plain dict that carries its event.

    All handlers get the same dict: `digest` shows whether one of them has changed it. `is_delivered` is whether a
    handler got it.
    """

    def __init__(self, event: Event) -> None:
        super().__init__(event.data)
        self.event = event
        self.digest = digest(self)
        self.is_delivered = False


class OldEventBus:
    """An `EventBus` in the place of the old bus: one in memory, or a durable one that is to be replaced.

    Each subscription is a group of its agent's name.
    """

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self._handlers: list[tuple[str, Wrapped]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._open = False

    async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> str:
        """Publish under the id and with the headers of the event that the data carries."""
        if not isinstance(data, EventDict):
            return await self.bus.publish(event_type, source, data)
        event = data.event
        return await self.bus.publish(event_type, source, dict(data), id=event.id, key=event.key, headers=event.headers)

    def subscribe(self, event_type: str, handler: Wrapped) -> None:
        """Let a group handle the type: that of the `agent` whose method the handler is."""
        refuse_generator("handler", handler)
        self._handlers.append((event_type, handler))
        if self._open:
            self._start(event_type, handler)

    async def __aenter__(self) -> Self:
        await self.bus.__aenter__()
        self._open = True
        for event_type, handler in self._handlers:
            self._start(event_type, handler)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._closing.set()
        self.bus.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bus.__aexit__(kind, error, trace)

    def _start(self, event_type: str, handler: Wrapped) -> None:
        agent = getattr(getattr(handler, "__self__", None), "agent", "old")

        async def handle(event: Event) -> None:
            await completed(handler(event.type, event.source, EventDict(event)))

        async def consume() -> None:
            await self.bus.subscribe_to_stream(event_type, agent).consume_events(handle)

        name = f"{event_type} for {agent} on the old bus"
        self._tasks.append(keep_running(name, consume, signals=self.bus.signals, until=self._closing))
