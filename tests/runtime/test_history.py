"""A bus reads a stream's history."""

from __future__ import annotations

from forebay import EventBus
from forebay.store import Reader
from forebay.stores.memory import MemoryStore
from tests.support.foreign import plant


async def test_a_history_leaves_out_the_copy_for_one_group_of_an_entry_that_is_not_an_event() -> None:
    async with MemoryStore() as store, EventBus(store) as bus:
        await plant(store, "t", [(b"a", b"1")])
        await store.join("t", "g")
        [held] = await store.read(Reader("t", "g", "consumer"), limit=1)
        await store.dead_letter(held, reason="no event")
        await bus.redrive("t")

        found = [each.position async for each in bus.events("t")]

        assert ["1"] == found
        assert 2 == len(await store.scan("t"))
