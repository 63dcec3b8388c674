"""Threads that do not keep the process from ending, and do not end with the main thread.

Python shuts its own executors down when the main thread ends, even if an event loop still runs in another thread. At
the end of the process it waits for their threads, so a thread that hangs keeps the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar, cast

from forebay.stacks import stack_of

END_SECONDS = 0.5
"""Seconds to wait for the end of a thread that has nothing more to do."""

Call = Callable[[], object]
Result = TypeVar("Result")


class Outcome(NamedTuple):
    """The end of a call: the value that it returned, or the error that it raised."""

    returned: object = None
    error: BaseException | None = None

    def value(self) -> object:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.returned


Ended = asyncio.Future[Outcome]


class Threads:
    """Runs calls, at most `most` at once, in daemon threads of this name."""

    def __init__(self, most: int, *, name: str = "forebay-handler") -> None:
        self._most = most
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Call, Ended] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._at_work: dict[Ended, int] = {}

    def run(self, call: Call) -> Ended:
        """The outcome of the call, once it has ended. A caller that stops waiting does not stop it."""
        ended: Ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(self._one_less)
        self._busy += 1
        if len(self._threads) < min(self._busy, self._most):
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = threading.Thread(target=_work, args=(self._calls, self._at_work), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._calls.put((call, ended))
        return ended

    def stack(self, ended: Ended) -> TracebackType | None:
        """The stack of a call that still runs."""
        thread = self._at_work.get(ended)
        return None if thread is None else stack_of(thread)

    async def call(self, call: Callable[[], Result]) -> Result:
        """Await the call: return its result, or raise its error."""
        return cast("Result", (await self.run(call)).value())

    def close(self) -> None:
        """End idle threads now, and running ones after the calls that were made."""
        for _ in self._threads:
            self._calls.put(None)
        self._threads = []

    def end(self) -> None:
        """Close, and wait for threads whose calls have all returned: for a moment only."""
        ending = self._threads
        self.close()
        for thread in ending:
            thread.join(END_SECONDS)

    __del__ = close

    def _one_less(self, _: Ended) -> None:
        self._busy -= 1


async def in_thread(call: Callable[[], Result]) -> Result:
    """Await the call in a thread of its own: return its result, or raise its error."""
    threads = Threads(1, name="forebay-thread")
    try:
        return await threads.call(call)
    finally:
        threads.close()


def _work(calls: queue.SimpleQueue[tuple[Call, Ended] | None], at_work: dict[Ended, int]) -> None:
    while job := calls.get():
        call, ended = job
        at_work[ended] = threading.get_ident()
        try:
            outcome = Outcome(call())
        except BaseException as raised:  # noqa: BLE001  # it is raised where the call is awaited
            outcome = Outcome(error=raised)
        del at_work[ended]
        with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
            ended.get_loop().call_soon_threadsafe(_set_outcome, ended, outcome)
        del call, ended, outcome, job


def _set_outcome(ended: Ended, outcome: Outcome) -> None:
    if not ended.done():
        ended.set_result(outcome)
