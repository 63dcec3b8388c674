"""The tasks of a consumer that come and go: none fails silently, and none inherits the context of a handler."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from forebay.runtime.tasks import TaskSet
from forebay.testing import eventually

ORDER: ContextVar[int | None] = ContextVar("order", default=None)


async def test_the_first_error_of_a_task_is_kept_and_stops_the_consumer() -> None:
    stop = asyncio.Event()
    tasks = TaskSet(stop)

    async def fail(error: Exception) -> None:
        raise error

    first = ValueError("first")
    tasks.start(fail(first), name="first")
    tasks.start(fail(ValueError("second")), name="second")
    await asyncio.wait_for(stop.wait(), 10)
    await eventually(lambda: not tasks.running)

    assert tasks.error is first


async def test_a_task_that_ends_leaves_the_set_and_a_cancelled_one_is_no_error() -> None:
    stop = asyncio.Event()
    tasks = TaskSet(stop)

    tasks.start(asyncio.sleep(0), name="short")
    tasks.start(asyncio.sleep(3600), name="long").cancel()
    await eventually(lambda: not tasks.running)

    assert tasks.error is None
    assert not stop.is_set()


async def test_a_task_does_not_inherit_what_a_handler_set_in_its_context() -> None:
    tasks = TaskSet(asyncio.Event())
    seen: list[int | None] = []

    async def look() -> None:
        seen.append(ORDER.get())

    async def handler() -> None:
        ORDER.set(7)
        tasks.start(look(), name="worker")

    await asyncio.create_task(handler())
    await eventually(lambda: seen)

    assert [None] == seen
