"""Causation: each event that a handler publishes names the event that caused it, and the chain's first one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from forebay import Event, EventBus, connect
from forebay.cause import CAUSATION, CORRELATION
from forebay.signals import Finished


class Order(msgspec.Struct):
    number: int


@pytest.fixture
def bus() -> EventBus:
    return connect("memory://")


async def _effects(bus: EventBus) -> list[Event]:
    return [event async for event in bus.events("effect")]  # type: ignore[misc]  # none of them is malformed


async def _run(bus: EventBus) -> list[Event]:
    await bus.run(until_idle=True)
    return await _effects(bus)


async def test_an_event_published_in_a_handler_carries_its_cause(bus: EventBus) -> None:
    @bus.on("cause", group="g")
    async def handle(event: Event) -> None:
        await bus.publish("effect", "s", event.data)

    async with bus:
        ids = await bus.publish_many("cause", "s", range(20))
        effects = await _run(bus)

    assert {n: ids[n] for n in range(20)} == {event.data: event.headers[CAUSATION] for event in effects}
    assert {n: ids[n] for n in range(20)} == {event.data: event.headers[CORRELATION] for event in effects}


async def test_the_correlation_is_that_of_the_first_event_of_the_chain(bus: EventBus) -> None:
    @bus.on("cause", group="g")
    async def first(event: Event) -> None:
        await bus.publish_many("middle", "s", [1])

    @bus.on("middle", group="g")
    async def second(event: Event) -> None:
        await bus.publish("effect", "s", headers={"own": "x"})

    async with bus:
        id = await bus.publish("cause", "s")
        (effect,) = await _run(bus)
        (middle,) = [event async for event in bus.events("middle")]

    assert isinstance(middle, Event)
    assert {CORRELATION: id, CAUSATION: middle.id, "own": "x"} == effect.headers


async def test_headers_of_the_publisher_win_over_those_of_the_cause(bus: EventBus) -> None:
    @bus.on("cause", group="g")
    async def handle(event: Event) -> None:
        await bus.publish("effect", "s", headers={CAUSATION: "mine"})

    async with bus:
        id = await bus.publish("cause", "s")
        (effect,) = await _run(bus)

    assert {CORRELATION: id, CAUSATION: "mine"} == effect.headers


def _with_an_object(bus: EventBus, publish: Callable[[], Any]) -> None:
    @bus.on(Order, group="object")
    async def handle(order: Order) -> None:
        await publish()


def _with_a_timeout(bus: EventBus, publish: Callable[[], Any]) -> None:
    @bus.on("order", group="timeout", timeout=30)
    async def handle(event: Event) -> None:
        await publish()


def _in_a_thread(bus: EventBus, publish: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()

    @bus.on("order", group="thread")
    def handle(event: Event) -> None:
        asyncio.run_coroutine_threadsafe(publish(), loop).result(30)


def _in_a_task(bus: EventBus, publish: Callable[[], Any]) -> None:
    @bus.on("order", group="task")
    async def handle(event: Event) -> None:
        await asyncio.create_task(publish())


def _by_a_subscription(bus: EventBus, publish: Callable[[], Any]) -> None:
    @bus.on("order", group="partial", ordered=True)
    async def handle(event: Event) -> Any:
        return publish()


KINDS = [_with_an_object, _with_a_timeout, _in_a_thread, _in_a_task, _by_a_subscription]


@pytest.mark.parametrize("register", KINDS, ids=lambda function: str(function.__name__).strip("_"))
async def test_every_kind_of_handler_is_a_cause(bus: EventBus, register: Callable[..., None]) -> None:
    register(bus, lambda: bus.publish("effect", "s"))

    async with bus:
        id = await bus.publish(Order(1), "s")
        (effect,) = await _run(bus)

    assert id == effect.headers[CAUSATION]


async def test_a_batch_is_no_cause(bus: EventBus) -> None:
    @bus.on("cause", group="g")
    async def single(event: Event) -> None:
        await asyncio.sleep(0)

    @bus.on("cause", group="batch", batch=10)
    async def batch(events: list[Event]) -> None:
        await bus.publish("effect", "s")

    async with bus:
        await bus.publish("cause", "s")
        (effect,) = await _run(bus)

    assert {} == effect.headers


async def test_a_run_that_is_started_in_a_handler_does_not_inherit_its_cause(bus: EventBus) -> None:
    inner = connect("memory://")

    @inner.on("order", group="batch", batch=10)
    async def batch(events: list[Event]) -> None:
        await inner.publish("effect", "s")

    @bus.on("cause", group="g")
    async def handle(event: Event) -> None:
        await inner.run(until_idle=True, handle_signals=False)

    async with bus, inner:
        await inner.publish("order", "s")
        await bus.publish("cause", "s")
        await bus.run(until_idle=True)
        (effect,) = await _effects(inner)

    assert {} == effect.headers


async def test_an_event_published_by_a_listener_has_no_cause(bus: EventBus) -> None:
    async def listener(signal: Finished) -> None:
        await bus.publish("effect", "s")

    @bus.on("cause", group="g")
    async def handle(event: Event) -> None: ...

    async with bus:
        bus.signals.listen(listener, Finished)
        await bus.publish("cause", "s")
        await bus.run(until_idle=True)
        await bus.signals.drain()
        (effect,) = await _effects(bus)

    assert {} == effect.headers


async def test_events_published_outside_of_handlers_have_no_cause(bus: EventBus) -> None:
    async with bus:
        await bus.publish("effect", "s")
        (effect,) = await _effects(bus)

    assert {} == effect.headers
