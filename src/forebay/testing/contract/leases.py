"""The promises of `Leases` about taking entries: join, seek, leave, read, claim."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from forebay.errors import NotFound
from forebay.event import Record
from forebay.store import END, START, Delivery, Reader, Store
from forebay.testing.contract.base import (
    GROUP,
    HOUR,
    LOOKS,
    MAIL,
    STREAM,
    A,
    B,
    Contract,
    Plant,
    begun,
    claimed,
    numbers,
    orders,
    planted,
)
from forebay.testing.waiting import eventually

LONG = 30.0
"""Seconds that a read may wait; a test that used them up would be too slow to pass."""


class LeasesContract(Contract):
    """Groups, reading, and taking over."""

    # Groups.

    async def test_a_group_is_made_once_and_joining_again_changes_nothing(self, store: Store) -> None:
        await store.append(STREAM, orders(1))

        assert await store.join(STREAM, GROUP)
        assert not await store.join(STREAM, GROUP, start=END)
        assert [1] == numbers(await store.read(A, limit=10))

    async def test_a_group_starts_at_the_given_position(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2, 3))
        for group, start in (("all", START), ("some", positions[1]), ("new", END)):
            await store.join(STREAM, group, start=start)
        await store.append(STREAM, orders(4))

        found = {group: await store.read(Reader(STREAM, group, "c"), limit=10) for group in ("all", "some", "new")}

        assert {"all": [1, 2, 3, 4], "some": [3, 4], "new": [4]} == {name: numbers(d) for name, d in found.items()}

    async def test_a_group_may_be_made_before_its_stream(self, store: Store) -> None:
        await store.join(STREAM, GROUP, start=END)
        await store.append(STREAM, orders(1))
        assert [1] == numbers(await store.read(A, limit=10))

    async def test_groups_that_race_to_join_are_made_once(self, store: Store, other: Store) -> None:
        made = await asyncio.gather(*(each.join(STREAM, GROUP) for each in [store, other] * 3))
        assert 1 == sum(made)

    async def test_a_group_that_seeks_back_reads_again(self, store: Store) -> None:
        deliveries = await begun(store, A, 3)
        await store.ack(deliveries)

        await store.seek(STREAM, GROUP, deliveries[0].position)

        assert [2, 3] == numbers(await store.read(A, limit=10))

    async def test_a_group_that_seeks_the_end_skips_its_unread_entries(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        await store.seek(STREAM, GROUP, END)
        await store.append(STREAM, orders(3))
        assert [3] == numbers(await store.read(A, limit=10))

    async def test_a_seek_makes_pending_entries_after_the_position_unread_again(self, store: Store) -> None:
        first, second, third = await begun(store, A, 3)
        await store.retry(third, delay=HOUR)

        await store.seek(STREAM, GROUP, first.position)

        assert [first] == await store.extend([first, second])
        assert [(2, 1, 0), (3, 1, 0)] == [
            (number, delivery.attempt, delivery.failures)
            for delivery in await store.read(B, limit=10)
            for number in numbers([delivery])
        ]
        assert {"worker-a": 1, "worker-b": 2} == Counter(p.consumer for p in await store.pending(STREAM, GROUP))

    async def test_pending_entries_stay_when_the_group_seeks_the_end(self, store: Store) -> None:
        waiting, _ = await begun(store, A, 2)
        await store.retry(waiting, delay=HOUR)

        await store.seek(STREAM, GROUP, END)

        assert [] == await store.read(B, limit=10)
        assert [(None, 1), ("worker-a", 0)] == [(p.consumer, p.failures) for p in await store.pending(STREAM, GROUP)]

    async def test_a_group_that_leaves_loses_its_leases_and_starts_again(self, store: Store) -> None:
        first, second, third = await begun(store, A, 3)
        await store.retry(first, delay=HOUR)
        await store.dead_letter(second, reason="no")

        await store.leave(STREAM, GROUP)

        with pytest.raises(NotFound):
            await store.read(A, limit=10)
        assert [GROUP] == [letter.group for letter in await store.dead_letters(STREAM)]
        assert 0 == await store.ack([third])
        with pytest.raises(NotFound):
            await store.retry(third, delay=0)
        with pytest.raises(NotFound):
            await store.dead_letter(third, reason="no")
        assert await store.join(STREAM, GROUP)
        again = await store.read(A, limit=10)
        assert [(1, 0)] * 3 == [(delivery.attempt, delivery.failures) for delivery in again]

    async def test_leaving_a_group_that_does_not_exist_does_nothing(self, store: Store) -> None:
        await store.leave(STREAM, GROUP)
        await store.append(STREAM, orders(1))
        await store.leave(STREAM, GROUP)
        assert [1] == numbers(await store.scan(STREAM))

    # Read.

    async def test_a_read_leases_in_order_up_to_its_limit(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        positions = await store.append(STREAM, orders(1, 2, 3))

        first = await store.read(A, limit=2)
        second = await store.read(A, limit=2)

        assert ([1, 2], [3], []) == (numbers(first), numbers(second), await store.read(A, limit=2))
        assert positions == [delivery.position for delivery in first + second]
        assert Delivery(A, positions[0], first[0].record, lease=first[0].lease) == first[0]

    async def test_each_group_reads_everything(self, store: Store) -> None:
        await begun(store, A, 3)
        await store.join(STREAM, "mail")
        assert [1, 2, 3] == numbers(await store.read(MAIL, limit=10))

    async def test_within_a_group_an_entry_is_read_by_one_consumer(self, store: Store, other: Store) -> None:
        await begun(store, A, 3)
        assert [] == await store.read(B, limit=10)
        assert [] == await other.read(B, limit=10)

    async def test_a_read_skips_entries_for_another_group(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail")
        for_mail = [msgspec.structs.replace(record, only_group="mail") for record in orders(*range(20))]
        await store.append(STREAM, [*for_mail, *orders(99)])

        assert [99] == numbers(await store.read(A, limit=5))
        assert [*range(20), 99] == numbers(await store.read(MAIL, limit=50))
        assert 1 == len(await store.pending(STREAM, GROUP))

    async def test_a_foreign_entry_is_delivered_to_every_group_byte_for_byte(self, store: Store, plant: Plant) -> None:
        foreign = await planted(plant)
        for reader in (A, MAIL):
            await store.join(STREAM, reader.group)
            assert [foreign] == [delivery.record for delivery in await store.read(reader, limit=10)]

    async def test_a_read_that_finds_nothing_returns_when_its_wait_is_over(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        clock = asyncio.get_running_loop().time
        began = clock()
        assert [] == await store.read(A, limit=1, wait=0.1)
        assert 0.09 <= clock() - began < LONG / 2

    async def test_an_append_wakes_a_read_that_waits(self, store: Store, other: Store) -> None:
        await store.join(STREAM, GROUP)
        for number, writer in enumerate((store, other)):
            async with asyncio.timeout(LONG / 2), asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(store.read(A, limit=10, wait=LONG))
                await asyncio.sleep(0)
                await writer.append(STREAM, orders(number))
            assert [number] == numbers(waiting.result())

    async def test_one_read_waits_while_others_read_and_settle(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.join("order_paid", GROUP)
        async with asyncio.timeout(LONG / 2), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(store.read(Reader("order_paid", GROUP, "c"), limit=1, wait=LONG))
            await asyncio.sleep(0)
            assert 1 == await store.ack([held])
            await store.append("order_paid", orders(5))
        assert [5] == numbers(waiting.result())

    async def test_a_twin_on_another_loop_and_thread_shares_the_state(self, store: Store) -> None:
        held = await begun(store, A, 2)

        async def elsewhere() -> list[Delivery]:
            async with store.clone() as clone:
                await clone.append(STREAM, orders(3))
                return await clone.extend(held)

        async with asyncio.timeout(LONG / 2), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(store.read(B, limit=10, wait=LONG))
            extended = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

        assert [3] == numbers(waiting.result())
        assert held == extended

    async def test_of_many_consumers_at_once_each_entry_has_one(self, store: Store, other: Store) -> None:
        await store.join(STREAM, GROUP)
        for first in range(0, 2000, 500):
            await store.append(STREAM, orders(*range(first, first + 500)))

        async def consume(using: Store, name: str) -> list[int]:
            found: list[int] = []
            while deliveries := await using.read(Reader(STREAM, GROUP, name), limit=50):
                found += numbers(deliveries)
                assert len(deliveries) == await using.ack(deliveries)
            return found

        consumers = [consume(each, f"worker-{number}") for number, each in enumerate([store, other] * 4)]
        shares = await asyncio.gather(*consumers)

        assert list(range(2000)) == sorted(number for share in shares for number in share)
        assert all(share == sorted(share) for share in shares)
        assert [] == await store.pending(STREAM, GROUP)

    # Claim.

    async def test_the_entries_of_a_silent_consumer_are_claimed_oldest_first(self, store: Store) -> None:
        await begun(store, A, 3)

        first = await store.claim(B, idle=0.0, limit=2)

        assert [(1, 2, 0, True), (2, 2, 0, True)] == [
            (int(d.record.data), d.attempt, d.failures, d.recovered) for d in first if isinstance(d.record, Record)
        ]
        assert {B} == {delivery.reader for delivery in first}

    async def test_a_bounded_number_of_claims_sees_everything(self, store: Store) -> None:
        await begun(store, A, 12)
        found: list[int] = []
        for _ in range(12 * LOOKS):
            taken = await store.claim(B, idle=0.0)
            found += numbers(taken)
            await store.ack(taken)
        assert list(range(1, 13)) == sorted(found)

    async def test_a_group_begins_at_the_end_if_its_position_is_after_the_last_entry(self, store: Store) -> None:
        [_, last] = await store.append(STREAM, orders(1, 2))
        beyond = f"9{last}"

        await store.join(STREAM, GROUP, start=beyond)
        await store.join("another", GROUP, start=beyond)
        await store.append(STREAM, orders(3))
        await store.append("another", orders(4))
        assert [3] == numbers(await store.read(A, limit=10))
        assert [4] == numbers(await store.read(Reader("another", GROUP, "worker"), limit=10))

        await store.seek(STREAM, GROUP, beyond)
        await store.append(STREAM, orders(5))
        assert [5] == numbers(await store.read(A, limit=10))

    async def test_a_lease_that_has_not_expired_is_not_claimed(self, store: Store) -> None:
        held = await begun(store, A, 2)
        assert [] == await claimed(store, B, idle=HOUR)
        assert held == await store.extend(held)

    async def test_a_renewed_lease_is_not_taken_over(self, store: Store) -> None:
        first, second = await begun(store, A, 2)

        async def silent() -> bool:
            return all(p.idle is not None and p.idle >= 0.6 for p in await store.pending(STREAM, GROUP))

        await eventually(silent)
        assert [second] == await store.extend([second])

        assert [1] == numbers(await claimed(store, B, idle=0.5, limit=1))
        assert [(first.position, "worker-b"), (second.position, "worker-a")] == [
            (pending.position, pending.consumer) for pending in await store.pending(STREAM, GROUP)
        ]

    async def test_each_claim_of_an_entry_counts_as_a_delivery(self, store: Store) -> None:
        await begun(store, A, 1)
        [second] = await store.claim(B, idle=0.0)
        [third] = await claimed(store, A)
        assert [2, 3] == [second.attempt, third.attempt]

    async def test_an_entry_that_waits_for_its_retry_is_not_claimed(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=HOUR)
        assert [] == await claimed(store, B)

    async def test_an_entry_that_left_its_stream_is_delivered_without_its_record(self, store: Store) -> None:
        await begun(store, A, 2)
        await store.trim(STREAM, max_length=0, force=True)

        gone = await claimed(store, B)

        assert [None, None] == [delivery.record for delivery in gone]
        assert 2 == await store.ack(gone)
        assert [] == await store.pending(STREAM, GROUP)

    async def test_of_two_claims_at_once_one_gets_each_entry(self, store: Store, other: Store) -> None:
        await begun(store, A, 10)

        async def silent() -> bool:
            return all(p.idle is not None and p.idle >= 0.6 for p in await store.pending(STREAM, GROUP))

        await eventually(silent)
        claims = []
        for _ in range(LOOKS):
            claims += [
                store.claim(B, idle=0.5, limit=3),
                other.claim(msgspec.structs.replace(B, consumer="c"), idle=0.5),
            ]
        found = [number for share in await asyncio.gather(*claims) for number in numbers(share)]

        assert list(range(1, 11)) == sorted(found)
