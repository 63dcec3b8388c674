"""Keeps loops alive: a transient error is waited out with jittered back-off, any other ends the run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from forebay.callables import completed
from forebay.errors import NotFound, OutcomeUnknown, StoreError, StoreFull, StoreUnavailable

T = TypeVar("T")
OnOutage = Callable[[StoreError | None], object]
"""It is called with the error when an outage of the store begins, and with None when it is over."""
OnFailure = Callable[[StoreError, float], None]
"""It is called with each error, and with the seconds until the next try."""

TRANSIENT = (StoreUnavailable, OutcomeUnknown, StoreFull)
"""Errors of a store that time may heal."""


class Backoff:
    """Waits between tries: from 50 ms, doubling to 5 s, each between half and all of it."""

    def __init__(self, base: float = 0.05, cap: float = 5.0) -> None:
        self._base, self._cap = base, cap
        self._ceiling = base

    def next(self) -> float:
        """The wait in seconds before the next try."""
        wait = random.uniform(self._ceiling / 2, self._ceiling)
        self._ceiling = min(self._cap, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        """The last try worked."""
        self._ceiling = self._base


async def repeat(
    turn: Callable[[], Awaitable[object]],
    *,
    stop: asyncio.Event,
    before: Callable[[], Awaitable[object]],
    heal: Callable[[], Awaitable[None]],
    on_error: Callable[[BaseException, float], None],
    on_recovery: Callable[[], None],
) -> None:
    """Take turns until `stop`, after `before` has succeeded once.

    After `NotFound` the group is healed first; transient errors are waited out.
    """
    backoff = Backoff()
    failing = False
    first: Callable[[], Awaitable[object]] | None = before
    while not stop.is_set():
        try:
            if first is not None:
                await first()
                first = None
            await turn()
            if failing:
                failing = False
                backoff.reset()
                on_recovery()
        except (NotFound, *TRANSIENT) as error:
            if isinstance(error, NotFound):
                first = heal
            failing = True
            delay = backoff.next()
            on_error(error, delay)
            await wait_for(stop, delay)


async def outlast(
    ask: Callable[[], Awaitable[T]], on_outage: OnOutage | None = None, on_failure: OnFailure | None = None
) -> T:
    """Return the answer of a call that only reads. Repeat it over transient errors, for ever."""
    backoff = Backoff()
    is_out = False
    while True:
        try:
            answer = await ask()
        except TRANSIENT as error:
            delay = backoff.next()
            if on_failure is not None:
                on_failure(error, delay)
            if not is_out and on_outage is not None:
                await completed(on_outage(error))
            is_out = True
            await asyncio.sleep(delay)
        else:
            if is_out and on_outage is not None:
                await completed(on_outage(None))
            return answer


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event at most so long; whether it came."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
