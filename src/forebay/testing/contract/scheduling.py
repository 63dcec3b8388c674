"""The promise of `append_due`: scheduled records are appended in the order of their times, and need no consumer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from forebay.store import Store
from forebay.testing.contract.base import GROUP, HOUR, STREAM, A, Contract, begun, numbers, order, orders
from forebay.testing.waiting import eventually


class SchedulingContract(Contract):
    """Scheduled records that come due."""

    async def test_due_events_are_appended_without_a_group(self, store: Store, other: Store) -> None:
        await store.schedule(STREAM, orders(1, 2), delay=0.0)
        await store.schedule(STREAM, orders(3), delay=HOUR)

        assert [2, 0] == [await other.append_due(STREAM), await store.append_due(STREAM)]

        assert [1, 2] == numbers(await store.scan(STREAM))
        assert [] == await store.groups(STREAM)

    async def test_one_call_appends_up_to_its_limit_the_first_ones_first(self, store: Store) -> None:
        now = datetime.now(UTC)
        await store.schedule(STREAM, orders(4), at=now + timedelta(seconds=1.0))
        await store.schedule(STREAM, orders(3), delay=0.6)
        await store.schedule(STREAM, orders(2), at=now + timedelta(seconds=0.5))
        await store.schedule(STREAM, orders(1), delay=0.0)

        await eventually(lambda: _are_due(store))

        found = []
        for count in (1, 2, 1, 0):
            assert count == await store.append_due(STREAM, limit=min(count, 2) or 1)
            found.append(numbers(await store.scan(STREAM)))
        assert [[1], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]] == found
        assert 0 == await store.append_due(STREAM, limit=0)

    async def test_five_hundred_are_appended_in_one_call_unless_the_limit_says_otherwise(self, store: Store) -> None:
        for first in (0, 301):
            await store.schedule(STREAM, orders(*range(first, first + 301)), delay=0.0)

        await eventually(lambda: _are_due(store))

        assert [500, 2, 100, 0] == [
            await store.append_due(STREAM),
            await store.append_due(STREAM, limit=2),
            await store.append_due(STREAM, limit=1000),
            await store.append_due(STREAM),
        ]
        assert list(range(602)) == sorted(numbers(await store.scan(STREAM, limit=1000)))

    async def test_two_callers_of_append_due_append_each_record_once(self, store: Store, other: Store) -> None:
        await store.schedule(STREAM, orders(*range(40)), delay=0.0)

        counts = await asyncio.gather(*(each.append_due(STREAM, limit=15) for each in [store, other] * 2))

        assert 40 == sum(counts)
        assert list(range(40)) == sorted(numbers(await store.scan(STREAM)))

    async def test_taking_waiting_entries_appends_nothing(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=0.0)
        await store.schedule(STREAM, orders(2), delay=0.0)

        assert [1] == numbers(await store.take_due(A, limit=10))

        assert [1] == [stats.scheduled for stats in await store.stats()]
        assert [1] == numbers(await store.scan(STREAM))

    async def test_a_record_for_one_group_is_appended_for_that_group(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.schedule(STREAM, [order(1, id="a", key="k")], delay=0.0)

        assert 1 == await store.append_due(STREAM)

        [delivery] = await store.read(A, limit=10)
        assert order(1, id="a", key="k").data == getattr(delivery.record, "data", None)


async def _are_due(store: Store) -> bool:
    """Whether all scheduled records have been due for a while: a store in another process has a clock of its own."""
    return max([each.delay for each in await store.scheduled(STREAM, limit=1000)]) < -0.05
