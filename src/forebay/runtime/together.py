"""Several consumers as one run: they start, stop and fail together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol


class Runnable(Protocol):
    """What runs until it is stopped: a consumer, or an agent with several of them.

    `groups` are the pairs of stream and group that it serves; `quiet` is true while it has nothing in
    hand and found nothing at its last look; `last_read` is its sign of life, on `time.monotonic`.
    """

    @property
    def groups(self) -> Sequence[tuple[str, str]]: ...

    @property
    def quiet(self) -> bool: ...

    @property
    def last_read(self) -> float | None: ...

    def stop(self) -> None: ...

    async def run(self, *, grace: float) -> None: ...


class Run:
    """A run of several parts. It may be stopped before it has begun: then it ends as soon as it does."""

    def __init__(self) -> None:
        self.parts: Sequence[Runnable] = ()
        self._stopped = False

    def stop(self) -> None:
        """Let it end in its orderly way."""
        self._stopped = True
        for part in self.parts:
            part.stop()

    async def go(
        self, parts: Sequence[Runnable], *, grace: float, until: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run the parts until one of them ends, by `stop` or by a fault, or `until` returns.

        Then all are stopped in their orderly way; the first fault is raised.
        """
        self.parts = parts
        if self._stopped:
            self.stop()
        tasks = [asyncio.create_task(part.run(grace=grace)) for part in parts]
        watch = asyncio.ensure_future(until()) if until is not None else None
        everything = [*tasks, *([watch] if watch is not None else [])]
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            if watch is not None:
                watch.cancel()
            await asyncio.shield(asyncio.wait(everything))
            self.parts = ()
        for task in everything:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT call `stop`; a second one acts as if nobody listened.

    Only in the main thread, where signals arrive; elsewhere this does nothing.
    """
    loop = asyncio.get_running_loop()
    taken: list[signal.Signals] = []

    def first() -> None:
        let_go()
        stop()

    def let_go() -> None:
        while taken:
            loop.remove_signal_handler(taken.pop())

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, first)
        except (NotImplementedError, RuntimeError, ValueError):
            break
        taken.append(number)
    try:
        yield
    finally:
        let_go()
