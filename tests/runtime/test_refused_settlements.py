"""A store that refuses to settle events for longer than a lease makes no consumer look dead."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from forebay import Event, EventBus, Reject, Retry, StoreFull
from forebay.signals import LeaseLost, Recovered
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually

LEASE = 0.5
ALWAYS = 1_000_000


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        ("ack", {}),
        ("ack", {"ordered": True}),
        ("retry", {"dedup": True}),
        ("retry", {"ordered": True}),
        ("dead_letter", {}),
        ("dead_letter", {"dedup": True}),
    ],
    ids=str,
)
async def test_a_handled_event_stays_with_its_consumer_until_the_store_takes_the_outcome(
    outcome: str, options: dict[str, Any]
) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner)
    handled, signals = Counter[int](), list[object]()

    async def handle(event: Event) -> None:
        handled[event.data] += 1
        if handled[event.data] == 1 and outcome == "retry":
            raise ValueError
        if outcome == "dead_letter":
            raise Reject

    async with EventBus(store) as bus, EventBus(inner.clone()) as other:
        for each in (bus, other):
            each.signals.listen(signals.append, Recovered, LeaseLost)
            retry = Retry(attempts=2, base=0.001)
            each.on("t", group="g", lease=LEASE, retry=retry, **options)(handle)
        await bus.publish_many("t", source="s", data=range(3))
        store.fail_before(outcome, StoreFull("no room"), times=ALWAYS)  # type: ignore[arg-type]  # one of its moves
        runs = [asyncio.create_task(bus.run())]
        await eventually(lambda: len(handled) == (1 if "ordered" in options and outcome != "ack" else 3))
        runs.append(asyncio.create_task(other.run()))

        # Time must pass here: several leases, in which nothing may happen.
        await asyncio.sleep(3 * LEASE)
        before = dict(handled)
        store.mend()

        async def is_settled() -> bool:
            [stats] = await bus.stats("t")
            return not stats.groups[0].pending and not stats.groups[0].lag

        await eventually(is_settled)
        dead = await bus.dead_letters("t")
        for each in (bus, other):
            each.stop()
        await asyncio.gather(*runs)

    assert [] == signals
    assert {1} == set(before.values())
    assert {2 if outcome == "retry" else 1} == set(handled.values())
    assert (3 if outcome == "dead_letter" else 0) == len(dead)
