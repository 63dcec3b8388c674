"""The read-ahead of a consumer is bounded in bytes, not only in events."""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections.abc import Sequence
from typing import Any

import pytest

from forebay import Event, EventBus, Retry, RetryAfter
from forebay.event import Foreign, Record, to_record
from forebay.runtime.consumer import Consumer
from forebay.runtime.read_ahead import FIRST_EVENTS, READ_AHEAD_BYTES, READ_EVENTS, EventSizes
from forebay.store import Delivery, Reader
from forebay.testing import eventually
from tests.support.stores import dealt

LARGE = 500_000
MANY = 200
SOME = 2 * READ_AHEAD_BYTES // LARGE


class InHand:
    """The bytes that the one consumer of a group holds."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._consumer: Consumer | None = None

    def bytes(self) -> int:
        if self._consumer is None:
            found = (each for each in gc.get_objects() if isinstance(each, Consumer))
            self._consumer = next((each for each in found if each.groups[0][1] == self.group), None)
        held = self._consumer.leased.values() if self._consumer is not None else ()
        return sum(len(delivery.record.data) for delivery in held if isinstance(delivery.record, Record))


@pytest.fixture
def in_hand() -> InHand:
    return InHand(f"g{secrets.token_hex(4)}")


@dealt("options", {}, {"prefetch": 1500}, {"concurrency": 1}, {"ordered": True}, {}, {})
async def test_large_events_after_many_small_ones_are_not_all_read_ahead(
    bus: EventBus, in_hand: InHand, options: dict[str, Any]
) -> None:
    most, handled = 0, 0

    @bus.on("t", group=in_hand.group, **options)  # type: ignore[untyped-decorator]  # their batch is known at run time
    async def handle(event: Event) -> None:
        nonlocal most, handled
        handled += 1
        most = max(most, in_hand.bytes())

    await bus.publish_many("t", source="s", data=range(2000))
    for _ in range(MANY // 50):
        await bus.publish_many("t", source="s", data=["x" * LARGE] * 50)
    await bus.run(until_idle=True)

    assert 2000 + MANY == handled
    # On a store that cannot look at sizes beforehand, one read may come as a surprise.
    assert LARGE < most < READ_EVENTS * LARGE + READ_AHEAD_BYTES


async def test_large_events_alone_keep_to_the_bound_from_the_first_read(bus: EventBus, in_hand: InHand) -> None:
    """Row G4 of docs/faults.md."""
    most, handled = 0, 0

    @bus.on("t", group=in_hand.group)
    async def handle(event: Event) -> None:
        nonlocal most, handled
        handled += 1
        most = max(most, in_hand.bytes())
        await asyncio.sleep(0.001)

    for _ in range(SOME // 16):
        await bus.publish_many("t", source="s", data=["x" * LARGE] * 16)
    await bus.run(until_idle=True)

    assert SOME // 16 * 16 == handled
    assert most <= READ_AHEAD_BYTES + 2 * LARGE


async def test_large_events_that_wait_for_a_retry_come_back_a_few_at_a_time(bus: EventBus, in_hand: InHand) -> None:
    most, done = 0, 0
    go = asyncio.Event()

    @bus.on("t", group=in_hand.group, retry=Retry(attempts=2))
    async def handle(event: Event) -> None:
        nonlocal most, done
        if event.attempt == 1:
            raise RetryAfter(1.0)
        await go.wait()
        most = max(most, in_hand.bytes())
        done += 1

    await bus.publish_many("t", source="s", data=["x" * LARGE] * 16)
    await bus.publish_many("t", source="s", data=["x" * LARGE] * (SOME - 16))
    run = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: in_hand.bytes() >= 12 * LARGE, within=20)
    go.set()
    await run

    assert SOME == done
    assert most <= READ_AHEAD_BYTES + 2 * LARGE


async def test_every_worker_gets_an_event_however_large_they_are(bus: EventBus, in_hand: InHand) -> None:
    at_work, most = 0, 0
    full = asyncio.Event()

    @bus.on("t", group=in_hand.group, concurrency=24)
    async def handle(event: Event) -> None:
        nonlocal at_work, most
        at_work += 1
        if at_work == 24:
            full.set()
        await full.wait()
        at_work -= 1

    for _ in range(3):
        await bus.publish_many("t", source="s", data=["x" * 1_000_000] * 16)
    await bus.run(until_idle=True)

    assert full.is_set()


def test_the_mean_size_rises_at_once_and_falls_slowly() -> None:
    sizes = EventSizes()
    assert FIRST_EVENTS == sizes.fitting(1500, least=1)

    sizes.measure(_deliveries([b"1"] * 500))
    assert 1500 == sizes.fitting(1500, least=16)
    sizes.measure(_deliveries([b"x" * 2**20] * 10))
    assert 15 == sizes.fitting(1500, least=1)
    assert 64 == sizes.fitting(1500, least=64)
    sizes.measure(_deliveries([b"1"]))
    assert 15 <= sizes.fitting(1500, least=1) <= 18
    for _ in range(60):
        sizes.measure(_deliveries([b"1"] * 15))
    assert 1500 == sizes.fitting(1500, least=1)


def test_headers_and_foreign_fields_count_and_missing_entries_do_not() -> None:
    headers = to_record("t", source="s", data=1, headers={"h": "x" * 1_000_000})
    foreign = Foreign(((b"a", b"x" * 1_000_000),))
    for record in (headers, foreign):
        sizes = EventSizes()
        sizes.measure([Delivery(Reader("t", "g", "c"), "1", record)])
        assert 16 == sizes.fitting(1500, least=1)
    sizes = EventSizes()
    sizes.measure([Delivery(Reader("t", "g", "c"), "1", None)])
    assert 1500 == sizes.fitting(1500, least=1)


def _deliveries(texts: Sequence[bytes]) -> list[Delivery]:
    reader = Reader("t", "g", "c")
    return [Delivery(reader, str(place), Record("t", "s", text, "2026")) for place, text in enumerate(texts)]
