"""Several consumers as one run: they start, stop and fail together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from forebay.cleanup import finish, until_first_ends

LAST_SECONDS = 1.8
"""Seconds after the grace until a stopped part must have ended; after that it is not waited for."""


class Runnable(Protocol):
    """A part of a run: a consumer, or an agent with several of them.

    `groups` are the pairs of stream and group that it serves. `is_idle` is True while nothing is in flight and the last
    read found nothing. `last_read` is the time of its last sign of life, on `time.monotonic`.
    """

    @property
    def groups(self) -> Sequence[tuple[str, str]]: ...

    @property
    def is_idle(self) -> bool: ...

    @property
    def last_read(self) -> float | None: ...

    def stop(self) -> None: ...

    async def run(self, *, grace: float) -> None: ...


class Run:
    """A run of several parts. If it is stopped before it has begun, it ends as soon as it begins.

    `ended` is a future that is done when the run is over; None before it has begun.
    """

    def __init__(self) -> None:
        self.parts: Sequence[Runnable] = ()
        self.is_stopped = False
        self.ended: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """Stop all parts; they drain."""
        self.is_stopped = True
        for part in self.parts:
            part.stop()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Mark the time from the making of its parts to its end: `ended` is pending."""
        ended = self.ended = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            ended.set_result(None)

    async def go(
        self, parts: Sequence[Runnable], *, grace: float, until: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run the parts until one of them ends, by `stop` or by an error, or until `until` returns.

        Then stop all of them, and raise the first error. A part that has not ended two seconds after its grace is
        cancelled, and not waited for.
        """
        self.parts = parts
        if self.is_stopped:
            self.stop()
        tasks = [asyncio.create_task(part.run(grace=grace)) for part in parts]
        watch = asyncio.ensure_future(until()) if until is not None else None
        everything = [*tasks, *([watch] if watch is not None else [])]
        try:
            await until_first_ends(*everything)
        finally:
            self.stop()
            if watch is not None:
                watch.cancel()
            try:
                await finish(leave(everything, after=grace + LAST_SECONDS))
            finally:
                self.parts = ()
        for task in everything:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error


async def leave(tasks: Sequence[asyncio.Future[Any]], *, after: float) -> set[asyncio.Future[Any]]:
    """Wait for tasks, at most so many seconds; cancel the others, and return those that do not end even then."""
    _, late = await asyncio.wait(tasks, timeout=max(0.0, after))
    if late:
        for task in late:
            task.cancel()
        _, late = await asyncio.wait(late, timeout=0.1)
        for task in late:
            # No one retrieves its error.
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return late
