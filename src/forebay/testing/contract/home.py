"""The promise of a store to its event loop: it serves that one alone, and any other one after it was closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from forebay.errors import ConfigurationError
from forebay.store import Store
from forebay.testing.contract.base import GROUP, STREAM, A, Contract, numbers, orders

Use = Callable[[Store], Awaitable[object]]

USES: dict[str, Use] = {
    "append": lambda store: store.append(STREAM, orders(1)),
    "append several": lambda store: store.append(STREAM, orders(1, 2)),
    "schedule": lambda store: store.schedule(STREAM, orders(1), delay=60.0),
    "scan": lambda store: store.scan(STREAM),
    "trim": lambda store: store.trim(STREAM, max_length=0, force=True),
    "join": lambda store: store.join(STREAM, GROUP),
    "read": lambda store: store.read(A, limit=1),
    "take_due": lambda store: store.take_due(A, limit=1),
    "claim": lambda store: store.claim(A, idle=0.0),
    "dead_letters": lambda store: store.dead_letters(STREAM),
    "stats": lambda store: store.stats(),
    "durability": lambda store: store.durability(),
    "streams_with_notes": lambda store: store.streams_with_notes(),
    "set_note": lambda store: store.set_note(STREAM, "name", b"value"),
    "restore": lambda store: store.restore(STREAM, []),
    "drop": lambda store: store.drop(STREAM),
}


class HomeContract(Contract):
    """One event loop at a time."""

    @pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
    async def test_a_call_on_another_event_loop_is_refused_before_anything_is_done(
        self, store: Store, use: Use
    ) -> None:
        async def call() -> object:
            return await use(store)

        with pytest.raises(ConfigurationError):
            await asyncio.to_thread(asyncio.run, call())

        assert [] == await store.stats()
        assert {} == await store.notes(STREAM)

    async def test_a_store_that_was_closed_may_be_opened_on_another_event_loop(self, store: Store) -> None:
        clone = store.clone()
        async with clone:
            await clone.append(STREAM, orders(1))

        async def again() -> None:
            async with clone:
                await clone.append(STREAM, orders(2))

        await asyncio.to_thread(asyncio.run, again())

        assert [1, 2] == numbers(await store.scan(STREAM))

    async def test_a_cancelled_block_closes_the_store(self, store: Store) -> None:
        clone = store.clone()
        entered = asyncio.Event()

        async def hold() -> None:
            async with clone:
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task

        async with clone:
            assert [] == await clone.scan(STREAM)
