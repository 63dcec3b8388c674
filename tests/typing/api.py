"""Programs that mypy and pyright accept: read by them, never run. `reveal` lines are types that they must find."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from enum import Enum
from typing import Any, assert_type

import msgspec
import pydantic

from forebay import (
    Event,
    EventBus,
    EventStreamConsumer,
    InMemoryEventBus,
    Limits,
    PersistentEventBus,
    RedisEventBus,
    Retry,
    connect,
)
from forebay.agents import BaseAgent, handles
from forebay.signals import DeadLettered, Finished, Listening, Published, Retried, Signal, Skipped

bus = connect("memory://")


class Kind(Enum):
    PAID = "paid"


class Order(msgspec.Struct):
    n: int


@dataclasses.dataclass
class Bought:
    n: int


class Sold(pydantic.BaseModel):
    n: int


class Base(msgspec.Struct):
    n: int


class Derived(Base):
    m: int


# A type's name: the event, or the class that its data is decoded as.


@bus.on("order", group="g", start="latest", retry=Retry(attempts=2), concurrency=2, prefetch=5, timeout=1.5)
async def event_by_name(event: Event) -> int:
    return event.attempt


@bus.on(Kind.PAID, lease=60, ordered=True, dedup=3600.0)
def plain_function(event: Event) -> None: ...


@bus.on("order")
async def anything(event: Any) -> None: ...


@bus.on("order")
async def original_design(event_data: dict[str, Any]) -> None: ...


@bus.on("order")
async def decoded_struct(order: Order) -> None: ...


@bus.on("order")
async def decoded_dataclass(order: Bought) -> None: ...


@bus.on("order")
async def decoded_model(order: Sold, event: Event) -> None: ...


@bus.on("order", batch=10)
async def batch_by_name(events: list[Event]) -> None: ...


@bus.on("order", batch=10)
async def sequence_by_name(events: Sequence[Event]) -> None: ...


@bus.on("order", batch=10)
async def decoded_batch(orders: list[Order]) -> None: ...


# A class.


@bus.on(Order)
async def object_of_class(order: Order) -> None: ...


@bus.on(Sold)
async def model_of_class(order: Sold) -> None: ...


@bus.on(Order)
async def object_and_event(order: Order, event: Event) -> None: ...


@bus.on(Derived)
async def base_of_class(order: Base) -> None: ...


@bus.on(Order, batch=10)
async def batch_of_class(orders: list[Order]) -> None: ...


@bus.on(Order, batch=10)
async def batch_and_events(orders: list[Order], events: list[Event]) -> None: ...


bus.on("order", group="lambda")(lambda event: None)
bus.on("order", group="partial")(functools.partial(plain_function))


# A decorated function keeps its type.


async def calls(event: Event) -> None:
    assert_type(await event_by_name(event), int)
    assert_type(plain_function(event), None)


# Consumers.


async def consumers(bus: EventBus) -> None:
    named = bus.subscribe_to_stream("order", "g", "worker", lease=5)
    assert_type(named, EventStreamConsumer[Event])
    await named.consume_events(event_by_name, grace=1)
    await named.consume_events(original_design)
    await named.consume_events(decoded_struct)
    await bus.subscribe_to_stream("order", "g", batch=10).consume_events(batch_by_name)
    await bus.subscribe_to_stream(Order, "g").consume_events(object_of_class)
    await bus.subscribe_to_stream(Order, "g").consume_events(object_and_event)
    await bus.subscribe_to_stream(Order, "g", batch=10).consume_events(batch_of_class)
    await bus.subscribe_to_stream(Order, "g", batch=10).consume_events(batch_and_events)


# Methods of agents.


class Billing(BaseAgent):
    name = "billing"

    @handles("order", retry=Retry(attempts=3), ordered=True)
    async def by_name(self, event: Event) -> None: ...

    @handles("decoded")
    async def decoded(self, order: Order) -> None: ...

    @handles(Order)
    async def of_class(self, order: Order) -> None: ...

    @handles(Bought)
    async def with_event(self, order: Bought, event: Event) -> None: ...

    @handles("batch", batch=10)
    async def batch(self, events: list[Event]) -> None: ...

    @handles(Sold, batch=10)
    async def batch_of_class(self, orders: list[Sold]) -> None: ...


RedisEventBus("redis://localhost", namespace="a", limits=Limits(), idempotency_window=60)
PersistentEventBus("events.db", namespace="a")
InMemoryEventBus(idempotency_window=60)


# Listeners of signals.


def any_signal(signal: Signal) -> None: ...
def finished(signal: Finished) -> None: ...
def either(signal: Finished | Retried) -> None: ...


bus.signals.listen(any_signal)
bus.signals.listen(any_signal, Finished)
bus.signals.listen(finished, Finished)
bus.signals.listen(either, Finished)
bus.signals.listen(either, Finished, Retried)
bus.signals.listen(lambda signal: str(signal.elapsed), Finished)
assert_type(bus.signals.listen(print, Finished, Retried, Published, DeadLettered, Skipped), Listening)
finished_ones: list[Finished] = []
both: list[Finished | Retried] = []
kinds: list[type[Signal]] = [Finished]
with bus.signals.listen(finished_ones.append, Finished), bus.signals.listen(both.append, Finished, Retried):
    bus.signals.listen(print, *kinds).stop()
