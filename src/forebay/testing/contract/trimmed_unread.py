"""The promise of `trimmed_unread`: an entry that left a stream unread is counted once, for each group that lost it."""

from __future__ import annotations

from forebay.store import Store
from forebay.testing.contract.base import GROUP, MAIL, STREAM, A, Contract, numbers, orders


class TrimmedUnreadContract(Contract):
    """Entries that left the stream before a group read them."""

    async def test_entries_that_a_trim_removed_unread_are_counted_once(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3, 4, 5))

        await store.trim(STREAM, max_length=2, force=True)

        assert [3, 0] == [await store.trimmed_unread(STREAM, GROUP), await store.trimmed_unread(STREAM, GROUP)]
        assert [4, 5] == numbers(await store.read(A, limit=10))

    async def test_trimmed_entries_are_counted_also_after_the_group_has_read_on(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3, 4, 5))
        await store.trim(STREAM, max_length=3, force=True)
        assert [3] == numbers(await store.read(A, limit=1))
        await store.trim(STREAM, max_length=1, force=True)
        await store.append(STREAM, orders(6))
        assert [5, 6] == numbers(await store.read(A, limit=10))

        assert [3, 0] == [await store.trimmed_unread(STREAM, GROUP), await store.trimmed_unread(STREAM, GROUP)]

    async def test_several_trims_add_up(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        for _ in range(3):
            await store.append(STREAM, orders(1, 2))
            await store.trim(STREAM, max_length=0, force=True)

        assert 6 == await store.trimmed_unread(STREAM, GROUP)

    async def test_each_group_counts_the_entries_that_it_had_not_read(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail")
        await store.append(STREAM, orders(1, 2, 3))
        await store.ack(await store.read(MAIL, limit=2))

        await store.trim(STREAM, max_length=0, force=True)

        assert [3, 1] == [await store.trimmed_unread(STREAM, GROUP), await store.trimmed_unread(STREAM, "mail")]

    async def test_a_trim_past_a_group_is_counted_for_that_group(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3))

        await store.trim(STREAM, max_length=1, ignore_groups=[GROUP])

        assert 2 == await store.trimmed_unread(STREAM, GROUP)

    async def test_pending_and_finished_entries_are_not_counted(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3))
        done, _, _ = await store.read(A, limit=3)
        await store.ack([done])

        await store.trim(STREAM, max_length=0, force=True)

        assert 0 == await store.trimmed_unread(STREAM, GROUP)

    async def test_entries_that_left_before_a_group_began_are_not_counted(self, store: Store) -> None:
        await store.append(STREAM, orders(1, 2, 3))
        await store.trim(STREAM, max_length=1)
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail", start="$")
        await store.trim(STREAM, max_length=0, force=True)

        assert [1, 0] == [await store.trimmed_unread(STREAM, GROUP), await store.trimmed_unread(STREAM, "mail")]

    async def test_a_stream_or_group_that_is_not_there_has_no_count(self, store: Store) -> None:
        assert await store.trimmed_unread(STREAM, GROUP) is None
        await store.append(STREAM, orders(1))
        assert await store.trimmed_unread(STREAM, GROUP) is None
