"""Threads for plain handlers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from forebay.runtime.stacks import stack_of

Call = Callable[[], object]


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
    """Runs calls, at most `most` at once, in threads that do not keep the process from ending.

    The standard pool's would: at the end of the process it waits for all of them, and one that hangs hangs it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: queue.SimpleQueue[tuple[Call, Ended] | None] = queue.SimpleQueue()
        self._started = 0
        self._busy = 0
        self._at_work: dict[Ended, int] = {}

    def run(self, call: Call) -> Ended:
        """The outcome of the call, once it has ended. A caller that stops waiting does not stop it."""
        ended: Ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(self._one_less)
        self._busy += 1
        if self._started < min(self._busy, self._most):
            self._started += 1
            threading.Thread(target=self._work, name=f"forebay-handler-{self._started}", daemon=True).start()
        self._calls.put((call, ended))
        return ended

    def stack(self, ended: Ended) -> TracebackType | None:
        """Where a call that still runs is now."""
        thread = self._at_work.get(ended)
        return None if thread is None else stack_of(thread)

    def close(self) -> None:
        """Let idle threads go; running ones end by themselves."""
        for _ in range(self._started):
            self._calls.put(None)

    def _one_less(self, _: Ended) -> None:
        self._busy -= 1

    def _work(self) -> None:
        while job := self._calls.get():
            call, ended = job
            self._at_work[ended] = threading.get_ident()
            try:
                outcome = Outcome(call())
            except BaseException as raised:  # noqa: BLE001  # it is raised where the call is awaited
                outcome = Outcome(error=raised)
            del self._at_work[ended]
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                ended.get_loop().call_soon_threadsafe(_tell, ended, outcome)
            del call, ended, outcome, job


def _tell(ended: Ended, outcome: Outcome) -> None:
    if not ended.done():
        ended.set_result(outcome)
