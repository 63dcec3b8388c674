"""The promise of `trimmed_unread`: an entry that left a stream unread is counted once, for each group that lost it."""

from __future__ import annotations

import msgspec

from forebay.store import Reader, Store
from forebay.testing.contract.base import GROUP, MAIL, STREAM, A, Contract, numbers, order, orders


class TrimmedUnreadContract(Contract):
    """What left the stream before a group had read it."""

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

    async def test_an_id_is_published_and_handled_again_after_its_dead_letter_was_discarded(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a"), order(2, id="b")], dedup_window=60)
        for held in await store.read(A, limit=2):
            await store.ack(
                [msgspec.structs.replace(held, position="0-0" if "-" in held.position else "0")], remember=60
            )
            await store.dead_letter(held, reason="r")
        first, _ = await store.dead_letters(STREAM)

        assert 1 == await store.discard(STREAM, [first.id])

        assert {"b"} == await store.handled(STREAM, GROUP, ["a", "b"])
        await store.append(STREAM, [order(3, id="a"), order(4, id="b")], dedup_window=60)
        assert [3] == numbers(await store.read(A, limit=10))
        await store.append(STREAM, [order(5, id="a")], dedup_window=60)
        assert [] == await store.read(Reader(STREAM, GROUP, "other"), limit=10)

    async def test_discarding_keeps_the_id_of_a_scheduled_event(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a")])
        [held] = await store.read(A, limit=1)
        await store.dead_letter(held, reason="r")
        await store.schedule(STREAM, [order(2, id="a")], delay=3600, dedup_window=7200)

        await store.discard(STREAM, [letter.id for letter in await store.dead_letters(STREAM)])

        await store.append(STREAM, [order(3, id="a")], dedup_window=60)
        assert [] == await store.read(A, limit=10)
