"""The event loop of commands: how they run, and how a signal ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from forebay.interrupts import interrupted_by_signals

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, as of a process that SIGINT ended."""


def run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run on asyncio's own loop. Ctrl-C, SIGTERM and SIGHUP cancel the work, so that it can say how far it came."""
    asyncio.run(_cancelled_by_signals(work))


def run_to_the_end_with_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """The same on the fastest loop there is."""
    run_with_uvloop(_cancelled_by_signals(work))


def run_with_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where the extra `fast` is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _cancelled_by_signals(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()

    def cancel() -> None:
        if task is not None:
            task.cancel()

    with interrupted_by_signals(cancel, alone=True):
        await work
