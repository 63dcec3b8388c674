"""The promise of `arrivals`: a store reports the streams that grow, by any program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime

import pytest

from forebay.errors import StoreError
from forebay.store import Entry, Store
from forebay.testing.contract.base import GROUP, STREAM, A, Contract, begun, numbers, order, orders

LONG = 30.0
"""Seconds within which an arrival must be reported."""


class ArrivalsContract(Contract):
    """Reports of streams that grow."""

    @pytest.fixture
    async def arrivals(self, store: Store, can_watch: bool) -> AsyncIterator[AsyncGenerator[str | None, None]]:
        """An iteration that has begun: its first item has come."""
        if not can_watch:
            with pytest.raises(StoreError):
                await anext(store.arrivals())
            pytest.skip("the store says that it cannot watch")
        async with contextlib.aclosing(store.arrivals()) as arrivals:
            assert None is await _next(arrivals)
            yield arrivals

    async def test_the_first_item_is_that_any_stream_may_have_grown(
        self, store: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        await store.append(STREAM, orders(1))
        await _reports(arrivals, STREAM)

    async def test_streams_are_named_that_another_store_object_appends_to(
        self, other: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        for stream in (STREAM, "order_paid", STREAM):
            await other.append(stream, orders(1))
            await _reports(arrivals, stream)

    async def test_several_streams_that_grow_at_once_are_all_named(
        self, store: Store, other: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        streams = [f"stream_{number}" for number in range(20)]
        await asyncio.gather(
            *(each.append(stream, orders(1)) for stream in streams[::2] for each in (store, other)),
            *(store.append(stream, orders(1, 2)) for stream in streams[1::2]),
        )
        await _reports(arrivals, *streams)

    async def test_every_move_that_adds_entries_to_a_stream_is_reported(
        self, store: Store, other: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        [dead] = await begun(store, A, 1)
        await store.dead_letter(dead, reason="no")
        [letter] = await store.dead_letters(STREAM)
        await store.schedule("scheduled", orders(1), delay=0.0)
        await _reports(arrivals, STREAM)

        assert 1 == await other.append_due("scheduled")
        await _reports(arrivals, "scheduled")
        await other.append("identified", [order(1, id="a")], dedup_window=60)
        await _reports(arrivals, "identified")
        await other.schedule("at_once", orders(1), at=datetime(2020, 1, 1, tzinfo=UTC))
        await _reports(arrivals, "at_once")
        await other.restore("restored", [Entry("", order(1), 0.0)])
        await _reports(arrivals, "restored")
        assert 1 == await other.redrive(STREAM, [letter.id])
        await _reports(arrivals, STREAM)

    async def test_entries_appended_before_the_first_item_are_found_by_a_read(
        self, store: Store, can_watch: bool
    ) -> None:
        if not can_watch:
            return
        await store.join(STREAM, GROUP)
        async with contextlib.aclosing(store.arrivals()) as arrivals:
            watching = asyncio.ensure_future(anext(arrivals))
            await store.append(STREAM, orders(1))
            assert None is await asyncio.wait_for(watching, LONG)
            assert [1] == numbers(await store.read(A, limit=10))

    async def test_an_iteration_that_was_cancelled_may_be_followed_by_another(
        self, store: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        waiting = asyncio.ensure_future(anext(arrivals))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await arrivals.aclose()

        async with contextlib.aclosing(store.arrivals()) as again:
            assert None is await _next(again)
            await store.append(STREAM, orders(1))
            await _reports(again, STREAM)

    async def test_each_store_object_may_watch(
        self, store: Store, other: Store, arrivals: AsyncGenerator[str | None, None]
    ) -> None:
        async with contextlib.aclosing(other.arrivals()) as others:
            assert None is await _next(others)
            await store.append(STREAM, orders(1))
            await _reports(others, STREAM)
            await _reports(arrivals, STREAM)


async def _next(arrivals: AsyncGenerator[str | None, None]) -> str | None:
    return await asyncio.wait_for(anext(arrivals), LONG)


async def _reports(arrivals: AsyncGenerator[str | None, None], *streams: str) -> None:
    """Wait until all of these streams are reported. Others may be: names may come without cause."""
    missing = set(streams)
    while missing:
        name = await _next(arrivals)
        # None stands for all streams.
        missing = set() if name is None else missing - {name}
