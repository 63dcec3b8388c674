"""A run ends within its grace plus two seconds, whatever a handler or a hook does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from forebay import Event, EventBus, connect
from forebay.agents import BaseAgent, handles
from forebay.cleanup import done, finish
from forebay.testing import eventually
from tests.support.stores import dealt

GRACE = 0.3
BOUND = GRACE + 2.0
NOISE = 1.7
"""Seconds that a busy machine may add."""


class Stubborn:
    """Goes on although it is cancelled, until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.release = threading.Event()

    async def handle(self, *_: Any) -> None:
        self.begun += 1
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
        self.ended += 1

    def block(self, *_: Any) -> None:
        self.begun += 1
        self.release.wait()
        self.ended += 1


@pytest.fixture
def stubborn() -> Any:
    each = Stubborn()
    yield each
    each.release.set()


async def seconds_to_end(bus: EventBus, stubborn: Stubborn, run: Awaitable[None]) -> float:
    """How long a run takes to end once it is stopped, with a handler under way."""
    task = asyncio.ensure_future(run)
    await eventually(lambda: stubborn.begun > 0)
    began = time.monotonic()
    bus.stop()
    await asyncio.wait_for(asyncio.shield(task), 30)
    return time.monotonic() - began


OPTIONS: dict[str, dict[str, Any]] = {
    "one": {},
    "ordered": {"ordered": True},
    "batch": {"batch": 2, "concurrency": 1},
    "dedup": {"dedup": True},
    "timeout": {"timeout": 60.0},
}


@dealt("options", *OPTIONS.values(), ids=list(OPTIONS))
async def test_a_handler_that_swallows_cancellation_does_not_hold_up_the_end(
    bus: EventBus, stubborn: Stubborn, options: dict[str, Any]
) -> None:
    bus.on("t", group="g", lease=2, **options)(stubborn.handle)
    await bus.publish_many("t", "s", range(6), keys=["a", "b"] * 3)

    assert BOUND + NOISE > await seconds_to_end(bus, stubborn, bus.run(grace=GRACE))

    # What no handler has begun was given back at once; what runs keeps its lease.
    pending = await bus.pending("t", "g")
    assert stubborn.begun * options.get("batch", 1) == len([each for each in pending if each.consumer is not None])
    stubborn.release.set()
    await eventually(lambda: stubborn.ended == stubborn.begun)


async def test_consume_events_keeps_its_bound_too(bus: EventBus, stubborn: Stubborn) -> None:
    consume = bus.subscribe_to_stream("t", "g").consume_events(stubborn.handle, grace=GRACE)
    await bus.publish("t", "s", 1)

    assert BOUND + NOISE > await seconds_to_end(bus, stubborn, consume)

    stubborn.release.set()
    await eventually(lambda: stubborn.ended == stubborn.begun)


async def test_a_thread_that_hangs_does_not_hold_up_the_end(bus: EventBus, stubborn: Stubborn) -> None:
    bus.on("t", group="g")(stubborn.block)
    await bus.publish("t", "s", 1)

    assert BOUND + NOISE > await seconds_to_end(bus, stubborn, bus.run(grace=GRACE))


async def test_closing_keeps_the_bound_of_its_runs(stubborn: Stubborn) -> None:
    bus = connect("memory://")
    bus.on("t", group="g")(stubborn.handle)
    await bus.publish("t", "s", 1)
    run = asyncio.create_task(bus.run(grace=GRACE))
    await eventually(lambda: stubborn.begun > 0)

    began = time.monotonic()
    await bus.close()

    assert BOUND + NOISE > time.monotonic() - began
    assert run.done()
    stubborn.release.set()
    await eventually(lambda: stubborn.ended == stubborn.begun)


async def test_an_error_of_an_abandoned_handler_has_no_effect(stubborn: Stubborn) -> None:
    bus = connect("memory://")

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        await stubborn.handle()
        raise ValueError("late")

    async with bus:
        await bus.publish("t", "s", 1)
        await seconds_to_end(bus, stubborn, bus.run(grace=GRACE))
    stubborn.release.set()
    await eventually(lambda: stubborn.ended == stubborn.begun)
    await asyncio.sleep(0)

    async with bus:
        assert [] == await bus.dead_letters("t")


@dealt("hook", "work", "draining", "stopped", "initialize", "health", "handle")
async def test_an_agents_hook_that_swallows_cancellation_does_not_hold_up_the_end(
    bus: EventBus, stubborn: Stubborn, hook: str
) -> None:
    class Agent(BaseAgent):
        name = "stubborn"

        @handles("t")
        async def handle(self, event: Event) -> None:
            if hook == "handle":
                await stubborn.handle()

    if hook != "handle":
        setattr(Agent, hook, stubborn.handle)
    agent = Agent()
    task = asyncio.create_task(bus.run(agent, grace=GRACE))
    await eventually(lambda: _is_started(bus) or stubborn.begun > 0)
    await bus.publish("t", "s", 1)
    await bus.publish("health_check", "s")
    if hook not in ("draining", "stopped"):
        await eventually(lambda: stubborn.begun > 0)

    began = time.monotonic()
    bus.stop()
    await asyncio.wait([task])

    assert BOUND + NOISE > time.monotonic() - began
    stubborn.release.set()
    await eventually(lambda: stubborn.ended == stubborn.begun)


def _is_started(bus: EventBus) -> bool:
    return bool([place for part in bus._context.runs.parts for place in part.groups]) and bus.last_read is not None


# What cleans up.


async def test_a_clean_up_is_waited_for_however_often_the_caller_is_cancelled() -> None:
    log: list[str] = []

    async def cleanup() -> None:
        await asyncio.sleep(0.2)
        log.append("clean")

    task = asyncio.create_task(finish(cleanup()))
    await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)

    assert task.cancelled()
    assert ["clean"] == log


async def test_a_clean_up_gives_its_result_or_raises_its_error() -> None:
    async def fine() -> int:
        return 1

    async def bad() -> None:
        raise ValueError("bad")

    assert 1 == await finish(fine())
    with pytest.raises(ValueError, match="bad"):
        await finish(bad())


async def test_a_wait_for_a_clean_up_is_not_cancelled_by_the_clean_up() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()

    await done([task])

    assert task.cancelled()
