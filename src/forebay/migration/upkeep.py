"""Background tasks that are to go on whatever happens: what fails is logged, and begun again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from forebay.reason import describe
from forebay.restarts import Restarts
from forebay.runtime.supervise import wait_for

logger = logging.getLogger("forebay")


def keep_running(name: str, work: Callable[[], Awaitable[object]], *, until: asyncio.Event) -> asyncio.Task[None]:
    """Do the work, and again after a while where it fails, until it is done or `until` is set."""

    async def keep() -> None:
        restarts = Restarts()
        while not until.is_set():
            try:
                await work()
                return
            except Exception as error:  # noqa: BLE001  # whatever it is, the old bus is not to suffer from it
                delay = restarts.failed()
                logger.warning("migration: %s: %s; again in %.1f s", name, describe(error), delay)
                await wait_for(until, delay)

    return asyncio.create_task(keep(), name=f"forebay-{name}")
