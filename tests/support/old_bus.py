"""An old bus as teams have it: in this process, no memory, and a handler that fails loses its event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Handler = Callable[[str, str, Any], Awaitable[object]]


class PlainBus:
    """Calls its handlers in tasks of their own, and keeps no event."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Handler]] = {}
        self.tasks: set[asyncio.Task[object]] = set()
        self.broken: Exception | None = None

    async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> None:
        if self.broken is not None:
            raise self.broken
        for handler in self.handlers.get(event_type, []):
            task = asyncio.ensure_future(self._call(handler, event_type, source, data))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _call(self, handler: Handler, event_type: str, source: str, data: dict[str, Any]) -> object:
        try:
            return await handler(event_type, source, data)
        except Exception as error:  # noqa: BLE001  # as such buses do
            return error

    def subscribe(self, event_type: str, handler: Handler) -> None:
        self.handlers.setdefault(event_type, []).append(handler)
