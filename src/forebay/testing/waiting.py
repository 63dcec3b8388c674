"""Waiting for something that will happen, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

LOOK_INTERVAL = 0.01
"""Seconds between two looks."""


async def eventually(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], *, within: float = 10.0, message: str = ""
) -> None:
    """Return once `condition()` is true; `AssertionError` after `within` seconds.

    The condition may be a coroutine function. It is looked at each 10 ms.
    """
    deadline = asyncio.get_running_loop().time() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(message or f"it did not happen within {within:g} s")
        await asyncio.sleep(LOOK_INTERVAL)
