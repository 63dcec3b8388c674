"""A store that kills its process just before or just after one of its moves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from forebay import Event, EventBus, Reject, Retry
from forebay.testing import StoreProxy
from forebay.testing.proxy import Move
from forebay.urls import open_store
from tests.support.processes import History

T = TypeVar("T")
Point = tuple[Literal["before", "after"], Move]


class KillingStore(StoreProxy):
    """Passes all calls to a store, until the process dies at its point."""

    point: Point | None = None

    async def around(self, move: Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        if self.point == ("before", move):
            os.kill(os.getpid(), signal.SIGKILL)
        result = await call()
        # A query that found nothing is not a point to die at.
        if self.point == ("after", move) and result not in ([], 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def open_killing(url: str, namespace: str, point: Point | None) -> KillingStore:
    """The store of a URL, which kills the process at a point."""
    store = KillingStore(open_store(url, namespace=namespace))
    store.point = point
    return store


async def publish(url: str, namespace: str, point: Point | None, id: str) -> None:
    """Publish one event under this id."""
    async with EventBus(open_killing(url, namespace, point)) as bus:
        await bus.publish("t", source="s", data=0, id=id)


async def consume(url: str, namespace: str, history: Path, point: Point | None, lease: float) -> None:
    """Handle the stream "t" until the process dies at its point, or all is handled.

    The event 1 fails at first, and the event 2 is rejected.
    """
    note = History(history).writer()
    bus = EventBus(open_killing(url, namespace, point))

    @bus.on("t", group="g", lease=lease, concurrency=2, retry=Retry(attempts=5, base=0.001))
    async def handle(event: Event) -> None:
        if event.data == 1 and event.attempt == 1:
            raise ConnectionError("not yet")
        if event.data == 2:
            raise Reject("never")
        if point is not None and point[1] == "extend":
            await asyncio.sleep(lease * 2)
        note(f"ended-{namespace}", event.id)

    async with bus:
        await bus.run(until_idle=True)


async def redrive(url: str, namespace: str, point: Point | None) -> None:
    """Redrive the dead letters of "t", one by one."""
    store = open_killing(url, namespace, None)
    async with EventBus(store) as bus:
        for number, letter in enumerate(await bus.dead_letters("t")):
            store.point = point if number == 5 else None
            await bus.redrive("t", ids=[letter.id])
