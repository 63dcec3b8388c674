"""The event loop of commands: how they run, and what a signal does to them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, as of a process that SIGINT ended."""


def run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run on asyncio's own loop. Ctrl-C and SIGTERM cancel the work, so that it can say how far it came."""
    asyncio.run(_cancelled_by_sigterm(work))


def run_fast_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """The same on the fastest loop there is."""
    run_fast(_cancelled_by_sigterm(work))


def run_fast(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where the extra `fast` is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    with on_signals([signal.SIGTERM], task.cancel):
        await work


@contextmanager
def on_signals(signals: Sequence[signal.Signals], call: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, call this on the running loop for one of the signals; then do for them what was done before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which gets no signals
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(call)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set by Python, and cannot be set again by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
