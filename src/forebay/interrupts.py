"""Handle the process's signals for a time: SIGTERM, SIGINT and SIGHUP.

The handlers that were installed before are called too, and are restored afterwards: those of a web server, a notebook,
asyncio or another bus. An ignored signal stays ignored (nohup).
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
    """Calls the first callback on the loop at the first signal, the next one at the next, then restores the handlers.

    With `alone`, the former handlers are not called: for a command, which owns its process.
    """

    def __init__(self, callbacks: Sequence[Callable[[], None]], *, alone: bool) -> None:
        self._callbacks = list(callbacks)
        self._alone = alone
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._cancelled = 0
        self._links: list[Link] = []

    def take(self) -> None:
        """Install the handlers, for signals that are not ignored. Does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            with contextlib.suppress(OSError, ValueError):  # not possible here, as in a subinterpreter
                # None: a handler that is not Python's, which could not be put back.
                if (before := signal.getsignal(number)) not in (None, signal.SIG_IGN):
                    self._links.append(Link(self, number, before))

    def let_go(self) -> None:
        """Restore the former handlers."""
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
        """True if only a signal's former handler cancelled this task, as asyncio.run's does.

        Then the cancellation is taken back: the signal has done its work.
        """
        if self._task is None or not self._cancelled:
            return False
        for _ in range(self._cancelled):
            self._task.uncancel()
        self._cancelled = 0
        return not self._task.cancelling()


class Link:
    """A handler in the chain of those that were installed one after the other.

    A link in the middle of the chain cannot be removed: it passes signals on, and is removed together with the link
    above it.
    """

    def __init__(self, owner: Interrupts, number: int, before: Any) -> None:
        self._owner: Interrupts | None = owner
        self._number = number
        self.before: _Handler = before
        signal.signal(number, self)

    @property
    def is_default(self) -> bool:
        """True if the former handler is the default one, which would end the process."""
        return living(self.before) in (signal.SIG_DFL, signal.default_int_handler)

    @property
    def is_over(self) -> bool:
        """True if it only passes signals on."""
        return self._owner is None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._owner is not None:
            self._owner.arrived(self, frame)
        else:
            self.call_before(frame)

    def call_before(self, frame: FrameType | None) -> None:
        """Call the former handler."""
        before = living(self.before)
        if callable(before):
            before(self._number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(self._number, signal.SIG_DFL)
            signal.raise_signal(self._number)

    def remove(self) -> None:
        """Remove it from the chain, with the links below it that are over."""
        self._owner = None
        current = signal.getsignal(self._number)
        if isinstance(current, Link):
            signal.signal(self._number, living(current))


def living(handler: Any) -> Any:
    """The handler, or, if it only passes signals on, the handler that it passes them to."""
    while isinstance(handler, Link) and handler.is_over:
        handler = handler.before
    return handler


@contextlib.contextmanager
def interrupted_by_signals(*callbacks: Callable[[], None], alone: bool = False) -> Iterator[Interrupts]:
    """Let the first SIGTERM, SIGINT or SIGHUP call the first callback, and so on; one more acts as without them.

    The former handlers are called too, unless `alone`, and are restored at the end. Only in the main thread, where
    signals arrive; in others nothing is changed.
    """
    interrupts = Interrupts(callbacks, alone=alone)
    interrupts.take()
    try:
        yield interrupts
    finally:
        interrupts.let_go()


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first signal call `stop`, which ends the body in an orderly way.

    If a former handler cancels this task as well, as asyncio.run's does at SIGINT, that counts as the same stop, and is
    not raised.
    """
    with interrupted_by_signals(stop) as interrupts:
        try:
            yield
        except asyncio.CancelledError:
            if not interrupts.absorb():
                raise
        else:
            interrupts.absorb()
