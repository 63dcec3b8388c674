"""Waiting for tasks: a clean-up that ends however often its caller is cancelled, and the first of several to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(cleanup: Coroutine[Any, Any, Result]) -> Result:
    """Run a clean-up in a task of its own, wait until it is done, and return its result.

    A cancellation of the caller does not end the wait. It is raised when the clean-up is done: once, even if there
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


async def until_first_ends(
    *work: asyncio.Future[Any] | Coroutine[Any, Any, object], timeout: float | None = None
) -> None:
    """Wait until the first of these ends, at most `timeout` seconds.

    Futures and tasks go on after that: they are their owner's. Coroutines run in tasks that are cancelled, and have
    ended when this returns; an error that one of them raised is raised here.
    """
    own = [asyncio.ensure_future(each) for each in work if not asyncio.isfuture(each)]
    try:
        await asyncio.wait(
            [*own, *(each for each in work if asyncio.isfuture(each))],
            timeout=timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        for task in own:
            task.cancel()
        await done(own)
    for task in own:
        if not task.cancelled():
            task.result()
