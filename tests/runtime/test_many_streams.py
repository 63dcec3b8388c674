"""One consumer serves one group over several streams."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay import Event, EventBus, Reject, Retry
from forebay.agents import BaseAgent
from forebay.runtime.consumer import Consumer
from forebay.signals import GroupCreated
from forebay.store import Reader
from forebay.testing import eventually

STREAMS = ["a", "b", "c"]


class Handled:
    """The data of the handled events, by type, in their order."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = defaultdict(list)

    async def __call__(self, event: Event) -> None:
        self.of[event.type].append(event.data)


@asynccontextmanager
async def consuming(bus: EventBus, handler: Callable[..., Any], **options: Any) -> AsyncIterator[Consumer]:
    """Run one consumer of the group g on all the streams."""
    first, *others = [bus.subscribe_to_stream(stream, "g", **options) for stream in STREAMS]
    consumer = first.consumer(handler, beside=others)
    running = asyncio.create_task(consumer.run(grace=10))
    try:
        yield consumer
    finally:
        consumer.stop()
        await running


@pytest.mark.parametrize(
    "options", [{}, {"ordered": True, "concurrency": 16}, {"dedup": True}, {"prefetch": 2}], ids=str
)
async def test_the_events_of_each_stream_are_handled_in_their_order(bus: EventBus, options: dict[str, Any]) -> None:
    handled = Handled()
    for stream in STREAMS:
        await bus.publish_many(stream, source="s", data=range(20), keys=["k"] * 20)

    async with consuming(bus, handled.__call__, concurrency=options.pop("concurrency", 1), **options) as consumer:
        await eventually(lambda: sum(map(len, handled.of.values())) == 60)
        await eventually(lambda: consumer.is_idle)
        for stream in STREAMS:
            await bus.publish(stream, source="s", data="later", key="k")
        await eventually(lambda: sum(map(len, handled.of.values())) == 63)
        await eventually(lambda: _is_settled(bus))

    assert {stream: [*range(20), "later"] for stream in STREAMS} == handled.of


async def _is_settled(bus: EventBus) -> bool:
    stats = await bus.stats(*STREAMS)
    return all(not group.pending and not group.lag for stream in stats for group in stream.groups)


async def test_a_retry_comes_back_and_a_dead_letter_stays_on_the_stream_of_its_event(bus: EventBus) -> None:
    tried: list[tuple[str, int]] = []

    async def handle(event: Event) -> None:
        tried.append((event.type, event.attempt))
        if event.type == "b":
            raise Reject("never")
        if event.attempt == 1:
            raise ConnectionError("not yet")

    for stream in STREAMS:
        await bus.publish(stream, source="s")
    async with consuming(bus, handle, retry=Retry(attempts=3, base=0.01)):
        await eventually(lambda: len(tried) == 5)
        await eventually(lambda: _is_settled(bus))

    assert [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2)] == sorted(tried)
    assert [0, 1, 0] == [len(await bus.dead_letters(stream)) for stream in STREAMS]


async def test_a_batch_has_the_events_of_one_stream(bus: EventBus) -> None:
    batches: list[list[Event]] = []

    async def handle(events: list[Event]) -> None:
        batches.append(events)

    for stream in STREAMS:
        await bus.publish_many(stream, source="s", data=range(10))
    async with consuming(bus, handle, batch=4):
        await eventually(lambda: sum(map(len, batches)) == 30)

    assert all(len({event.type for event in batch}) == 1 for batch in batches)


async def test_a_group_that_is_lost_on_one_stream_is_made_again_there(bus: EventBus) -> None:
    handled, joined = Handled(), list[GroupCreated]()
    bus.signals.listen(joined.append, GroupCreated)
    for stream in STREAMS:
        await bus.publish(stream, source="s", data=1)

    async with consuming(bus, handled.__call__):
        await eventually(lambda: len(handled.of) == 3)
        await eventually(lambda: _is_settled(bus))
        await bus.store.leave("b", "g")
        for stream in STREAMS:
            await bus.publish(stream, source="s", data=2)
        await eventually(lambda: all(2 in data for data in handled.of.values()))
        await eventually(lambda: _is_settled(bus))

    assert {"a": [1, 2], "b": [1, 2], "c": [1, 2]} == handled.of
    assert [("b", True)] == [(each.stream, each.recreated) for each in joined if each.recreated]


async def test_events_that_a_dead_consumer_held_are_taken_over_on_each_stream(bus: EventBus) -> None:
    handled = Handled()
    for stream in STREAMS:
        await bus.store.join(stream, "g")
        await bus.publish(stream, source="s", data=1)
        await bus.store.read(Reader(stream, "g", "dead"), limit=1)

    async with consuming(bus, handled.__call__, lease=0.3):
        await eventually(lambda: len(handled.of) == 3, within=20)


async def test_the_types_of_process_event_have_one_consumer_together(bus: EventBus) -> None:
    seen: list[tuple[str, Any]] = []

    class Clerk(BaseAgent):
        name = "clerk"
        event_types = tuple(STREAMS)

        async def process_event(self, event_type: str, data: Any) -> None:
            seen.append((event_type, data))

    run = asyncio.create_task(bus.run(Clerk()))
    await eventually(lambda: bus.last_read is not None)
    for stream in STREAMS:
        await bus.publish(stream, source="s", data=1)
    await eventually(lambda: len(seen) == 3)
    [clerk] = bus._context.runs.parts
    consumers: list[Consumer] = clerk._consumers  # type: ignore[attr-defined]  # no public name shows them
    bus.stop()
    await run

    assert [("a", 1), ("b", 1), ("c", 1)] == sorted(seen)
    assert [STREAMS, ["health_check"]] == [[stream for stream, _ in consumer.groups] for consumer in consumers]
