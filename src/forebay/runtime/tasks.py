"""The tasks of a consumer that come and go with its work: workers, and the task that sends acks."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """Running tasks. The first error of one is kept in `error`, and sets `stop`: no task fails silently.

    A task starts in the context in which the set was made, not in that of a handler.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self.error: BaseException | None = None
        self._stop = stop
        self._context = contextvars.copy_context()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run this as a task."""
        task = asyncio.create_task(work, name=name, context=self._context.copy())
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.error = self.error or error
            self._stop.set()
