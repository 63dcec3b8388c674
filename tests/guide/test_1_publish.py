"""Publish: the stored events, and the share of each group."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from forebay import Event, EventBus


async def test_a_published_event_is_handled(bus: EventBus) -> None:
    seen: list[Event] = []

    @bus.on("order_placed")
    async def handle(event: Event) -> None:
        seen.append(event)

    await bus.publish("order_placed", source="shop", data={"order_id": 7})
    await bus.run(until_idle=True)

    assert [{"order_id": 7}] == [event.data for event in seen]


async def test_each_group_gets_the_event_once_with_all_its_fields(bus: EventBus) -> None:
    seen: dict[str, list[Event]] = {"billing": [], "mail": []}

    @bus.on("order_placed", group="billing")
    async def bill(event: Event) -> None:
        seen["billing"].append(event)

    @bus.on("order_placed", group="mail")
    async def mail(event: Event) -> None:
        seen["mail"].append(event)

    id = await bus.publish("order_placed", source="shop", data={"n": 2**70}, key="k", headers={"a": "b"})
    await bus.run(until_idle=True)

    for group in seen.values():
        assert [id] == [event.id for event in group]
        event = group[0]
        assert ("order_placed", "shop", {"n": 2**70}, "k", 1) == (
            event.type, event.source, event.data, event.key, event.attempt,
        )  # fmt: skip
        assert {"a": "b"} == dict(event.headers)
        assert abs(datetime.now(UTC) - event.timestamp) < timedelta(minutes=1)


async def test_many_events_are_published_at_once_and_handled_in_order_by_one_worker(bus: EventBus) -> None:
    seen: list[int] = []

    @bus.on("t", concurrency=1)
    async def handle(event: Event) -> None:
        seen.append(event.data)

    ids = await bus.publish_many("t", source="s", data=range(2500))
    await bus.run(until_idle=True)

    assert list(range(2500)) == seen
    assert 2500 == len(set(ids))


async def test_publishing_an_id_again_stores_nothing_more(bus: EventBus) -> None:
    assert "order-1" == await bus.publish("t", source="s", data=1, id="order-1")
    assert "order-1" == await bus.publish("t", source="s", data=1, id="order-1")
    await bus.publish_many("t", source="s", data=[1, 2], ids=["order-1", "order-2"])

    assert ["order-1", "order-2"] == [event.id async for event in bus.events("t")]  # type: ignore[union-attr]  # events, as the test knows


async def test_a_delayed_event_is_handled_when_it_is_due(bus: EventBus) -> None:
    came = asyncio.Event()

    @bus.on("t")
    async def handle(event: Event) -> None:
        came.set()

    started = time.monotonic()
    await bus.publish("t", source="s", delay=0.3)
    await bus.publish("u", source="s", at=datetime.now(UTC) + timedelta(hours=1))
    run = asyncio.create_task(bus.run())
    await asyncio.wait_for(came.wait(), 10)
    waited = time.monotonic() - started
    bus.stop()
    await run

    assert 0.3 <= waited < 5
    assert [1] == [stream.scheduled for stream in await bus.stats("u")]
