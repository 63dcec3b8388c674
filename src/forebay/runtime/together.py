"""Several consumers as one run: they start, stop and fail together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence

from forebay.runtime.consumer import Consumer


async def run_together(
    consumers: Sequence[Consumer], *, grace: float, until: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run consumers until one of them ends, by `stop` or by a fault, or `until` returns.

    Then all are stopped in their orderly way; the first fault is raised.
    """
    tasks = [asyncio.create_task(consumer.run(grace=grace)) for consumer in consumers]
    watch = asyncio.ensure_future(until()) if until is not None else None
    everything = [*tasks, *([watch] if watch is not None else [])]
    try:
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for consumer in consumers:
            consumer.stop()
        if watch is not None:
            watch.cancel()
        await asyncio.shield(asyncio.wait(everything))
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
