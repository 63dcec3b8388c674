"""The promise of ordered readers: one consumer at a time, and nothing new while an earlier entry waits."""

from __future__ import annotations

import pytest

from forebay.store import Reader, Store
from forebay.testing.contract.base import GROUP, HOUR, STREAM, A, Contract, claimed, numbers, orders
from forebay.testing.waiting import eventually

FIRST = Reader(STREAM, GROUP, "worker-a", ordered=True)
SECOND = Reader(STREAM, GROUP, "worker-b", ordered=True)


class OrderedContract(Contract):
    """Ordered groups."""

    async def test_an_ordered_group_reads_with_one_consumer_at_a_time(self, store: Store, other: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3))
        held = await store.read(FIRST, limit=1)
        held += await store.read(FIRST, limit=1)
        assert [1, 2] == numbers(held)

        assert [] == await store.read(SECOND, limit=10)
        assert [] == await other.read(SECOND, limit=10, wait=0.05)
        assert [] == await claimed(other, SECOND, idle=HOUR)
        await store.ack(held)

        assert [3] == numbers(await other.read(SECOND, limit=10))

    async def test_an_ordered_group_is_taken_over_once_all_leases_have_run_out(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        await store.read(FIRST, limit=2)

        taken = await store.claim(SECOND, idle=0.0, limit=1)

        assert [1] == numbers(taken)
        assert [] == await store.read(SECOND, limit=1)

    async def test_a_claim_of_an_ordered_group_includes_released_entries_in_their_order(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3, 4))
        await store.release((await store.read(FIRST, limit=4))[:3:2])

        taken = await store.claim(SECOND, idle=0.0, limit=4)

        assert [1, 2, 3, 4] == numbers(taken)
        assert [(1, False), (2, True), (1, False), (2, True)] == [(t.attempt, t.recovered) for t in taken]

    async def test_an_ordered_group_is_not_taken_over_while_one_lease_is_renewed(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        _, second = await store.read(FIRST, limit=2)

        async def silent() -> bool:
            return all(p.idle is not None and p.idle >= 0.6 for p in await store.pending(STREAM, GROUP))

        await eventually(silent)
        await store.extend([second])

        assert [] == await store.claim(SECOND, idle=0.5, limit=10)

    async def test_retries_of_an_ordered_group_wait_until_no_other_consumer_holds_an_entry(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        first, second = await store.read(FIRST, limit=2)
        await store.retry(first, delay=0.0)

        assert [] == await store.take_due(SECOND, limit=10)
        await store.ack([second])
        assert [1] == numbers(await store.take_due(SECOND, limit=10))

    @pytest.mark.parametrize("given_back", ["retried", "released"])
    async def test_an_ordered_group_reads_nothing_new_while_an_earlier_entry_waits(
        self, store: Store, other: Store, given_back: str
    ) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        [held] = await store.read(FIRST, limit=1)
        await (store.retry(held, delay=HOUR) if given_back == "retried" else store.release([held]))

        for reader in (FIRST, SECOND):
            assert [] == await store.read(reader, limit=10)
            assert [] == await other.read(reader, limit=10, wait=0.05)
        assert [2] == numbers(await store.read(A, limit=10)), "a reader that is not ordered reads on"

    async def test_an_ordered_group_reads_on_once_the_entry_that_waited_is_done(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        await store.retry((await store.read(FIRST, limit=1))[0], delay=0.0)
        [again] = await store.take_due(SECOND, limit=1)

        assert [] == await store.read(FIRST, limit=10)
        assert 1 == await store.ack([again])

        assert [2] == numbers(await store.read(FIRST, limit=10))

    async def test_an_ordered_consumer_reads_on_beside_an_entry_that_it_repeats_itself(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        [held] = await store.read(FIRST, limit=1)
        assert await store.retry(held, delay=HOUR, keep=True)

        assert [] == await store.read(SECOND, limit=10)
        assert [2] == numbers(await store.read(FIRST, limit=10))

    async def test_an_ordered_reader_takes_due_entries_oldest_first(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3))
        first, second, third = await store.read(FIRST, limit=3)
        await store.retry(third, delay=0.0)
        await store.retry(first, delay=0.0)
        await store.retry(second, delay=0.0)

        assert [[1, 2], [3]] == [numbers(await store.take_due(FIRST, limit=2)) for _ in range(2)]

    async def test_a_dead_letter_lets_an_ordered_group_go_on(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        [held] = await store.read(FIRST, limit=1)

        assert await store.dead_letter(held, reason="no")

        assert [2] == numbers(await store.read(SECOND, limit=10))
