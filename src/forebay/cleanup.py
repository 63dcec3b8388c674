"""Clean-up that comes to its end, however often whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(cleanup: Coroutine[Any, Any, Result]) -> Result:
    """Run a clean-up in a task of its own, wait until it is done, and return its result.

    A cancellation of the caller does not end the wait. It is raised when the clean-up is done: once, also where there
    were several (a second Ctrl-C, `asyncio.timeout`, a cancel scope of anyio that repeats it).
    """
    task = asyncio.ensure_future(cleanup)
    await done([task])
    return task.result()


async def done(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all are done, whatever cancels the caller; then raise that cancellation."""
    pending = set(tasks)
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled
