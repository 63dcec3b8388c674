"""Handle: the kinds of function that take events."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec

from forebay import Event, EventBus, Retry
from forebay.signals import Skipped

QUICK = Retry(attempts=3, base=0.001, cap=0.002)


class OrderPlaced(msgspec.Struct):
    order_id: int


async def test_typed_payloads_are_decoded_and_misfits_are_dead_at_once(bus: EventBus) -> None:
    seen: list[tuple[OrderPlaced, str]] = []

    @bus.on(OrderPlaced, group="g")
    async def handle(order: OrderPlaced, event: Event) -> None:
        seen.append((order, event.source))

    await bus.publish(OrderPlaced(order_id=1), source="shop")
    await bus.publish("order_placed", source="shop", data={"order_id": "seven"})
    await bus.run(until_idle=True)

    assert [(OrderPlaced(1), "shop")] == seen
    (letter,) = await bus.dead_letters(OrderPlaced)
    assert "does not fit OrderPlaced" in letter.error
    assert b'{"order_id":"seven"}' == letter.record.data  # type: ignore[union-attr]  # events, as the test knows
    assert 1 == letter.attempts


async def test_plain_functions_run_in_threads_at_the_same_time(bus: EventBus) -> None:
    both = threading.Barrier(2, timeout=10)

    @bus.on("t")
    def handle(event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        both.wait()

    await bus.publish_many("t", source="s", data=[1, 2])
    await bus.run(until_idle=True)

    assert [] == await bus.dead_letters("t")


async def test_batches_are_lists_and_one_bad_event_does_not_spoil_its_neighbours(bus: EventBus) -> None:
    sizes: list[int] = []

    @bus.on("t", group="g", batch=50, concurrency=1, retry=QUICK)
    async def handle(events: list[Event]) -> None:
        sizes.append(len(events))
        if any(event.data == 7 for event in events):
            raise ValueError("seven")

    await bus.publish_many("t", source="s", data=range(100))
    await bus.run(until_idle=True)

    assert 50 == max(sizes)
    (letter,) = await bus.dead_letters("t")
    assert b"7" == letter.record.data  # type: ignore[union-attr]  # events, as the test knows


async def test_events_of_a_key_keep_their_order_while_other_keys_go_on(bus: EventBus) -> None:
    """Row G5 of docs/faults.md."""
    seen: list[tuple[str, int]] = []

    @bus.on("t", ordered=True, retry=Retry(attempts=100_000, base=0.005, cap=0.005))
    async def handle(event: Event) -> None:
        if event.key == "slow" and sum(key != "slow" for key, _ in seen) < 40:
            raise ConnectionError
        await asyncio.sleep(0)
        seen.append((str(event.key), event.data))

    keys = ["slow", "a", "b"]
    await bus.publish_many("t", source="s", data=[n for n in range(20) for _ in keys], keys=keys * 20)
    await bus.run(until_idle=True)

    for key in keys:
        assert list(range(20)) == [n for k, n in seen if k == key]
    assert 40 == seen.index(("slow", 0))


async def test_an_event_published_twice_is_handled_once_with_dedup(bus: EventBus) -> None:
    seen: list[str] = []
    skipped: list[Any] = []
    bus.signals.listen(skipped.append, Skipped)

    @bus.on("t", group="g", dedup=True)
    async def handle(event: Event) -> None:
        seen.append(event.id)

    await bus.publish("t", source="s", id="one")
    await bus.run(until_idle=True)
    await bus.replay("t", group="g")
    await bus.run(until_idle=True)

    assert ["one"] == seen
    assert 1 == len(skipped)
