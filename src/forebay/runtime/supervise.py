"""Keeps loops running: after a transient error of the store they wait and go on, any other error ends the run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from forebay.callables import completed
from forebay.errors import NotFound, OutcomeUnknown, StoreError, StoreFull, StoreUnavailable
from forebay.restarts import Restarts

T = TypeVar("T")
OnOutage = Callable[[StoreError | None], object]
"""Called with the error when an outage of the store begins, and with None when it is over."""
OnFailure = Callable[[StoreError, float], None]
"""Called with each error, and with the seconds until the next try."""

TRANSIENT = (StoreUnavailable, OutcomeUnknown, StoreFull)
"""Errors of a store that may pass."""


async def repeat(
    turn: Callable[[], Awaitable[object]],
    *,
    stop: asyncio.Event,
    before: Callable[[], Awaitable[object]],
    heal: Callable[[], Awaitable[None]],
    on_error: Callable[[BaseException, float], None],
    on_recovery: Callable[[], None],
) -> None:
    """Call `turn` again and again until `stop`, after `before` has succeeded once.

    After a transient error wait and try again. After `NotFound` from a turn call `heal` first.
    """
    restarts = Restarts()
    has_begun = is_lost = False
    # `stop` is asked before each call: a turn that begins after it might wait for a wakeup that has come already.
    while not stop.is_set():
        try:
            if not has_begun:
                await before()
                has_begun = True
            elif is_lost:
                await heal()
                is_lost = False
            else:
                await turn()
                if restarts.worked():
                    on_recovery()
        except (NotFound, *TRANSIENT) as error:
            is_lost = is_lost or (has_begun and isinstance(error, NotFound))
            delay = restarts.failed()
            on_error(error, delay)
            await wait_for(stop, delay)


async def outlast(
    ask: Callable[[], Awaitable[T]], on_outage: OnOutage | None = None, on_failure: OnFailure | None = None
) -> T:
    """Return the answer of a call that only reads. Repeat it after each transient error, without a limit."""
    restarts = Restarts()
    while True:
        try:
            answer = await ask()
        except TRANSIENT as error:
            delay = restarts.failed()
            if on_failure is not None:
                on_failure(error, delay)
            if restarts.in_a_row == 1 and on_outage is not None:
                await completed(on_outage(error))
            await asyncio.sleep(delay)
        else:
            if restarts.worked() and on_outage is not None:
                await completed(on_outage(None))
            return answer


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so many seconds; return whether it is set."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
