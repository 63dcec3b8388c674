"""Waking of those who wait for streams to grow: reads, and iterations of `arrivals`, each on its own event loop."""

from __future__ import annotations

import asyncio
import contextlib


class Watch:
    """The names of streams that have grown, for one iteration of `arrivals` on the current event loop.

    `report` and `take` are called with the lock on the state; `report` from any thread.
    """

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._grown: dict[str, None] = {}

    def report(self, name: str) -> None:
        """Add a name."""
        if not self._grown:
            with contextlib.suppress(RuntimeError):  # its loop may have been closed meanwhile
                self._loop.call_soon_threadsafe(self.woken.set)
        self._grown[name] = None

    def take(self) -> list[str]:
        """Remove the names and return them, each once."""
        names, self._grown = list(self._grown), {}
        self.woken.clear()
        return names


def wake(waiter: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
    """Finish a future on its event loop. From any thread."""
    with contextlib.suppress(RuntimeError):  # the loop may have been closed meanwhile
        loop.call_soon_threadsafe(finish, waiter)


def finish(waiter: asyncio.Future[None]) -> None:
    """Finish a future, unless it is done already."""
    if not waiter.done():
        waiter.set_result(None)
