"""The process's signals, borrowed for a time: SIGTERM, SIGINT and SIGHUP.

Whoever handled them before is called too, and handles them again afterwards, whether that is a web server, a notebook,
asyncio or another bus. A signal that is ignored stays ignored (nohup).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))

_Handler = Callable[[int, FrameType | None], Any] | int


class Interrupts:
    """Calls the first callback on the loop at the first signal, the next one at the next; then it lets go.

    With `alone`, only these: for a command whose process belongs to nobody else.
    """

    def __init__(self, callbacks: Sequence[Callable[[], None]], *, alone: bool) -> None:
        self._callbacks = list(callbacks)
        self._alone = alone
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._cancelled = 0
        self._links: list[Link] = []

    def take(self) -> None:
        """Begin to listen, where that is possible: in the main thread, to what is not ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            with contextlib.suppress(OSError, ValueError):  # there is no such thing here, as in a subinterpreter
                # None: a handler that is not Python's, which could not be put back.
                if (before := signal.getsignal(number)) not in (None, signal.SIG_IGN):
                    self._links.append(Link(self, number, before))

    def let_go(self) -> None:
        """Put back what handled the signals before."""
        while self._links:
            self._links.pop().remove()

    def arrived(self, link: Link, frame: FrameType | None) -> None:
        """A signal arrived, in the main thread, between any two lines."""
        callback = self._callbacks.pop(0)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)
        if not self._callbacks:
            self.let_go()
        if self._alone or link.is_default:
            return
        before = self._task.cancelling() if self._task is not None else 0
        link.call_before(frame)
        if self._task is not None:
            self._cancelled += self._task.cancelling() - before

    def absorb(self) -> bool:
        """Whether this task was cancelled by nothing but a signal's former handler, as asyncio.run's does.

        Then it is cancelled no more: the signal has done its work.
        """
        if self._task is None or not self._cancelled:
            return False
        for _ in range(self._cancelled):
            self._task.uncancel()
        self._cancelled = 0
        return not self._task.cancelling()


class Link:
    """A handler in the chain of those that were installed one after the other.

    One that is in the middle of the chain cannot be taken out: it passes signals on, and is taken out when
    that above it is.
    """

    def __init__(self, owner: Interrupts, number: int, before: Any) -> None:
        self._owner: Interrupts | None = owner
        self._number = number
        self.before: _Handler = before
        signal.signal(number, self)

    @property
    def is_default(self) -> bool:
        """Whether nobody else has ever handled the signal: the default would end the process."""
        return living(self.before) in (signal.SIG_DFL, signal.default_int_handler)

    @property
    def is_over(self) -> bool:
        """Whether it only passes signals on."""
        return self._owner is None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._owner is not None:
            self._owner.arrived(self, frame)
        else:
            self.call_before(frame)

    def call_before(self, frame: FrameType | None) -> None:
        """Do what the signal did before."""
        before = living(self.before)
        if callable(before):
            before(self._number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(self._number, signal.SIG_DFL)
            signal.raise_signal(self._number)

    def remove(self) -> None:
        """Take it out of the chain, with those below it that are over."""
        self._owner = None
        current = signal.getsignal(self._number)
        if isinstance(current, Link):
            signal.signal(self._number, living(current))


def living(handler: Any) -> Any:
    """The handler, or where it only passes signals on, the one that it passes them to."""
    while isinstance(handler, Link) and handler.is_over:
        handler = handler.before
    return handler


@contextlib.contextmanager
def interrupted_by_signals(*callbacks: Callable[[], None], alone: bool = False) -> Iterator[Interrupts]:
    """Let the first SIGTERM, SIGINT or SIGHUP call the first callback, and so on; one more acts as if nobody listened.

    Handlers that were there before are called too, unless `alone`, and are put back at the end. Only in the main
    thread, where signals arrive; elsewhere nothing is touched.
    """
    interrupts = Interrupts(callbacks, alone=alone)
    interrupts.take()
    try:
        yield interrupts
    finally:
        interrupts.let_go()


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first signal call `stop`, which is to end what runs in here in an orderly way.

    Where a handler that was there before cancels this task besides, as asyncio.run's own does at SIGINT, that counts as
    the same stop, and is not raised.
    """
    with interrupted_by_signals(stop) as interrupts:
        try:
            yield
        except asyncio.CancelledError:
            if not interrupts.absorb():
                raise
        else:
            interrupts.absorb()
